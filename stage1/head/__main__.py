"""Fits the head of ``deedsr diagnose``: ``python -m stage1.head weights=encoder.safetensors data.roots=[PHOTOS]``."""

from deedsr.training.command import main

if __name__ == "__main__":
    main("stage1.head.fit:fit_and_judge", "head")
