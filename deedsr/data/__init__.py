"""Photographs and pairs from disk."""
