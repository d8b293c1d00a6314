"""Captions of photographs, their embeddings, and reading them in training."""
