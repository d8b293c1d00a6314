"""``python -m stage2.cache``: samples made once, with their latents, and training from them."""
