"""Stage 2: training on a frozen base, pre-training of the small base, and evaluation."""
