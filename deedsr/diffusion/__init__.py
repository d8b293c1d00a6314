"""Diffusion processes, samplers and noise guidance."""
