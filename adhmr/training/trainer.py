"""A training run from start to end: what defines it, the life of one process of it, and the final export.

What is learned is in the task, the loop in loop.py, what checkpoints hold in live_run.py, processes in distributed.py
and strategy.py, and what ends a run that is stuck in watchdog.py and attempts.py.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adhmr.atomic_file import write_atomically
from adhmr.config.training import DistributedConfig, OptimConfig, ProfileConfig, TrackingConfig, TrainConfig
from adhmr.signals import StopRequest
from adhmr.training.attempts import Attempts, Outcome
from adhmr.training.checkpoint import CheckpointStore, step_of
from adhmr.training.data import TrainingData, check_batches
from adhmr.training.distributed import Distribution
from adhmr.training.export import export_weights
from adhmr.training.flight_recorder import prepare_flight_recorder
from adhmr.training.flops import StepFlops, peak_flops
from adhmr.training.guards import NonFiniteGuard
from adhmr.training.live_run import LiveRun
from adhmr.training.loop import TrainingLoop
from adhmr.training.profiler import StepProfiler
from adhmr.training.progress import ProgressReport
from adhmr.training.stepper import Stepper
from adhmr.training.task import Task
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
        self.run: LiveRun | None = None
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
        non-finite or leaves its range again and again, the run fails at every start, a newer attempt has begun. Raises
        SystemExit(EXIT_REQUEUE) after saving when a signal or the end of the time asked to stop; a process that hangs
        is ended with that code.
        """
        started = time.monotonic()
        rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        prepare_flight_recorder(self.run_dir)
        with (
            StopRequest(self.train.max_seconds, self.train.stop_margin) as stop,
            Watchdog(self.train.hang_seconds, self.run_dir, rank, world_size, self._hung) as watchdog,
        ):
            distribution = Distribution(self.distributed, self.train, self.optim.clip_norm)
            check_batches(self.data.sizes, self.train.micro_batch, distribution.world_size)
            finished = distribution.on_main(self._finished)
            if finished is not None:
                if distribution.is_main:
                    print(f"{self.run_dir}: already trained to step {self.train.steps}", flush=True)
                return finished
            keep = self.train.keep_last, self.train.keep_every, self.train.best_metric, self.train.best_mode
            store = CheckpointStore(self.run_dir / "checkpoints", *keep, before_commit=self.attempts.check_newest)
            folder = distribution.on_main(store.find_last)
            step = 0 if folder is None else step_of(folder)
            distribution.on_main(lambda: self.attempts.begin(step, distribution.world_size))
            try:
                self._train(distribution, store, folder, stop, watchdog, started)
                watchdog.beat(self.run.state.step, "export")
                self.run.strategy.release()
                distribution.on_main(self._export)  # nobody leaves before the files are there
            except SystemExit:
                self._end_attempt("left")
                raise
            except BaseException as error:
                self._end_attempt("failed", f"{type(error).__name__}: {error}")
                raise
            self._end_attempt("finished")
        return self.run.state.evaluation

    def _train(
        self,
        distribution: Distribution,
        store: CheckpointStore,
        folder: Path | None,
        stop: StopRequest,
        watchdog: Watchdog,
        started: float,
    ) -> None:
        """From the checkpoint `folder`, if any, to the last step."""
        self.run = run = LiveRun(
            self.task, self.data, self.train, self.optim, self.distributed, distribution, store, self.identity
        )
        if folder is not None:
            run.resume(folder)
        main, title, step = distribution.is_main, self.run_dir.name, run.state.step
        if main:
            (self.run_dir / "done.json").unlink(missing_ok=True)  # of fewer steps, or its checkpoints are gone
        guard = NonFiniteGuard(run.strategy.module, distribution, self.run_dir, self.train.max_nonfinite)
        peak = peak_flops(distribution.device, self.train.precision, self.tracking.peak_tflops)
        with (
            Tracker(self.run_dir, self.tracking, step, self.identity, active=main) as tracker,
            ProgressReport(title, self.train.steps, step, active=main) as progress,
            StepProfiler(self.profile, self.run_dir, distribution.rank) as profiler,
        ):
            flops = StepFlops(compiled=self.train.compile)
            stepper = Stepper(
                self.task,
                run.strategy,
                run.average,
                guard,
                flops,
                profiler,
                watchdog,
                self.train,
                self.optim,
                self.seed,
            )
            begun = started - run.state.elapsed
            loop = TrainingLoop(
                title,
                self.task,
                self.train,
                run,
                stepper,
                stop,
                watchdog,
                self.attempts,
                tracker,
                progress,
                peak,
                begun,
            )
            loop()

    def _export(self) -> None:
        """Writes model.safetensors (averaged), model_raw.safetensors and, last, done.json, from the last checkpoint."""
        run = self.run
        folder = run.store.find_last()
        metadata = {"step": run.state.step, "fingerprint": self.fingerprint, **self.task.weights_metadata()}
        for name, which in (("model", "ema"), ("model_raw", "raw")):
            export_weights(self.task, run.copy, folder, which, self.run_dir / f"{name}.safetensors", metadata)
        done = {"fingerprint": self.fingerprint, "steps": run.state.step, "metrics": run.state.evaluation}
        write_atomically(self.run_dir / "done.json", json.dumps(done, indent=1))

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
            self.attempts.end(outcome, 0 if self.run is None else self.run.state.step, reason)
