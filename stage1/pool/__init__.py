"""``python -m stage1.pool``: degraded pairs made once, and training from them."""
