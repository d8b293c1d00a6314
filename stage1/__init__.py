"""Stage 1: training of the degradation learner."""
