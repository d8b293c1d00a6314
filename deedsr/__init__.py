"""Restore real-world photographs with degradation-aware diffusion."""

__version__ = "0.1.0"
