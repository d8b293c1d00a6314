"""Restore real-world photographs with degradation-aware diffusion."""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`Restorer`, imported when it is asked for: the command line's help needs no torch."""
    if name == "Restorer":
        from deedsr.restorer import Restorer

        return Restorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
