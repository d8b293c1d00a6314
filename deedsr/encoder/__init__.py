"""The degradation learner: its network, its contrastive training objective and the probes that test its vector."""

from deedsr.encoder.network import DegradationEncoder

__all__ = ["DegradationEncoder"]
