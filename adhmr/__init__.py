"""Diffusion-based human mesh recovery aligned by preference optimisation."""
