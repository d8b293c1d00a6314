"""DiT4SR (arXiv 2503.23580) and the ControlNet baseline on a frozen Stable Diffusion 3 transformer."""
