"""What the trainer costs: its step against a bare PyTorch loop, the pause of a checkpoint, the time of a restart.

Baselines, measured in turn with it in the same run: forward, backward, clipping, AdamW and averaging written out, on
the same network and batch; and a plain copy of all saved tensors to host memory. Weights and batch are random, which
costs the same. The last line is JSON.

    python tools/benchmark/trainer.py [--size tiny|paper --batch 16 --steps 60 --saves 8 --precision fp32]
"""

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from unittest import mock

import torch
from torch import Tensor, nn

from adhmr.config.loading import load_config
from adhmr.config.model import BaseModelConfig
from adhmr.config.stages import BaseStage
from adhmr.config.training import TrackingConfig
from adhmr.data.steps import BatchSizes
from adhmr.diffusion.schedule import NUM_TIMESTEPS
from adhmr.training.live_run import LiveRun
from adhmr.training.tasks.base import BaseTask
from adhmr.training.trainer import Trainer

REPOSITORY = Path(__file__).resolve().parents[2]
GOALS = {"step": 1.03, "pause": 1.2}  # times the bare loop's step; times a copy to host memory
ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
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
    if ON_GPU:
        torch.cuda.synchronize()


class TimedRun(LiveRun):
    """Times the training's pause for each checkpoint, and right after it a plain copy of the same tensors."""

    def __init__(self, *arguments: object):
        super().__init__(*arguments)
        self.pauses: list[float] = []
        self.copies: list[float] = []
        self.host: dict[str, Tensor] = {}

    def save(self, wait: bool) -> None:
        self.store.wait()  # a pause for the write before it would be back-pressure
        synchronise()
        started = time.perf_counter()
        super().save(wait=False)
        self.pauses.append(time.perf_counter() - started)
        self.store.wait()  # the copy shall have the machine for itself, as the pause had
        live = {
            **{f"model/{name}": value for name, value in self.strategy.held_weights().items()},
            **{f"ema/{name}": value for name, value in self.average.held.items()},
            **self.strategy.optimizer_state(),
        }
        if not self.host:
            self.host = {name: torch.empty_like(v, device="cpu", pin_memory=ON_GPU) for name, v in live.items()}
        synchronise()
        started = time.perf_counter()
        for name, value in live.items():
            self.host[name].copy_(value, non_blocking=True)
        synchronise()
        self.copies.append(time.perf_counter() - started)


class Benchmark:
    """One network, one batch, and trainers of them in folders of their own."""

    def __init__(self, size: str, batch: int, precision: str, folder: Path):
        self.folder = folder
        self.config = stage(size, batch, precision, folder)
        self.batch = random_batch(batch, self.config.model.crop_size)
        self.task = BaseTask(self.config)

    def trainer(self, data: OneBatch, folder: str, **train: object) -> Trainer:
        changed = self.config.train.model_copy(update={"log_every": 10**6, "save_every": 10**6, **train})
        task = copy.deepcopy(self.task)
        optim, distributed = self.config.optim, self.config.distributed
        return Trainer(task, data, changed, optim, TrackingConfig(), distributed, self.folder / folder, seed=0)

    def step(self, steps: int) -> dict[str, float]:
        """In turn with the bare loop's steps, so that a neighbour on the machine disturbs both alike."""
        bare = BareLoop(copy.deepcopy(self.task), self.config, self.batch, DEVICE)
        data = OneBatch(self.batch, bare)
        self.trainer(data, "steps", steps=WARM_UP + steps + 1).fit()
        ours, theirs = median(data.seconds[WARM_UP:]), median(data.baseline[WARM_UP:])
        ratios = [own / other for own, other in zip(data.seconds, data.baseline)][WARM_UP:]
        return {
            "seconds": round(ours, 4),
            "bare_seconds": round(theirs, 4),
            "times_bare": round(median(ratios), 4),
            "samples_per_s": round(len(self.batch["image"]) / ours, 1),
        }

    def checkpoint(self, saves: int) -> dict[str, float]:
        """The first save allocates its host memory: it is left out. The steps that are measured last write nothing."""
        data = OneBatch(self.batch, lambda: None)
        trainer = self.trainer(data, "saves", steps=saves + 1, save_every=1)
        with mock.patch("adhmr.training.trainer.LiveRun", TimedRun):
            trainer.fit()
        run = trainer.run
        pause, copied = median(run.pauses[1:]), median(run.copies[1:])
        return {
            "gigabytes": round(sum(value.nbytes for value in run.host.values()) / 1e9, 3),
            "pause_seconds": round(pause, 4),
            "copy_seconds": round(copied, 4),
            "times_copy": round(pause / copied, 3),
        }

    def writing(self, steps: int) -> dict[str, float]:
        """How much slower steps are while a checkpoint is written: every step here, against steps without one."""
        figures = []
        for name, save_every in (("none", 10**6), ("every", 1)):
            data = OneBatch(self.batch, lambda: None)
            self.trainer(data, name, steps=WARM_UP + steps, save_every=save_every).fit()
            figures.append(median(data.seconds[WARM_UP:]))
        plain, writing = figures
        return {"seconds": round(plain, 4), "saving_every_step_seconds": round(writing, 4)}

    def restart(self, times: int) -> float:
        """Seconds from `fit` to the end of the first step; the checkpoint is verified and loaded on the way."""
        seconds = []
        done = self.folder / "saves/done.json"
        steps = json.loads(done.read_text())["steps"]
        for number in range(times):
            asked: list[float] = []
            data = OneBatch(self.batch, lambda asked=asked: asked.append(time.perf_counter()))
            run = self.trainer(data, "saves", steps=steps + 2 * (number + 1))
            started = time.perf_counter()
            run.fit()
            seconds.append(asked[0] - started + data.seconds[0])
        return round(median(seconds), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", "paper"], default="paper" if ON_GPU else "tiny")
    parser.add_argument("--batch", type=int, default=64 if ON_GPU else 16)
    parser.add_argument("--steps", type=int, default=200 if ON_GPU else 60)
    parser.add_argument("--saves", type=int, default=8)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16" if ON_GPU else "fp32")
    options = parser.parse_args()
    figures: dict[str, object] = {
        "benchmark": "trainer",
        "device": torch.cuda.get_device_name() if ON_GPU else f"cpu, {torch.get_num_threads()} threads",
        "size": options.size,
        "batch": options.batch,
        "precision": options.precision,
    }
    with tempfile.TemporaryDirectory() as name:
        benchmark = Benchmark(options.size, options.batch, options.precision, Path(name))
        figures["step"] = step = benchmark.step(options.steps)
        print(f"step {step['seconds']:.4f} s, bare loop {step['bare_seconds']:.4f} s: {step['times_bare']:.3f} x")
        figures["checkpoint"] = saved = benchmark.checkpoint(options.saves)
        print(
            f"checkpoint of {saved['gigabytes']} GB: pause {saved['pause_seconds']:.4f} s, copy to host memory "
            f"{saved['copy_seconds']:.4f} s: {saved['times_copy']:.2f} x"
        )
        figures["writing"] = writing = benchmark.writing(options.steps // 3)
        print(f"step {writing['seconds']} s, with a checkpoint in every step {writing['saving_every_step_seconds']} s")
        figures["restart_seconds"] = benchmark.restart(3)
        print(f"restart: {figures['restart_seconds']} s from the call to the end of the first step")
    figures["goals"] = {"step times_bare": GOALS["step"], "checkpoint times_copy": GOALS["pause"]}
    figures["reached"] = step["times_bare"] <= GOALS["step"] and saved["times_copy"] <= GOALS["pause"]
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
