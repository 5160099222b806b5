"""The training loop: one step after the other; figures, evaluations and checkpoints when they are due; the decision to
leave, and to go back after a loss spike. One step is in stepper.py, what is saved in live_run.py."""

import time
from collections.abc import Iterator

import torch

from adhmr.config.training import TrainConfig
from adhmr.errors import AdhmrError
from adhmr.signals import EXIT_REQUEUE, StopRequest
from adhmr.training.attempts import Attempts
from adhmr.training.live_run import LiveRun
from adhmr.training.progress import ProgressReport
from adhmr.training.stepper import Step, Stepper
from adhmr.training.task import Batch, Task
from adhmr.training.tracking import Tracker
from adhmr.training.watchdog import Watchdog


class TrainingLoop:
    """Moves `run` to train.steps. `peak`: FLOP/s of one device at best; `begun`: when the run would have begun
    (time.monotonic), had its former processes run right before this one."""

    def __init__(
        self,
        title: str,
        task: Task,
        train: TrainConfig,
        run: LiveRun,
        stepper: Stepper,
        stop: StopRequest,
        watchdog: Watchdog,
        attempts: Attempts,
        tracker: Tracker,
        progress: ProgressReport,
        peak: float | None,
        begun: float,
    ):
        self.title, self.task, self.train = title, task, train
        self.run, self.stepper, self.distribution = run, stepper, run.distribution
        self.stop, self.watchdog, self.attempts = stop, watchdog, attempts
        self.tracker, self.progress = tracker, progress
        self.peak, self.begun = peak, begun

    def __call__(self) -> None:
        """Raises SystemExit(EXIT_REQUEUE) after saving when a rank was asked to stop; AdhmrError as Trainer.fit."""
        if self.run.state.step:
            self.progress.say(f"{self.title}: going on from step {self.run.state.step}")
        stream = self._open_stream()
        try:
            self.run.strategy.model.train()
            while self.run.state.step < self.train.steps:
                step = self.stepper(stream, self.run.data.sizes, self.run.state)
                if self._went_back(step):
                    _close(stream)
                    stream = self._open_stream()
                    continue
                self._do_what_is_due(step)
        finally:
            _close(stream)  # ends the data workers
            if self.distribution.is_main:
                self.run.store.wait()

    def _went_back(self, step: Step) -> bool:
        """Shares what the ranks must know of each other, in one message a step: all decide alike, and leave after the
        same step. Returns whether the run went back."""
        run, state = self.run, self.run.state
        if step.applied:
            run.meter.add(step.values)
        run.meter.add_time(step.samples, step.seconds, step.waited, step.alone)
        state.productive += step.seconds
        self.watchdog.beat(state.step, "exchange")
        asked, broken = self.stop.reason is not None, run.store.failure is not None
        votes = self.distribution.exchange([step.loss, asked, broken])  # (ranks, 3)
        self.loss, self.leave = votes[:, 0].mean().item(), bool(votes[:, 1].any())
        if votes[:, 2].any():
            self.distribution.on_main(run.store.wait)
        spike = 0 if run.spikes is None else run.spikes.see(self.loss)
        return spike > 0 and self._go_back(spike)

    def _do_what_is_due(self, step: Step) -> None:
        state = self.run.state
        last = state.step == self.train.steps
        log_due = last or state.step % self.train.log_every == 0
        figures = self._figures(step) if log_due else {}
        best = False
        if last or (self.train.evaluate_every and state.step % self.train.evaluate_every == 0):
            best = self._evaluate()
            figures.update({f"evaluation/{name}": value for name, value in state.evaluation.items()})
        # Written before the checkpoint: a line without its checkpoint is cut off on resume, a lost line is lost.
        if figures:
            self.distribution.on_main(self.attempts.check_newest)
            self.tracker.write(state.step, figures)
        self.progress.update(state.step, self.loss, step.samples / step.seconds, step.lr, logged=log_due)
        if last or self.leave or best or state.step % self.train.save_every == 0:
            self.watchdog.beat(state.step, "save")
            state.elapsed = time.monotonic() - self.begun
            self.run.save(wait=last or self.leave)
            self.stop.widen(3 * self.run.store.seconds)
        if self.leave and not last:
            self.progress.say(f"{self.title}: saved step {state.step}, leaving to be started again")
            raise SystemExit(EXIT_REQUEUE)

    def _figures(self, step: Step) -> dict[str, float]:
        """One log line; all ranks call it."""
        state, per_sample = self.run.state, self.stepper.flops.per_sample
        figures = {**self.run.meter.figures(), "lr": step.lr, "skipped_steps": state.skipped}
        if state.rewinds:
            figures["rewinds"] = state.rewinds
        if per_sample is not None:
            rate = per_sample * figures["samples_per_s"] / self.distribution.world_size  # FLOP/s of one device
            figures["tflops"] = rate / 1e12
            if self.peak is not None:
                figures["mfu"] = rate / self.peak
        figures["elapsed"] = time.monotonic() - self.begun
        if self.distribution.is_main:
            figures["goodput"] = self.attempts.goodput(state.productive)
        return figures

    def _evaluate(self) -> bool:
        """Evaluates the averaged weights on the main process; returns whether they are the best so far."""
        run, state = self.run, self.run.state
        self.watchdog.beat(state.step, "evaluate")
        weights = run.averaged_weights()

        def evaluate() -> dict[str, float]:
            run.copy.load_state_dict(weights)
            with torch.no_grad():
                return self.task.evaluate(run.copy)

        state.evaluation = self.distribution.on_main(evaluate)
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

    def _go_back(self, spike: int) -> bool:
        """To the newest checkpoint before a spike of that many steps, without their samples."""
        run, config = self.run, self.train.spikes
        first, stop = run.state.step - spike, run.state.step
        what = f"loss {self.loss:.4g} in step {stop - 1}, {spike} steps above {run.spikes.limit():.4g}"
        if run.state.rewinds == config.max_rewinds:
            raise AdhmrError(
                f"{what}: the run went back {config.max_rewinds} times already (train.spikes.max_rewinds); lower "
                "optim.lr, or look at the samples with adhmr data replay"
            )
        folder = self.distribution.on_main(lambda: run.store.newest_until(first))
        if folder is None:
            self.progress.say(f"{self.title}: {what}; no checkpoint from before to go back to, going on")
            return False
        self.watchdog.beat(run.state.step, "rewind")
        self.distribution.on_main(self.attempts.check_newest)
        run.go_back(folder, first, stop)
        self.tracker.rewind(run.state.step)
        self.progress.rewind(run.state.step)
        self.progress.say(
            f"{self.title}: {what}; back to step {run.state.step}, without the samples of steps {first} to {stop - 1} "
            f"(rewind {run.state.rewinds} of {config.max_rewinds})"
        )
        return True

    def _open_stream(self) -> Iterator[Batch]:
        return self.run.data.stream(self.run.state.step, self.distribution.rank, self.distribution.world_size)


def _close(stream: Iterator[Batch]) -> None:
    if hasattr(stream, "close"):
        stream.close()
