"""The trainer, the interface of its tasks, checkpoints, averaging, tracking, signals and distribution."""
