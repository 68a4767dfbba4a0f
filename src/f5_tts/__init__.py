"""F5-TTS with a Gaussian policy, trained further by reinforcement learning on one GPU (or none)."""

__version__ = "0.2.0"
