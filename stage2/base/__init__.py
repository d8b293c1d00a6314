"""``python -m stage2.base``: pre-training of a small base, autoencoder and unconditional denoiser."""
