"""``python -m stage1.benchmark``: how fast stage 1 is, and its degradations beside basicsr's."""
