"""How a task is trained: optimizer, length, precision, checkpoints, tracking, processes. Data and models: elsewhere."""

from typing import Literal

from pydantic import Field

from adhmr.config.base import StrictModel


class OptimConfig(StrictModel):
    """AdamW and its learning-rate schedule (`adhmr.training.schedule`)."""

    lr: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    clip_norm: float | None = Field(1.0, gt=0)  # global gradient norm; null: no clipping
    schedule: Literal["constant", "cosine", "step"] = "constant"
    warmup_steps: int = Field(0, ge=0)  # linear, before any schedule
    milestones: list[int] = Field(default_factory=list)  # schedule "step": lr times gamma at each
    gamma: float = Field(0.1, gt=0)
    min_lr_ratio: float = Field(0.0, ge=0, le=1)  # schedule "cosine": the last lr as a share of lr


class TrainConfig(StrictModel):
    """Length, batch, precision, and how often to log, save and evaluate (all counted in optimizer steps)."""

    steps: int = Field(gt=0)
    global_batch: int = Field(gt=0)  # samples an optimizer step, over all ranks and micro-steps; data.phases change it
    micro_batch: int | None = Field(None, gt=0)  # samples a forward pass of one rank; null: global_batch / ranks
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast, the weights stay fp32
    ema_decay: float | None = Field(0.999, ge=0, lt=1)  # null: no average of the weights
    log_every: int = Field(50, gt=0)
    save_every: int = Field(500, gt=0)
    evaluate_every: int | None = Field(None, gt=0)  # null: only after the last step
    best_metric: str | None = None  # a key of the task's evaluation; its best checkpoint is kept
    best_mode: Literal["min", "max"] = "min"
    keep_last: int = Field(2, gt=0)  # newest checkpoints kept, beside the best one
    max_nonfinite: int = Field(10, ge=0)  # skipped steps in a row before the run ends with an error
    max_seconds: float | None = Field(None, gt=0)  # of this process; then save and leave for a requeue


class TrackingConfig(StrictModel):
    """metrics.jsonl is always written; this adds Weights & Biases."""

    wandb: Literal["off", "offline", "online"] = "off"
    project: str = "adhmr"
    name: str | None = None  # null: the run folder's name
    tags: list[str] = Field(default_factory=list)


class DistributedConfig(StrictModel):
    """How several processes share the work; one process needs nothing of it."""

    strategy: Literal["ddp", "zero1", "zero2", "zero3"] = "ddp"
