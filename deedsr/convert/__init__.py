"""The authors' checkpoints in our names, one key table per format."""
