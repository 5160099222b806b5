"""The tasks that the trainer runs: base model, scorer, alignment."""
