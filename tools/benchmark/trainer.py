"""What the trainer costs: its step against a bare PyTorch loop, the pause of a checkpoint, the time of a restart.

Baselines, measured in turn with it in the same run: forward, backward, clipping, AdamW and averaging written out, on
the same network and batch; and a plain copy of all saved tensors to host memory. Weights and batch are random, which
costs the same. The last line is JSON.

    python tools/benchmark/trainer.py [--size tiny|paper --batch 16 --steps 60 --saves 5 --precision fp32]
"""

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from adhmr.config.loading import load_config
from adhmr.config.model import BaseModelConfig
from adhmr.config.stages import BaseStage
from adhmr.config.training import TrackingConfig
from adhmr.data.steps import BatchSizes
from adhmr.diffusion.schedule import NUM_TIMESTEPS
from adhmr.training.tasks.base import BaseTask
from adhmr.training.trainer import Trainer

REPOSITORY = Path(__file__).resolve().parents[2]
GOALS = {"step": 1.03, "pause": 1.2}  # times the bare loop's step; times a copy to host memory
WARM_UP = 5  # steps of both loops that choose kernels and fill caches


def stage(size: str, batch: int, precision: str, output: Path) -> BaseStage:
    """A base stage whose data are never opened."""
    model = load_config(REPOSITORY / f"configs/models/{size}.yaml", [], BaseModelConfig)
    return BaseStage(
        stage="base",
        output=output,
        data={"sets": [{"path": "none"}], "crop": {"size": model.crop_size}},
        model=model,
        loss={"heatmap": 0.0, "depth": 0.0},
        train={"steps": 1, "global_batch": batch, "precision": precision},
        optim={},
    )


def random_batch(count: int, size: int) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "image": torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8),
        "x0": torch.randn(count, 133),
        "noise": torch.randn(count, 1, 133),
        "t": torch.randint(NUM_TIMESTEPS, (count, 1)),
        "uvd": torch.rand(count, 29, 3) * size,
        "uvd_weight": torch.ones(count, 29, 3),
        "twist_weight": torch.ones(count, 23, 2),
        "betas": torch.zeros(count, 10),
        "betas_weight": torch.ones(count, 1),
    }


class BareLoop:
    """What anybody would write: one call is one step."""

    def __init__(self, task: BaseTask, config: BaseStage, batch: dict[str, Tensor], device: torch.device):
        self.task, self.batch, self.device = task, batch, device
        self.clip_norm, self.bf16 = config.optim.clip_norm, config.train.precision == "bf16"
        task.model.to(device).train()
        task.prepare(device)
        self.average = [value.detach().clone() for value in task.model.parameters()]
        self.optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)

    def __call__(self) -> float:
        batch = {name: value.to(self.device, non_blocking=True) for name, value in self.batch.items()}
        model = self.task.model
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss, _ = self.task.loss(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [value.detach() for value in model.parameters()], 0.001)
        return loss.item()


