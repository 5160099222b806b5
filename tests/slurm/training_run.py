"""A small training run, submitted as a user submits it, on two processes of the local Slurm cluster; and what tells
how it went. Which fault it meets is the tests' business."""

from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from adhmr.training.attempts import read_attempts
from adhmr.training.tracking import read_metrics
from launchers.cluster import load_cluster
from launchers.launch_folder import LaunchFolder
from launchers.submission import submit
from tests.slurm.local_cluster import LocalCluster, wait_for
from tests.tiny import BASE, CROP

STEPS = 60
EARLY = 8  # a step of the first tenth of the run, after a checkpoint
RANK = "adhmr.cli run"  # in the command line of each rank


def stage_of(data: Path, weights: Path, output: Path, strategy: str = "ddp", **resources: Any) -> dict[str, Any]:
    """A base model's stage: ten images, a frozen encoder, `STEPS` steps."""
    return {
        "stage": "base",
        "output": str(output),
        "data": {"sets": [{"path": str(data)}], "crop": CROP, "augment": None, "workers": 0},
        "model": BASE,
        "encoder_weights": str(weights / "encoder.safetensors"),
        "freeze_encoder": True,
        "optim": {"lr": 1e-3},
        "train": {"steps": STEPS, "global_batch": 4, "log_every": 2, "save_every": 7, "ema_decay": 0.9},
        "distributed": {"strategy": strategy},
        "resources": {"nodes": 2, "tasks_per_node": 1, **resources},
    }


class TrainingRun:
    """Submitted when it is made. `output` is the run folder."""

    def __init__(self, cluster: LocalCluster, stage: dict[str, Any], **profile: Any):
        self.cluster, self.output = cluster, Path(stage["output"])
        file = self.output.parent / f"{self.output.name}.yaml"
        file.write_text(yaml.safe_dump(stage))
        self.job = submit(file, load_cluster("slurm-local").model_copy(update=profile)).job_id
        self.folder = LaunchFolder(self.output)

    # ------------------------------------------------------------------------------------------- on the way
    def wait_step(self, step: int = EARLY) -> None:
        """Until this step is in the run's log."""

        def there() -> bool:
            self._must_live()
            return any(line["step"] >= step for line in read_metrics(self.output))

        wait_for(f"step {step} of {self.output}", there)

    def nodes(self) -> list[str]:
        """Of the attempt that runs; the first is the batch host and has rank 0."""
        return [line for line in self.folder.events() if line["event"] == "started"][-1]["nodes"]

    def rank(self, node: str) -> int:
        """The process id of the one rank on a node: submitit's process is its parent."""
        return wait_for(f"rank on {node}", lambda: self.cluster.pids(node, f"{RANK} {self.output}"))[-1]

    def wait_attempt(self, number: int, seconds: float = 180) -> None:
        """Until the trainer's attempt of this number has begun."""
        wait_for(f"attempt {number} of {self.output}", lambda: self.attempts()[number - 1 :], seconds)

    # ------------------------------------------------------------------------------------------- the end
    def wait_done(self, seconds: float = 300) -> None:
        """Until it is done and its job has left the queue."""

        def done() -> bool:
            self._must_live()
            return self.ends()[-1:] == ["done"]

        wait_for(f"end of {self.output}", done, seconds)
        self.cluster.wait_state(self.job, "COMPLETED")

    def attempts(self) -> list[dict[str, Any]]:
        """Of the trainer: those that began."""
        return [line for line in read_attempts(self.output) if line["event"] == "begun"]

    def ends(self) -> list[str]:
        """What was decided after each attempt."""
        return [line["decision"] for line in self.folder.events() if line["event"] == "ended"]

    def _must_live(self) -> None:
        assert self.ends()[-1:] != ["stop"], self.said()

    def said(self) -> str:
        """Its logs, for the message of a failed test."""
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in sorted(self.folder.logs.glob("*")))


def assert_same_run(output: Path, quiet: Path) -> None:
    """The weights, bit for bit; and every logged step once, with the same loss."""
    for name in ("model.safetensors", "model_raw.safetensors"):
        found, wanted = load_file(output / name), load_file(quiet / name)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted), name
    curves = [[(line["step"], line["loss"]) for line in read_metrics(folder)] for folder in (output, quiet)]
    assert curves[0] == curves[1]
    assert [step for step, _ in curves[0]] == list(range(2, STEPS + 1, 2))
