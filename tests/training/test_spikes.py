"""When a loss counts as a spike."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adhmr.config.training import SpikeConfig
from adhmr.training.spikes import SpikeDetector

CONFIG = SpikeConfig(threshold=8, window=40, patience=3)


def seen(losses, config=CONFIG) -> list[int]:
    detector = SpikeDetector(config)
    return [detector.see(loss) for loss in losses]


def noise(count: int, seed: int = 0) -> list[float]:
    return (1 + 0.1 * np.random.default_rng(seed).standard_normal(count)).tolist()


def test_a_spike_is_seen_when_it_has_lasted():
    assert seen([*noise(60), 5, 5, 5, 5]) == [0] * 62 + [3, 4]


def test_single_odd_steps_are_no_spike_and_do_not_move_the_range():
    losses = noise(60)
    for step in range(30, 60, 3):
        losses[step] = losses[step + 1] = 100.0
    assert not any(seen(losses))
    assert seen([*losses, 5, 5, 5])[-1] == 3


def test_falling_and_slowly_rising_losses_are_no_spike():
    falling = [10 * math.exp(-step / 30) + value / 10 for step, value in enumerate(noise(200))]
    rising = [1 + step / 400 + value for step, value in enumerate(noise(400))]
    assert not any(seen(falling)) and not any(seen(rising))


def test_no_alarm_before_half_a_window_is_known():
    assert not any(seen([*noise(19), 50, 50, 50]))


def test_nan_is_passed_over():
    assert seen([*noise(60), 5, math.nan, 5, math.nan, 5])[-1] == 3


@given(st.lists(st.floats(0, 1e6) | st.just(math.nan), max_size=120), st.integers(0, 120))
def test_state_goes_on_exactly(losses, cut):
    import json

    whole = seen(losses)
    first = SpikeDetector(CONFIG)
    for loss in losses[:cut]:
        first.see(loss)
    second = SpikeDetector(CONFIG)
    second.load_state(json.loads(json.dumps(first.state())))
    assert [second.see(loss) for loss in losses[cut:]] == whole[cut:]


def test_a_checkpoint_of_a_run_that_did_not_watch():
    detector = SpikeDetector(CONFIG)
    for loss in noise(60):
        detector.see(loss)
    detector.load_state(None)
    assert not any(detector.see(5) for _ in range(10))