class OneBatch:
    """Data of a trainer that time its steps: all that happens between two requests is the trainer's."""

    def __init__(self, batch: dict[str, Tensor], between: Callable[[], object]):
        self.batch, self.between = batch, between
        self.sizes = BatchSizes([(0, len(batch["image"]))])
        self.seconds: list[float] = []  # of the trainer's steps
        self.baseline: list[float] = []  # of `between`, called before each of them

    def description(self) -> dict:
        return {}

    def state_dict(self, step: int) -> dict:
        return {}

    def resume(self, state: dict) -> None:
        pass

    def stream(self, start_step: int, rank: int, world_size: int) -> Iterator[dict[str, Tensor]]:
        while True:
            synchronise()
            started = time.perf_counter()
            self.between()
            synchronise()
            self.baseline.append(time.perf_counter() - started)
            started = time.perf_counter()
            yield self.batch
            synchronise()
            self.seconds.append(time.perf_counter() - started)


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def trainer(config: BaseStage, task: BaseTask, data: OneBatch, folder: Path, **train: object) -> Trainer:
    changed = config.train.model_copy(update={"log_every": 10**6, "save_every": 10**6, **train})
    distributed = config.distributed
    return Trainer(task, data, changed, config.optim, TrackingConfig(), distributed, folder, seed=0)


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", "paper"], default="paper" if on_gpu else "tiny")
    parser.add_argument("--batch", type=int, default=64 if on_gpu else 16)
    parser.add_argument("--steps", type=int, default=200 if on_gpu else 60)
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16" if on_gpu else "fp32")
    options = parser.parse_args()
    device = torch.device("cuda" if on_gpu else "cpu")
    figures: dict[str, object] = {
        "benchmark": "trainer",
        "device": torch.cuda.get_device_name() if on_gpu else f"cpu, {torch.get_num_threads()} threads",
        "size": options.size,
        "batch": options.batch,
        "precision": options.precision,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = stage(options.size, options.batch, options.precision, folder)
        batch = random_batch(options.batch, config.model.crop_size)
        task = BaseTask(config)
        bare = BareLoop(copy.deepcopy(task), config, batch, device)

        # 1. Steps, in turn with the bare loop's, so that a neighbour on the machine disturbs both alike.
        data = OneBatch(batch, bare)
        steps = WARM_UP + options.steps
        trainer(config, copy.deepcopy(task), data, folder / "steps", steps=steps).fit()
        pairs = list(zip(data.seconds, data.baseline))[WARM_UP:]
        ratio = median(ours for ours, _ in pairs) / median(theirs for _, theirs in pairs)
        figures["step"] = {
            "seconds": round(median(ours for ours, _ in pairs), 4),
            "bare_seconds": round(median(theirs for _, theirs in pairs), 4),
            "times_bare": round(ratio, 4),
            "samples_per_s": round(options.batch / median(ours for ours, _ in pairs), 1),
        }
        print(
            f"step {figures['step']['seconds']:.4f} s, bare loop {figures['step']['bare_seconds']:.4f} s: {ratio:.3f} x"
        )

        # 2. The pause of a checkpoint: the step that saves, less a step that does not; and a copy to host memory.
        # Between two saves lie enough steps to write the former: else the later waits, as it should.
        every = 10
        run = trainer(config, copy.deepcopy(task), OneBatch(batch, lambda: None), folder / "saves")
        copies: list[float] = []
        host: dict[str, Tensor] = {}

        def copy_to_host() -> None:
            if not hasattr(run, "strategy") or run.state.step % every != every - 1:
                return
            live = {
                **{f"model/{name}": value for name, value in run.strategy.held_weights().items()},
                **{f"ema/{name}": value for name, value in run.average.held.items()},
                **run.strategy.optimizer_state(),
            }
            if not host:
                host.update({name: torch.empty_like(v, device="cpu", pin_memory=on_gpu) for name, v in live.items()})
            synchronise()
            started = time.perf_counter()
            for name, value in live.items():
                host[name].copy_(value, non_blocking=True)
            synchronise()
            copies.append(time.perf_counter() - started)

        run.data.between = copy_to_host
        run.train = run.train.model_copy(update={"steps": every * (options.saves + 2) + 5, "save_every": every})
        run.fit()
        times = run.data.seconds
        plain = median(t for step, t in enumerate(times, 1) if step % every == 0 or step % every > every // 2 > 0)
        saving = times[every - 1 :: every][1:-1]  # the first allocates, the last may be the end
        plain = median(t for step, t in enumerate(times[WARM_UP:], WARM_UP + 1) if step % every == every - 1)
        pause = median(saving) - plain
        copied = median(copies[1:])
        writing = median(t for step, t in enumerate(times, 1) if step > every and step % every == 1)
        gigabytes = sum(value.nbytes for value in host.values()) / 1e9
        figures["checkpoint"] = {
            "gigabytes": round(gigabytes, 3),
            "pause_seconds": round(pause, 4),
            "copy_seconds": round(copied, 4),
            "times_copy": round(pause / copied, 3),
            "step_while_writing_times_step": round(writing / plain, 3),
        }
        print(
            f"checkpoint of {gigabytes:.2f} GB: pause {pause:.4f} s, copy to host memory {copied:.4f} s: "
            f"{pause / copied:.2f} x; a step while it is written takes {writing / plain:.2f} x"
        )

        # 3. A restart: from `fit` to the end of its first step.
        seconds = []
        for _ in range(3):
            (folder / "saves/done.json").unlink(missing_ok=True)
            again = OneBatch(batch, lambda: None)
            run = trainer(config, copy.deepcopy(task), again, folder / "saves", save_every=10**6)
            run.train = run.train.model_copy(update={"steps": len(times) + 1 + len(seconds)})
            started = time.perf_counter()
            first: list[float] = []
            again.between = lambda first=first: first.append(time.perf_counter())
            run.fit()
            seconds.append(first[0] - started + again.seconds[0] if again.seconds else float("nan"))
        figures["restart_seconds"] = round(median(seconds), 3)
        print(
            f"restart: {median(seconds):.2f} s to the end of the first step, checkpoint verified and loaded"
        )
    figures["goals"] = {"step times_bare": GOALS["step"], "checkpoint times_copy": GOALS["pause"]}
    figures["reached"] = ratio <= GOALS["step"] and pause <= GOALS["pause"] * copied
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
