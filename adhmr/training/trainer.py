"""The training loop of every task: steps, logs, evaluations, checkpoints, stops, and the final export.

What is learned is in the task; processes and devices in `distributed.py`; files in `checkpoint.py` and `tracking.py`.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adhmr.atomic_file import write_atomically
from adhmr.config.training import DistributedConfig, OptimConfig, TrackingConfig, TrainConfig
from adhmr.data.steps import micro_batches
from adhmr.errors import AdhmrError
from adhmr.models.weights import save_weights
from adhmr.training.checkpoint import Checkpoint, CheckpointStore, differences
from adhmr.training.data import TrainingData, check_batches
from adhmr.training.distributed import Distribution
from adhmr.training.ema import WeightAverage
from adhmr.training.guards import NonFiniteGuard
from adhmr.training.meter import IntervalMeter
from adhmr.training.optimizer_state import flatten_optimizer, restore_optimizer
from adhmr.training.progress import ProgressReport
from adhmr.training.schedule import set_learning_rate
from adhmr.training.signals import EXIT_REQUEUE, StopRequest
from adhmr.training.task import Batch, Task
from adhmr.training.tracking import Tracker


class Trainer:
    """Trains `task` into `run_dir`; `fit` may be called again after any interruption and goes on where it was.

    identity: what else defines the run (task settings), JSON-serialisable; a run folder is refused to another. The data
    say themselves with which run they go on.
    """

    def __init__(
        self,
        task: Task,
        data: TrainingData,
        train: TrainConfig,
        optim: OptimConfig,
        tracking: TrackingConfig,
        distributed: DistributedConfig,
        run_dir: str | Path,
        seed: int,
        identity: Mapping[str, Any] | None = None,
    ):
        self.task = task
        self.data = data
        self.train = train
        self.optim = optim
        self.tracking = tracking
        self.distributed = distributed
        self.run_dir = Path(run_dir)
        self.seed = seed
        learning = {"precision", "ema_decay"}
        description = {
            "kind": task.kind,
            "model": task.model_config(),
            "seed": seed,
            "optim": optim.model_dump(mode="json"),
            "train": train.model_dump(mode="json", include=learning),
            "run": dict(identity or {}),
        }
        self.identity: dict[str, Any] = json.loads(json.dumps(description, default=str))  # as it is read back

    @property
    def fingerprint(self) -> str:
        """Of everything that decides the final weights."""
        whole = {**self.identity, "data": self.data.description(), "steps": self.train.steps}
        content = json.dumps(whole, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def fit(self) -> dict[str, float]:
        """Trains to train.steps and exports the weights; returns the last evaluation.

        Raises AdhmrError: the folder holds another run, the batch does not divide, the disk is full, the loss stays
        non-finite. Raises SystemExit(EXIT_REQUEUE) after saving when a signal or train.max_seconds asked to stop.
        """
        started = time.monotonic()
        self.dist = Distribution(self.distributed, self.train)
        check_batches(self.data.sizes, self.train.micro_batch, self.dist.world_size)
        finished = self.dist.from_main(self._finished())
        if finished is not None:
            if self.dist.is_main:
                print(f"{self.run_dir}: already trained to step {self.train.steps}", flush=True)
            return finished
        main, title = self.dist.is_main, self.run_dir.name
        with StopRequest(self.train.max_seconds) as stop:
            self._start()
            self._begun = started - self.elapsed  # as if the former processes had run right before this one
            tracker = Tracker(self.run_dir, self.tracking, self.step, self.identity, active=main)
            progress = ProgressReport(title, self.train.steps, self.step, active=main)
            stream = self.data.stream(self.step, self.dist.rank, self.dist.world_size)
            try:
                with tracker, progress:
                    if self.step:
                        progress.say(f"{title}: going on from step {self.step}")
                    self._loop(stream, stop, tracker, progress)
            finally:
                if hasattr(stream, "close"):
                    stream.close()  # ends the data workers
        self._export()
        return self.evaluation

    def _loop(self, stream: Iterator[Batch], stop: StopRequest, tracker: Tracker, progress: ProgressReport) -> None:
        self.model.train()
        while self.step < self.train.steps:
            leave = self._optimizer_step(stream, stop)
            last = self.step == self.train.steps

            figures: dict[str, float] = {}
            log_due = last or self.step % self.train.log_every == 0
            if log_due:
                figures = {**self.meter.figures(), "lr": self.lr}
                figures.update(skipped_steps=self.guard.total, elapsed=time.monotonic() - self._begun)
            best = False
            if last or (self.train.evaluate_every and self.step % self.train.evaluate_every == 0):
                best = self._evaluate()
                figures.update({f"evaluation/{name}": value for name, value in self.evaluation.items()})
            # Written before the checkpoint: a line without its checkpoint is cut off on resume, a lost line is lost.
            if figures:
                tracker.write(self.step, figures)
            progress.update(self.step, self.last_loss, self.samples_per_s, self.lr, logged=log_due)

            if last or leave or best or self.step % self.train.save_every == 0:
                self._save()
            if last or leave:
                self.store.wait()
            if leave and not last:
                progress.say(f"{self.run_dir.name}: saved step {self.step}, leaving to be started again")
                raise SystemExit(EXIT_REQUEUE)

    def _optimizer_step(self, stream: Iterator[Batch], stop: StopRequest) -> bool:
        """One step over accumulated micro-batches; returns whether any rank was asked to stop."""
        started = time.perf_counter()
        waited = 0.0
        self.lr = set_learning_rate(self.optimizer, self.optim, self.train.steps, self.step)
        self.dist.seed_step(self.seed, self.step)
        sizes = self.data.sizes
        _, accumulation = micro_batches(sizes, self.step, self.train.micro_batch, self.dist.world_size)
        self.dist.begin_step(accumulation)
        self.guard.note_statistics()
        batches: list[Batch] = []
        values: dict[str, Tensor] = {}  # scalars, means over the step's micro-batches
        for _ in range(accumulation):
            asked = time.perf_counter()
            batch = next(stream, None)
            waited += time.perf_counter() - asked
            if batch is None:
                raise AdhmrError(f"the data stream ended at step {self.step} of {self.train.steps}; it must be endless")
            batches.append(batch)
            with self.dist.micro_step(self.model):
                loss, parts = self.task.loss(self.model, _to_device(batch, self.dist.device))
                self.dist.backward(loss)
            for name, value in {"loss": loss, **parts}.items():
                values[name] = values.get(name, 0.0) + value.detach().float() / accumulation
        values["grad_norm"] = self.dist.clip_gradients(self.parameters, self.optim.clip_norm)

        self.last_loss, grad_norm = torch.stack([values["loss"], values["grad_norm"]]).tolist()
        finite = abs(self.last_loss) < float("inf") and abs(grad_norm) < float("inf")  # false for nan too
        # One vote for both: the ranks must all skip, and must all leave after the same step.
        skip, leave = self.dist.any_rank(not finite, stop.reason is not None)
        if skip:
            self.guard.skip(self.step, self.last_loss, grad_norm, batches)
        else:
            self.guard.passed()
            self.optimizer.step()
            if self.ema is not None:
                self.ema.update(self.task.model, self.updates)
            self.updates += 1
            self.meter.add(values)
        self.optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - started
        self.meter.add_time(sizes.at(self.step), seconds, waited)
        self.samples_per_s = sizes.at(self.step) / seconds
        self.step += 1
        return leave

    def _evaluate(self) -> bool:
        """Evaluates the averaged weights on the main process; returns whether they are the best so far."""
        if self.dist.is_main:
            module = self.task.model if self.ema is None else self.ema.module
            module.eval()
            with torch.no_grad():
                self.evaluation = self.task.evaluate(module)
        self.model.train()
        self.evaluation = self.dist.from_main(self.evaluation)
        self.evaluated_step = self.step
        name = self.train.best_metric
        if name is None:
            return False
        if name not in self.evaluation:
            raise AdhmrError(f"train.best_metric: '{name}' is not evaluated; expected one of {sorted(self.evaluation)}")
        sign = 1 if self.train.best_mode == "min" else -1
        if self.best is not None and sign * self.evaluation[name] >= sign * self.best:
            return False
        self.best = self.evaluation[name]
        return True

    def _start(self) -> None:
        """Builds optimizer, average and guards, loads the last whole checkpoint, then wraps for the processes."""
        model = self.task.model.to(self.dist.device)
        self.task.prepare(self.dist.device)
        self.parameters: list[nn.Parameter] = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            [{"lr_scale": 1.0, **group} for group in self.task.parameter_groups()],
            lr=self.optim.lr,
            betas=self.optim.betas,
            eps=self.optim.eps,
            weight_decay=self.optim.weight_decay,
            fused=True,
        )
        decay = self.train.ema_decay
        self.ema = None if decay is None else WeightAverage(model, decay, self.task.initial_average())
        self.guard = NonFiniteGuard(model, self.dist, self.run_dir, self.train.max_nonfinite)
        self.meter = IntervalMeter(self.dist)
        self.step = self.updates = 0
        self.elapsed = 0.0  # seconds, of the former processes
        self.evaluation: dict[str, float] = {}
        self.evaluated_step: int | None = None
        self.best: float | None = None
        keep = self.train.keep_last, self.train.keep_every, self.train.best_metric, self.train.best_mode
        self.store = CheckpointStore(self.run_dir / "checkpoints", *keep)
        folder = self.dist.from_main(self.store.find_last() if self.dist.is_main else None)
        if folder is not None:
            self._resume(folder, model, optimizer)
        if self.dist.is_main:
            (self.run_dir / "done.json").unlink(missing_ok=True)  # of fewer steps, or its checkpoints are gone
        self.model, self.optimizer = self.dist.prepare(model, optimizer)

    def _resume(self, folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        checkpoint = self.store.load(folder)
        changed = differences(checkpoint.config, self.identity)
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise AdhmrError(
                f"{folder} is a checkpoint of another run ({'; '.join(changed[:3])}{more}); "
                "choose another run folder, or put the former values back"
            )
        if checkpoint.step > self.train.steps:
            raise AdhmrError(f"{folder} is beyond train.steps={self.train.steps}; choose another run folder")
        self.data.resume(checkpoint.state["data"])
        model.load_state_dict(checkpoint.model)
        restore_optimizer(optimizer, {p: name for name, p in model.named_parameters()}, checkpoint.optimizer)
        if self.ema is not None:
            self.ema.module.load_state_dict(checkpoint.ema)
        state = checkpoint.state
        self.step, self.updates, self.elapsed = checkpoint.step, state["updates"], state["elapsed"]
        self.guard.total, self.guard.in_a_row = state["skipped"], state["skipped_in_a_row"]
        self.evaluation, self.best = state["evaluation"], state["best"]
        self.meter.load_state(state["interval"])

    def _save(self) -> None:
        state = {
            "updates": self.updates,
            "elapsed": time.monotonic() - self._begun,
            "skipped": self.guard.total,
            "skipped_in_a_row": self.guard.in_a_row,
            "evaluation": self.evaluation,
            "best": self.best,
            "interval": self.meter.state(),
            "world_size": self.dist.world_size,
            "data": self.data.state_dict(self.step),
        }
        if self.dist.is_main:
            ema = None if self.ema is None else self.ema.module.state_dict()
            names = {p: name for name, p in self.task.model.named_parameters()}
            optimizer = flatten_optimizer(self.optimizer, names)
            checkpoint = Checkpoint(self.step, self.task.model.state_dict(), ema, optimizer, state, self.identity)
            self.store.save(checkpoint, self.evaluation if self.evaluated_step == self.step else {})

    def _export(self) -> None:
        """Writes model.safetensors (averaged), model_raw.safetensors and, last, done.json."""
        model = self.task.model
        self.dist.release(model)
        if self.dist.is_main:
            config = self.task.model_config()
            metadata = {"step": self.step, "fingerprint": self.fingerprint, **self.task.weights_metadata()}
            averaged = model if self.ema is None else self.ema.module
            for name, module in (("model", averaged), ("model_raw", model)):
                whole = self.task.exported(module)
                save_weights(self.run_dir / f"{name}.safetensors", whole, self.task.kind, config, metadata)
            done = {"fingerprint": self.fingerprint, "steps": self.step, "metrics": self.evaluation}
            write_atomically(self.run_dir / "done.json", json.dumps(done, indent=1))
        self.dist.from_main(None)  # nobody leaves before the files are there

    def _finished(self) -> dict[str, float] | None:
        """The metrics in done.json when it is of this very run."""
        try:
            done = json.loads((self.run_dir / "done.json").read_text())
        except FileNotFoundError:
            return None
        return done["metrics"] if done["fingerprint"] == self.fingerprint else None


def _to_device(batch: Batch, device: torch.device) -> Batch:
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
