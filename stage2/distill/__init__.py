"""``python -m stage2.distill``: a trained model becomes one that needs few steps."""
