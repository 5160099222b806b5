"""The learning rate as a pure function of the step, so that resuming needs no scheduler state."""

import math

from torch.optim import Optimizer

from adhmr.config.training import OptimConfig


def learning_rate_factor(config: OptimConfig, total_steps: int, step: int) -> float:
    """What the base lr is multiplied by in step `step` (0-based): linear warm-up, then constant, cosine or steps."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "cosine":
        progress = (step - config.warmup_steps) / max(total_steps - config.warmup_steps, 1)
        return config.min_lr_ratio + (1 - config.min_lr_ratio) * (1 + math.cos(math.pi * min(progress, 1))) / 2
    if config.schedule == "step":
        return config.gamma ** sum(step >= milestone for milestone in config.milestones)
    return 1.0


def set_learning_rate(optimizer: Optimizer, config: OptimConfig, total_steps: int, step: int) -> float:
    """Writes lr x lr_scale x factor(step) into every group; returns the lr of a group with lr_scale 1."""
    lr = config.lr * learning_rate_factor(config, total_steps, step)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    return lr
