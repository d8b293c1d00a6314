"""``python -m stage2.evaluate`` and its neighbours: scores, sweeps, steps, learning curves, speed."""
