"""ADHMR: preference alignment of diffusion-based human mesh recovery, at cluster scale."""

__version__ = "0.1.0"
