"""``python -m stage2.evaluate.benchmark suite=gpu``: everything that a GPU must show, in one table."""
