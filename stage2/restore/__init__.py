"""``python -m stage2.restore``: many pictures over any number of devices."""
