"""``python -m stage2.evaluate.degradation``: what it is worth to a model that it knows the degradation."""
