"""Running stages and chains of stages."""
