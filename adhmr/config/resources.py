"""What a stage asks of a cluster: nodes, processes, memory, time. No result depends on it; null leaves a value to the
cluster's profile (launchers/cluster.py)."""

from pydantic import Field, model_validator

from adhmr.config.base import StrictModel


class ResourcesConfig(StrictModel):
    """Of one job of a stage, and how many jobs of one kind work on it at once."""

    nodes: int = Field(1, gt=0)
    tasks_per_node: int | None = Field(None, gt=0)  # processes a node; null: one a GPU, without GPUs one
    cpus_per_task: int | None = Field(None, gt=0)
    gpus_per_node: int | None = Field(None, ge=0)
    memory_gb: float | None = Field(None, gt=0)  # of each node
    time_minutes: int | None = Field(None, gt=0)  # of one job; a stage that is not done by then goes on in the next
    array: int | None = Field(None, gt=0)  # workers of a generate stage, each a job of its own; null: one

    @property
    def processes(self) -> int:
        """As far as the stage's file says; the cluster may have several GPUs a node."""
        return self.nodes * (self.tasks_per_node or 1)

    @model_validator(mode="after")
    def _check_array(self) -> "ResourcesConfig":
        if self.array is not None and self.processes > 1:
            raise ValueError("array is of workers of one process each: leave nodes and tasks_per_node out")
        return self
