"""The training loop of every task: steps, logs, evaluations, checkpoints, stops, rewinds, and the final export.

What is learned is in the task, one step of it in stepper.py, processes in distributed.py and strategy.py, files in
checkpoint.py and tracking.py, and what ends a run that is stuck in watchdog.py and attempts.py.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adhmr.atomic_file import write_atomically
from adhmr.config.training import (
    DistributedConfig,
    OptimConfig,
    ProfileConfig,
    TrackingConfig,
    TrainConfig,
)
from adhmr.errors import AdhmrError
from adhmr.training.activation_checkpointing import checkpoint_activations
from adhmr.training.attempts import Attempts, Outcome
from adhmr.training.checkpoint import CheckpointStore, differences, step_of
from adhmr.training.checkpoint_folder import Checkpoint
from adhmr.training.data import TrainingData, check_batches
from adhmr.training.distributed import Distribution
from adhmr.training.ema import WeightAverage
from adhmr.training.export import export_weights
from adhmr.training.flight_recorder import prepare_flight_recorder
from adhmr.training.flops import StepFlops, peak_flops
from adhmr.training.frozen import copied
from adhmr.training.guards import NonFiniteGuard
from adhmr.training.meter import IntervalMeter
from adhmr.training.profiler import StepProfiler
from adhmr.training.progress import ProgressReport
from adhmr.training.run_state import RunState
from adhmr.training.signals import EXIT_REQUEUE, StopRequest
from adhmr.training.spikes import SpikeDetector
from adhmr.training.stepper import Step, Stepper
from adhmr.training.strategy import make_strategy
from adhmr.training.task import Batch, Task
from adhmr.training.tracking import Tracker
from adhmr.training.watchdog import Watchdog


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
        profile: ProfileConfig | None = None,
    ):
        self.task = task
        self.data = data
        self.train = train
        self.optim = optim
        self.tracking = tracking
        self.distributed = distributed
        self.run_dir = Path(run_dir)
        self.seed = seed
        self.profile = profile
        self.attempts = Attempts(self.run_dir, train.max_failed_starts)
        self.state = RunState()
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
        non-finite or leaves its range again and again, the run fails at every start. Raises SystemExit(EXIT_REQUEUE)
        after saving when a signal or the end of the time asked to stop; a process that hangs is ended with that code.
        """
        started = time.monotonic()
        rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        prepare_flight_recorder(self.run_dir)
        with (
            StopRequest(self.train.max_seconds, self.train.stop_margin) as self.stop,
            Watchdog(self.train.hang_seconds, self.run_dir, rank, world_size, self._hung) as self.watchdog,
        ):
            self.dist = Distribution(self.distributed, self.train, self.optim.clip_norm)
            check_batches(self.data.sizes, self.train.micro_batch, self.dist.world_size)
            finished = self.dist.on_main(self._finished)
            if finished is not None:
                if self.dist.is_main:
                    print(f"{self.run_dir}: already trained to step {self.train.steps}", flush=True)
                return finished
            keep = self.train.keep_last, self.train.keep_every, self.train.best_metric, self.train.best_mode
            self.store = CheckpointStore(self.run_dir / "checkpoints", *keep)
            folder = self.dist.on_main(self.store.find_last)
            step = 0 if folder is None else step_of(folder)
            self.dist.on_main(lambda: self.attempts.begin(step, self.dist.world_size))
            try:
                self._start(folder)
                self._begun = started - self.state.elapsed  # as if the former processes had run right before this one
                self._train()
                self._export()
            except BaseException as error:
                leaving = isinstance(error, SystemExit)
                self._end_attempt(
                    "left" if leaving else "failed", "" if leaving else f"{type(error).__name__}: {error}"
                )
                raise
            self._end_attempt("finished")
        return self.state.evaluation

    def _train(self) -> None:
        main, title = self.dist.is_main, self.run_dir.name
        with (
            Tracker(self.run_dir, self.tracking, self.state.step, self.identity, active=main) as self.tracker,
            ProgressReport(title, self.train.steps, self.state.step, active=main) as self.progress,
            StepProfiler(self.profile, self.run_dir, self.dist.rank) as profiler,
        ):
            if self.state.step:
                self.progress.say(f"{title}: going on from step {self.state.step}")
            stream = self._open_stream()
            try:
                self.strategy.model.train()
                while self.state.step < self.train.steps:
                    profiler.step(self.state.step)
                    step = self.stepper(stream, self.data.sizes, self.state)
                    if self._after_step(step):
                        _close(stream)
                        stream = self._open_stream()
            finally:
                _close(stream)  # ends the data workers
                if main:
                    self.store.wait()

    def _after_step(self, step: Step) -> bool:
        """Logs, evaluates and saves when due; returns whether the run went back, and needs its data from there.

        Raises SystemExit when the run is to leave.
        """
        state = self.state
        if step.applied:
            self.meter.add(step.values)
        self.meter.add_time(step.samples, step.seconds, step.waited, step.alone)
        state.productive += step.seconds
        # The one message of a step: all ranks decide alike, and leave after the same step.
        self.watchdog.beat(state.step, "exchange")
        asked, broken = self.stop.reason is not None, self.store.failure is not None
        votes = self.dist.exchange([step.loss, asked, broken])  # (ranks, 3)
        loss, leave = votes[:, 0].mean().item(), bool(votes[:, 1].any())
        if votes[:, 2].any():
            self.dist.on_main(self.store.wait)
        spike = self.spikes.see(loss) if self.spikes is not None else 0
        if spike:
            return self._rewind(spike, loss)

        last = state.step == self.train.steps
        log_due = last or state.step % self.train.log_every == 0
        figures = self._figures(step) if log_due else {}
        best = False
        if last or (self.train.evaluate_every and state.step % self.train.evaluate_every == 0):
            best = self._evaluate()
            figures.update({f"evaluation/{name}": value for name, value in state.evaluation.items()})
        # Written before the checkpoint: a line without its checkpoint is cut off on resume, a lost line is lost.
        if figures:
            self.tracker.write(state.step, figures)
        self.progress.update(state.step, loss, step.samples / step.seconds, step.lr, logged=log_due)
        if last or leave or best or state.step % self.train.save_every == 0:
            self._save(wait=last or leave)
        if leave and not last:
            self.progress.say(f"{self.run_dir.name}: saved step {state.step}, leaving to be started again")
            raise SystemExit(EXIT_REQUEUE)
        return False

    def _figures(self, step: Step) -> dict[str, float]:
        """One log line; all ranks call it."""
        figures = {**self.meter.figures(), "lr": step.lr, "skipped_steps": self.state.skipped}
        if self.state.rewinds:
            figures["rewinds"] = self.state.rewinds
        if self.flops.per_sample is not None:
            rate = self.flops.per_sample * figures["samples_per_s"] / self.dist.world_size  # FLOP/s of one device
            figures["tflops"] = rate / 1e12
            if self.peak is not None:
                figures["mfu"] = rate / self.peak
        figures["elapsed"] = time.monotonic() - self._begun
        if self.dist.is_main:
            figures["goodput"] = self.attempts.goodput(self.state.productive)
        return figures

    def _evaluate(self) -> bool:
        """Evaluates the averaged weights on the main process; returns whether they are the best so far."""
        state = self.state
        self.watchdog.beat(state.step, "evaluate")
        weights = self.strategy.whole(self.average.held if self.average else self.strategy.held_weights())

        def evaluate() -> dict[str, float]:
            self.copy.load_state_dict(weights)
            with torch.no_grad():
                return self.task.evaluate(self.copy)

        state.evaluation = self.dist.on_main(evaluate)
        state.evaluated_step = state.step
        name = self.train.best_metric
        if name is None:
            return False
        if name not in state.evaluation:
            known = sorted(state.evaluation)
            raise AdhmrError(f"train.best_metric: '{name}' is not evaluated; expected one of {known}")
        sign = 1 if self.train.best_mode == "min" else -1
        if state.best is not None and sign * state.evaluation[name] >= sign * state.best:
            return False
        state.best = state.evaluation[name]
        return True

    def _start(self, folder: Path | None) -> None:
        """Builds everything that steps need and puts it where the last whole checkpoint, if any, says."""
        module = self.task.model.to(self.dist.device)
        self.task.prepare(self.dist.device)
        # Before the network is cut, compiled or cast: evaluations and exports fill it. Only the main process has them.
        self.copy: nn.Module | None = copied(module).float().eval().requires_grad_(False) if self.dist.is_main else None
        optimizer = torch.optim.AdamW(
            [{"lr_scale": 1.0, **group} for group in self.task.parameter_groups()],
            lr=self.optim.lr,
            betas=self.optim.betas,
            eps=self.optim.eps,
            weight_decay=self.optim.weight_decay,
            fused=True,
        )
        if self.train.activation_checkpointing:
            checkpoint_activations(self.task.checkpointed_blocks())
        if self.train.compile:
            module.compile()
        clip_norm = self.optim.clip_norm
        self.strategy = make_strategy(self.dist, self.distributed, self.train, clip_norm, module, optimizer)
        former = self.task.initial_average()
        self.average: WeightAverage | None = None
        if self.train.ema_decay is not None:
            self.average = WeightAverage(self.strategy.held_weights(), self.train.ema_decay, former is not None)
            if former is not None:
                self.average.load(self.strategy.cut(former))
        self.spikes = SpikeDetector(self.train.spikes) if self.train.spikes is not None else None
        self.meter = IntervalMeter(self.dist)
        self.flops = StepFlops(compiled=self.train.compile)
        self.peak = peak_flops(self.dist.device, self.train.precision, self.tracking.peak_tflops)
        guard = NonFiniteGuard(module, self.dist, self.run_dir, self.train.max_nonfinite)
        self.stepper = Stepper(
            self.task, self.strategy, self.average, guard, self.flops, self.watchdog, self.train, self.optim, self.seed
        )
        if folder is not None:
            self._resume(folder)
        if self.dist.is_main:
            (self.run_dir / "done.json").unlink(missing_ok=True)  # of fewer steps, or its checkpoints are gone

    def _resume(self, folder: Path) -> None:
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
        self._put_back(checkpoint)

    def _put_back(self, checkpoint: Checkpoint) -> None:
        """Weights, optimizer, average and numbers of a checkpoint of this run; the data stay as they are."""
        self.strategy.load(checkpoint.model, checkpoint.optimizer)
        if self.average is not None:
            self.average.load(self.strategy.cut(checkpoint.ema))
        self.state = RunState.of({**checkpoint.state, "step": checkpoint.step})
        self.meter.load_state(checkpoint.state["interval"])
        if self.spikes is not None:
            self.spikes.load_state(checkpoint.state["spikes"])

    def _save(self, wait: bool = False) -> None:
        """Saves behind the training's back, or until it is on the disk. All ranks call it."""
        began = time.monotonic()
        state = self.state
        self.watchdog.beat(state.step, "save")
        state.elapsed = time.monotonic() - self._begun
        record = {
            **state.record(),
            "interval": self.meter.state(),
            "spikes": None if self.spikes is None else self.spikes.state(),
            "world_size": self.dist.world_size,
            "data": self.data.state_dict(state.step),
        }
        model = self.strategy.whole(self.strategy.held_weights())
        ema = None if self.average is None else self.strategy.whole(self.average.held)
        optimizer = self.strategy.optimizer_state()
        evaluation = state.evaluation if state.evaluated_step == state.step else {}

        def save() -> None:
            self.store.save(Checkpoint(state.step, model, ema, optimizer, record, self.identity), evaluation)
            if wait:
                self.store.wait()

        self.dist.on_main(save)
        if wait:
            return
        self.stop.widen(3 * (time.monotonic() - began))

    def _rewind(self, spike: int, loss: float) -> bool:
        """Goes back to the newest checkpoint before a spike of that many steps, and leaves their samples out."""
        first, stop = self.state.step - spike, self.state.step
        config, rewinds = self.train.spikes, self.state.rewinds + 1
        what = f"loss {loss:.4g} in step {stop - 1}, {spike} steps above {self.spikes.limit():.4g}"
        if rewinds > config.max_rewinds:
            raise AdhmrError(
                f"{what}: the run went back {config.max_rewinds} times already (train.spikes.max_rewinds); lower "
                "optim.lr, or look at the samples with adhmr data replay"
            )
        folder = self.dist.on_main(lambda: self.store.newest_until(first))
        if folder is None:
            self.progress.say(f"{self.run_dir.name}: {what}; no checkpoint from before to go back to, going on")
            return False
        self.watchdog.beat(self.state.step, "rewind")
        self._put_back(self.store.load(folder))
        self.state.rewinds = rewinds
        self.data.leave_out(first, stop, self.state.step)
        self.dist.on_main(lambda: self.store.discard_after(self.state.step))
        self._save(wait=True)  # so that a restart leaves the same samples out
        self.tracker.rewind(self.state.step)
        self.progress.rewind(self.state.step)
        self.progress.say(
            f"{self.run_dir.name}: {what}; back to step {self.state.step}, without the samples of "
            f"steps {first} to {stop - 1} (rewind {rewinds} of {config.max_rewinds})"
        )
        return True

    def _open_stream(self) -> Iterator[Batch]:
        return self.data.stream(self.state.step, self.dist.rank, self.dist.world_size)

    def _export(self) -> None:
        """Writes model.safetensors (averaged), model_raw.safetensors and, last, done.json, from the last checkpoint."""
        self.watchdog.beat(self.state.step, "export")
        self.strategy.release()

        def export() -> None:
            folder = self.store.find_last()
            metadata = {"step": self.state.step, "fingerprint": self.fingerprint, **self.task.weights_metadata()}
            for name, which in (("model", "ema"), ("model_raw", "raw")):
                export_weights(self.task, self.copy, folder, which, self.run_dir / f"{name}.safetensors", metadata)
            done = {"fingerprint": self.fingerprint, "steps": self.state.step, "metrics": self.state.evaluation}
            write_atomically(self.run_dir / "done.json", json.dumps(done, indent=1))

        self.dist.on_main(export)  # nobody leaves before the files are there

    def _finished(self) -> dict[str, float] | None:
        """The metrics in done.json when it is of this very run."""
        try:
            done = json.loads((self.run_dir / "done.json").read_text())
        except FileNotFoundError:
            return None
        return done["metrics"] if done["fingerprint"] == self.fingerprint else None

    def _hung(self, report: str) -> None:
        """In the watchdog's thread, right before the process ends."""
        self._end_attempt("hung", report)

    def _end_attempt(self, outcome: Outcome, reason: str = "") -> None:
        """Of an attempt that the main process began; nothing otherwise."""
        if int(os.environ.get("RANK", "0")) == 0:
            self.attempts.end(outcome, self.state.step, reason)


def _close(stream: Iterator[Batch]) -> None:
    if hasattr(stream, "close"):
        stream.close()
