"""How a task is trained: optimizer, length, precision, checkpoints, tracking, processes. Data and models: elsewhere."""

from typing import Literal

from pydantic import Field, model_validator

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


class SpikeConfig(StrictModel):
    """When the loss has left its usual range: `patience` steps in a row above median + threshold deviations."""

    threshold: float = Field(10.0, gt=0)  # robust deviations (1.4826 x median absolute deviation) above the median
    window: int = Field(200, ge=20)  # latest steps that the median and the deviation are of; fewer than half: no alarm
    patience: int = Field(3, gt=0)  # steps in a row; a single odd batch is not a spike
    max_rewinds: int = Field(3, ge=0)  # in the whole run; one more ends it with an error


class TrainConfig(StrictModel):
    """Length, batch, precision, and how often to log, save and evaluate (all counted in optimizer steps)."""

    steps: int = Field(gt=0)
    global_batch: int = Field(gt=0)  # samples an optimizer step, over all ranks and micro-steps; data.phases change it
    micro_batch: int | None = Field(None, gt=0)  # samples a forward pass of one rank; null: global_batch / ranks
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast, the weights stay fp32
    compile: bool = False  # torch.compile of the trained network: slow first steps, faster ones after
    activation_checkpointing: bool = False  # blocks are computed again in the backward pass: less memory, more time
    ema_decay: float | None = Field(0.999, ge=0, lt=1)  # null: no average of the weights
    log_every: int = Field(50, gt=0)
    save_every: int = Field(500, gt=0)
    evaluate_every: int | None = Field(None, gt=0)  # null: only after the last step
    best_metric: str | None = None  # a key of the task's evaluation; its best checkpoint is kept
    best_mode: Literal["min", "max"] = "min"
    keep_last: int = Field(2, gt=0)  # newest checkpoints kept, beside the best one
    keep_every: int | None = Field(None, gt=0)  # checkpoints of these steps are kept for ever: multiples of it
    max_nonfinite: int = Field(10, ge=0)  # skipped steps in a row before the run ends with an error
    spikes: SpikeConfig | None = None  # go back when the loss leaves its usual range; null: never
    max_seconds: float | None = Field(None, gt=0)  # of this process; then save and leave for a requeue
    stop_margin: float = Field(120.0, ge=0)  # seconds before the job's end to save and leave, when no signal came
    hang_seconds: float = Field(1800.0, gt=0)  # without a step: stacks are written, the process ends for a requeue
    max_failed_starts: int = Field(5, gt=0)  # in a row without a new checkpoint before the run refuses to start


class TrackingConfig(StrictModel):
    """metrics.jsonl is always written; this adds Weights & Biases."""

    wandb: Literal["off", "offline", "online"] = "off"
    project: str = "adhmr"
    name: str | None = None  # null: the run folder's name
    tags: list[str] = Field(default_factory=list)
    peak_tflops: float | None = Field(None, gt=0)  # of one device, for `mfu`; null: from a table of known GPUs


class ProfileConfig(StrictModel):
    """A window of steps recorded with torch.profiler, as RUN/profile/."""

    steps: str = Field(pattern=r"^\d+-\d+$")  # "20-25": from step 20 to 24; the first of a run is 0
    ranks: list[int] = Field(default_factory=lambda: [0])
    memory: bool = False  # allocations too

    @property
    def window(self) -> tuple[int, int]:
        """(first step, the step after the last one)."""
        first, stop = map(int, self.steps.split("-"))
        return first, stop

    @model_validator(mode="after")
    def _check_window(self) -> "ProfileConfig":
        first, stop = self.window
        if first >= stop:
            raise ValueError(f"steps: '{self.steps}' holds no step; expected first-stop with first < stop, as in 20-25")
        return self


class DistributedConfig(StrictModel):
    """How several processes share the work; one process needs nothing of it."""

    strategy: Literal["ddp", "zero1", "zero2", "zero3"] = "ddp"
    offload_optimizer: bool = False  # zero1 to zero3: optimizer state lives in host memory
    offload_parameters: bool = False  # zero3: the weights too
    unused_parameters: bool = False  # ddp: some weights get no gradient in some steps

    @model_validator(mode="after")
    def _check_offload(self) -> "DistributedConfig":
        if self.offload_optimizer and self.strategy == "ddp":
            raise ValueError("offload_optimizer is for strategy zero1, zero2 and zero3")
        if self.offload_parameters and self.strategy != "zero3":
            raise ValueError("offload_parameters is for strategy zero3")
        return self
