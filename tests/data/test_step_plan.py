"""Phases of a run: planned, decided at a restart, refused where they would change the past; samples left out."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adhmr.config.data import DataConfig, PhaseConfig
from adhmr.data.sampler import Plan, PlanSet
from adhmr.data.step_plan import StepPlan
from adhmr.errors import AdhmrError

COUNTS = {"alpha": (50, 50, 23), "beta": (40,), "gamma": (7, 9, 1)}
FIRST = {"alpha": 0.5, "beta": 0.5}
SWITCH = {"from_step": 5, "weights": {"alpha": 0.2, "gamma": 0.8}}
LARGER = {"from_step": 8, "global_batch": 24}


def step_plan(*phases, batch=12, weights=FIRST, fingerprints=None, settings=None, skip_ranges=(), counts=COUNTS):
    found = {**dict.fromkeys(COUNTS, "as it was"), **(fingerprints or {})}
    sets = [PlanSet(n, c, weights.get(n, 0), found[n], settings or {}) for n, c in counts.items()]
    first = Plan(sets, 7, period=20, block=8, window=4, skip_ranges=skip_ranges)
    return StepPlan(first, batch, [PhaseConfig(**phase) for phase in phases])


def saved(plan, step):
    return json.loads(json.dumps(plan.state_dict(step)))


def drawn(plan, start, stop):
    """For each step, (position, set, epoch, row) of its samples."""
    steps = []
    for step in range(start, stop):
        samples = [(position, *plan.plan.sample_at(position)) for position in plan.positions(step)]
        steps.append([(position, plan.plan.sets[number].name, *rest) for position, number, *rest in samples])
    return steps


def assert_epochs_are_complete(steps, counts=COUNTS):
    for name, shards in counts.items():
        own = [(epoch, row) for step in steps for _, found, epoch, row in step if found == name]
        for epoch in range(len(own) // sum(shards)):
            assert sorted(row for found, row in own if found == epoch) == list(range(sum(shards)))


# ------------------------------------------------------------------------------------------------ planned phases
def test_mixture_and_batch_change_at_their_steps():
    plan, constant = step_plan(SWITCH, LARGER), step_plan()
    assert [plan.position_of_step(step) for step in (0, 5, 8, 9, 10)] == [0, 60, 96, 120, 144]
    assert drawn(plan, 0, 5) == drawn(constant, 0, 5)
    names = Counter(name for step in drawn(plan, 5, 10) for _, name, _, _ in step)
    assert names["beta"] == 0 and names["gamma"] > 3 * names["alpha"]
    # Positions 60 to 80 are the first period of the new mixture: its proportions are exact.
    period = Counter(plan.plan.sets[plan.plan.sample_at(position)[0]].name for position in range(60, 80))
    assert period == {"alpha": 4, "gamma": 16}
    assert_epochs_are_complete(drawn(plan, 0, 60))


def test_another_batch_takes_the_same_samples_in_other_portions():
    plan = step_plan({"from_step": 3, "global_batch": 18})
    flat = [sample for step in drawn(plan, 0, 7) for sample in step]
    assert flat == [sample for step in drawn(step_plan(), 0, 9) for sample in step]


def test_phases_pass_over_skipped_ranges():
    plan = step_plan(SWITCH, skip_ranges=[(20, 50), (95, 100)])
    assert plan.position_of_step(5) == 90
    assert plan.plan.phases[1].start == 90
    assert [sample[0] for sample in drawn(plan, 5, 6)[0]] == [90, 91, 92, 93, 94, *range(100, 107)]


# ------------------------------------------------------------------------------------------------ decided at a restart
phase_lists = st.lists(
    st.tuples(
        st.integers(1, 5),
        st.sampled_from([None, {"alpha": 1.0}, {"beta": 0.3, "gamma": 0.7}, {"alpha": 0.5, "beta": 0.1, "gamma": 0.4}]),
        st.sampled_from([4, 6, 24]),
    ),
    max_size=4,
)


@settings(max_examples=15, deadline=None)
@given(phase_lists, st.integers(1, 16), st.integers(0, 3))
def test_phases_added_at_a_restart_give_what_a_planned_run_draws(items, restart, known):
    step, phases = 0, []
    for after, weights, batch in items:
        step += after
        phases.append({"from_step": step, "weights": weights, "global_batch": batch})
    # A phase of the past was known; those to come were known in part, or only decided at the restart.
    before = [phase for number, phase in enumerate(phases) if phase["from_step"] < restart or number < known]
    planned = step_plan(*phases)
    resumed = step_plan(*phases).resumed(saved(step_plan(*before), restart))
    assert drawn(resumed, 0, 20) == drawn(planned, 0, 20)
    again = step_plan(*phases).resumed(saved(resumed, restart + 2))
    assert drawn(again, 0, 20) == drawn(planned, 0, 20)
    assert saved(again, 19) == saved(planned, 19)


@settings(max_examples=15, deadline=None)
@given(phase_lists)
def test_every_epoch_is_whole_whatever_the_phases(items):
    step, phases = 0, []
    for after, weights, batch in items:
        step += after
        phases.append({"from_step": step, "weights": weights, "global_batch": batch})
    assert_epochs_are_complete(drawn(step_plan(*phases), 0, 40))


def test_a_set_is_added_and_removed_at_a_restart():
    state = saved(step_plan(counts={"alpha": (123,), "beta": (40,)}), 6)
    added = {"from_step": 6, "weights": {"alpha": 0.4, "beta": 0.4, "gamma": 0.2}}
    plan = step_plan(added, counts={"alpha": (123,), "beta": (40,), "gamma": (17,)}).resumed(state)
    assert {name for step in drawn(plan, 6, 12) for _, name, _, _ in step} == set(COUNTS)
    removed = {"from_step": 9, "weights": {"alpha": 1.0}}
    plan = step_plan(added, removed, counts={"alpha": (123,), "beta": (40,), "gamma": (17,)}).resumed(saved(plan, 8))
    assert {name for step in drawn(plan, 9, 12) for _, name, _, _ in step} == {"alpha"}


@pytest.mark.parametrize(
    ("then", "now", "words"),
    [
        ({}, {"batch": 16}, "train.global_batch was 12 and is now 16, but the checkpoint is of step 7"),
        (
            {},
            {"weights": {"alpha": 1.0}},
            "mixture by the weights of the sets was .*'beta': 0.5.* and is now .*1.0",
        ),
        ({"phases": [SWITCH]}, {}, "the mixture from step 5 on was .* and is now none.*from step 7 on at the earliest"),
        ({}, {"phases": [SWITCH]}, "the mixture from step 5 on was none and is now"),
        ({}, {"phases": [{"from_step": 6, "global_batch": 6}]}, "global_batch from step 6 on was none and is now 6"),
    ],
)
def test_the_past_cannot_change(then, now, words):
    then, now = dict(then), dict(now)
    state = saved(step_plan(*then.pop("phases", []), **then), 7)
    with pytest.raises(AdhmrError, match=words):
        step_plan(*now.pop("phases", []), **now).resumed(state)


def test_other_settings_of_the_order_are_another_run():
    state = saved(step_plan(), 3)
    for field, value in (("seed", 8), ("period", 10), ("version", 0)):
        with pytest.raises(AdhmrError, match=rf"has {field} {value}, the configuration has"):
            step_plan().resumed(state | {field: value})
    with pytest.raises(AdhmrError, match="no longer gives the samples"):
        step_plan().resumed(state | {"checksum": "0" * 64})


# ------------------------------------------------------------------------------------------------ changed data
def test_changed_data_are_refused_unless_a_phase_takes_them():
    state = saved(step_plan(), 4)
    new = {"fingerprints": {"alpha": "another"}, "counts": {**COUNTS, "alpha": (31,)}}
    words = r"data set alpha has changed .* of step 4 .*phases: \[\{from_step: 4, weights: \{'alpha': 0.5"
    with pytest.raises(AdhmrError, match=words):
        step_plan(**new).resumed(state)
    with pytest.raises(AdhmrError, match=words):  # a later phase does not help: alpha is drawn until then
        step_plan({"from_step": 5, "weights": FIRST}, **new).resumed(state)
    taken = {"from_step": 4, "weights": FIRST}
    plan = step_plan(taken, **new).resumed(state)
    assert [phase.sources["alpha"]["fingerprint"] for phase in plan.plan.phases] == ["as it was", "another"]
    steps = drawn(plan, 4, 40)
    assert_epochs_are_complete(steps, {"alpha": (31,)})  # the new data begin with an epoch of their own
    beta = [row for step in [*drawn(step_plan(), 0, 4), *steps] for _, name, epoch, row in step if name == "beta"]
    assert sorted(beta[:40]) == list(range(40))  # what has not changed goes on in its epoch
    again = step_plan(taken, **new).resumed(saved(plan, 9))
    assert drawn(again, 9, 40) == drawn(plan, 9, 40)
    with pytest.raises(AdhmrError, match="data set alpha has changed"):  # the former data are the changed ones now
        step_plan(taken).resumed(saved(plan, 9))


def test_data_that_are_no_longer_drawn_may_change():
    state = saved(step_plan(SWITCH), 6)
    plan = step_plan(SWITCH, fingerprints={"beta": "another"}).resumed(state)
    assert drawn(plan, 6, 12) == drawn(step_plan(SWITCH), 6, 12)


def test_settings_of_a_set_count_as_its_data():
    state = saved(step_plan(settings={"padding": None}), 4)
    with pytest.raises(AdhmrError, match=r"data set alpha has changed .*padding None then, 1.5 now"):
        step_plan(settings={"padding": 1.5}).resumed(state)


# ------------------------------------------------------------------------------------------------ samples left out
def test_skip_ranges_may_be_added_for_what_is_to_come():
    plan = step_plan(skip_ranges=[(10, 20)])
    state = saved(plan, 3)
    assert state["position"] == 46
    later = step_plan(skip_ranges=[(10, 20), (46, 50), (90, 95)]).resumed(state)
    assert later.position_of_step(3) == 50 and drawn(later, 0, 3) == drawn(plan, 0, 3)
    for other in ([(5, 6), (10, 20)], [], [(10, 21)], [(10, 20), (45, 50)]):
        with pytest.raises(AdhmrError, match=r"skip_ranges .* of step 3 is at position 46 and skipped \[\[10, 20\]\]"):
            step_plan(skip_ranges=other).resumed(state)
    # What is still to come may also be taken back.
    assert step_plan(skip_ranges=[(10, 20), (46, 50)]).resumed(saved(later, 4)).position_of_step(7) == 98


def test_a_rewound_run_leaves_out_the_samples_of_a_spike():
    """Back at step 6, the samples that steps 8 and 9 took are lost; the phases follow at their steps."""
    whole = step_plan(SWITCH, {"from_step": 12, "weights": FIRST}, LARGER)
    before = drawn(whole, 0, 12)
    plan = whole.without_steps(8, 10, step=6)
    after = drawn(plan, 0, 14)
    assert after[:8] == before[:8]
    assert after[8:10] == before[10:12]
    assert plan.plan.phases[-1].start == plan.position_of_step(12) == whole.position_of_step(12) + 48
    # The configuration knows nothing of it: the state does.
    resumed = step_plan(SWITCH, {"from_step": 12, "weights": FIRST}, LARGER).resumed(saved(plan, 7))
    assert drawn(resumed, 0, 14) == after
    resumed = step_plan(SWITCH, {"from_step": 12, "weights": FIRST}, LARGER).resumed(saved(resumed, 13))
    assert drawn(resumed, 0, 14) == after
    with pytest.raises(AdhmrError, match="the run is at 6"):
        whole.without_steps(5, 7, step=6)


# ------------------------------------------------------------------------------------------------ configuration
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"phases": [{"from_step": 3}]}, "from step 3 on changes nothing"),
        ({"phases": [{"from_step": 3, "weights": {"b": 1}}]}, "weighs 'b', which is none of the sets"),
        ({"phases": [{"from_step": 3, "global_batch": 4}] * 2}, "expected rising steps"),
        ({"sets": [{"path": "a", "weight": 0}]}, "every set has weight 0"),
    ],
)
def test_configurations_that_cannot_be_meant(changes, words):
    with pytest.raises(ValueError, match=words):
        DataConfig(**{"sets": [{"path": "a"}], **changes})
