"""What each step of a run draws: batches and mixtures that change at given steps, and what a checkpoint keeps of them.

The order of samples within a mixture is in sampler.py, how a step is shared by processes in steps.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from adhmr.config.data import PhaseConfig
from adhmr.data.sampler import PLAN_VERSION, Phase, Plan, merged
from adhmr.data.steps import BatchSizes
from adhmr.errors import AdhmrError

Ranges = Sequence[tuple[int, int]]


class StepPlan:
    """The plan of a run by steps; `plan` holds its order of samples, `sizes` its batches.

    Args:
        first: the order of samples without phases, with the ranges that the configuration skips.
        global_batch: of the first steps.
        phases: what changes later, in order of steps.
        begun: the mixtures that began before `step`, as they were drawn; phases from `step` on are laid out anew.
        dropped: ranges of positions that are skipped beside the configuration's.
    """

    def __init__(
        self,
        first: Plan,
        global_batch: int,
        phases: Sequence[PhaseConfig] = (),
        *,
        step: int = 0,
        begun: Sequence[Phase] = (),
        dropped: Ranges = (),
    ) -> None:
        self.first, self.phases, self.dropped = first, tuple(phases), merged(dropped)
        self.sizes = BatchSizes([(0, global_batch), *((p.from_step, p.global_batch) for p in phases if p.global_batch)])
        plan = first.altered(phases=begun or first.phases, skip_ranges=[*first.skip_ranges, *dropped])
        for phase in phases:
            if phase.weights is not None and phase.from_step >= step:
                start = plan.position_of(self.sizes.first_index(phase.from_step))
                plan = plan.switched(start, phase.weights, phase.from_step)
        self.plan = plan

    def position_of_step(self, step: int) -> int:
        """The position of a step's first sample."""
        return self.plan.position_of(self.sizes.first_index(step))

    def positions(self, step: int) -> list[int]:
        """The positions of a step's global batch, in order."""
        first = self.sizes.first_index(step)
        return [self.plan.position_of(index) for index in range(first, first + self.sizes.at(step))]

    def without_steps(self, first_step: int, stop_step: int, step: int) -> "StepPlan":
        """This plan of a run that is at `step`, without the samples that steps first_step to stop_step - 1 would take:
        step first_step takes those that come after them.

        Raises AdhmrError for steps that the run has passed.
        """
        if not step <= first_step < stop_step:
            raise AdhmrError(f"samples of steps {first_step} to {stop_step} cannot be left out: the run is at {step}")
        lost = self.position_of_step(first_step), self.position_of_step(stop_step)
        return self._going_on(step, self.plan.phases, [*self.dropped, lost])

    def resumed(self, state: Mapping) -> "StepPlan":
        """This plan with the history of a checkpoint, as state_dict gave it: what a run goes on with.

        What differs from the checkpoint's holds from its step on. Raises AdhmrError as `recalled` does, and when data
        that are still drawn have changed.
        """
        resumed = self.recalled(state)
        begun = [Phase(**phase) for phase in state["phases"]]
        self._check_sources(begun, state["step"])
        if all(self._source_of(name) == source for name, source in begun[-1].sources.items()):
            checksum = self.first.altered(phases=begun, skip_ranges=()).checksum()
            if checksum != state["checksum"]:
                raise AdhmrError(
                    "the data plan no longer gives the samples that the checkpoint's did, although the data is the "
                    "same: another version of adhmr or numpy wrote it; resume with that version or start a new run"
                )
        return resumed

    def recalled(self, state: Mapping) -> "StepPlan":
        """The same, whether or not the data have changed: to look at steps that are past.

        Raises AdhmrError when batches, mixtures or skipped ranges before the checkpoint's step are not those it had.
        """
        step = state["step"]
        self._check_settings(state)
        self._check_batches(state)
        begun = [Phase(**phase) for phase in state["phases"]]
        self._check_mixtures(begun, step)
        recalled = self._going_on(step, begun, [tuple(pair) for pair in state["dropped"]])
        past = _before(merged([tuple(pair) for pair in state["skip_ranges"]]), state["position"])
        if _before(recalled.plan.skip_ranges, state["position"]) != past:
            raise AdhmrError(
                f"skip_ranges {[list(pair) for pair in self.first.skip_ranges]}: the checkpoint of step {step} is at "
                f"position {state['position']} and skipped {[list(pair) for pair in past]}; only ranges from that "
                "position on may be added or taken away"
            )
        return recalled

    def state_dict(self, step: int) -> dict:
        """What a checkpoint of `step` keeps, as JSON types."""
        begun = [phase for phase in self.plan.phases if phase.from_step < step] or self.plan.phases[:1]
        return {
            "version": PLAN_VERSION,
            **self._settings(),
            "step": step,
            "position": self.position_of_step(step),
            "global_batches": [list(pair) for pair in self.sizes.changes if pair[0] < step],
            "phases": [asdict(phase) for phase in begun],
            "skip_ranges": [list(pair) for pair in self.plan.skip_ranges],
            "dropped": [list(pair) for pair in self.dropped],
            "checksum": self.first.altered(phases=begun, skip_ranges=()).checksum(),
        }

    def description(self) -> dict:
        """What the configuration asks for, as JSON types; nothing of a run's history."""
        return {
            **self._settings(),
            "global_batch": self.sizes.at(0),
            "weights": self.first.phases[0].weights,
            "phases": [phase.model_dump(mode="json") for phase in self.phases],
            "skip_ranges": [list(pair) for pair in self.first.skip_ranges],
            "sources": {plan_set.name: plan_set.source for plan_set in self.first.sets},
        }

    def _going_on(self, step: int, phases: Sequence[Phase], dropped: Ranges) -> "StepPlan":
        begun = [phase for phase in phases if phase.from_step < step]
        return StepPlan(self.first, self.sizes.at(0), self.phases, step=step, begun=begun, dropped=dropped)

    def _settings(self) -> dict:
        return {name: getattr(self.first, name) for name in ("seed", "period", "block", "window")}

    def _source_of(self, name: str) -> dict:
        return next(plan_set.source for plan_set in self.first.sets if plan_set.name == name)

    def _check_settings(self, state: Mapping) -> None:
        for field, own in {"version": PLAN_VERSION, **self._settings()}.items():
            if state.get(field) != own:
                raise AdhmrError(
                    f"the checkpoint's data plan has {field} {state.get(field)}, the configuration has {own}: "
                    "restore the value or start a new run"
                )

    def _check_batches(self, state: Mapping) -> None:
        step = state["step"]
        then = dict(state["global_batches"])
        now = dict(pair for pair in self.sizes.changes if pair[0] < step)
        for from_step in sorted({*then, *now}):
            if then.get(from_step) != now.get(from_step):
                name = f"the phase's global_batch from step {from_step} on" if from_step else "train.global_batch"
                raise _past_changed(name, then.get(from_step), now.get(from_step), step)

    def _check_mixtures(self, begun: Sequence[Phase], step: int) -> None:
        then = {phase.from_step: phase.weights for phase in begun}
        now = {0: self.first.phases[0].weights}
        now |= {p.from_step: p.weights for p in self.phases if p.weights is not None and p.from_step < step}
        for from_step in sorted({*then, *now}):
            if then.get(from_step) != now.get(from_step):
                name = (
                    f"the mixture from step {from_step} on" if from_step else "the mixture by the weights of the sets"
                )
                raise _past_changed(name, then.get(from_step), now.get(from_step), step)

    def _check_sources(self, begun: Sequence[Phase], step: int) -> None:
        """Data that are still drawn must be what they were; a phase that begins at `step` takes what is there now."""
        if any(phase.from_step == step and phase.weights is not None for phase in self.phases):
            return
        weights = begun[-1].weights
        for name, then in begun[-1].sources.items():
            now = self._source_of(name)
            if now != then:
                changed = next(key for key in {**then, **now} if then.get(key) != now.get(key))
                what = f"{changed} {str(then.get(changed))[:12]} then, {str(now.get(changed))[:12]} now"
                raise AdhmrError(
                    f"data set {name} has changed since the checkpoint of step {step} was written ({what}): restore "
                    f"it, or add a phase that takes the new data: phases: [{{from_step: {step}, weights: {weights}}}]"
                )


def _past_changed(name: str, then: object, now: object, step: int) -> AdhmrError:
    return AdhmrError(
        f"{name} was {'none' if then is None else then} and is now {'none' if now is None else now}, but the "
        f"checkpoint is of step {step}: the past cannot change. Put it back; a change may begin with a phase from "
        f"step {step} on at the earliest"
    )


def _before(ranges: Ranges, position: int) -> list[tuple[int, int]]:
    return [(first, min(stop, position)) for first, stop in ranges if first < position]
