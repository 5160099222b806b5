"""Figures of an interval over ranks: two ranks in two threads stand for two processes."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from adhmr.training.meter import IntervalMeter


class Ranks:
    """`gather` and `sum` between threads, as `Distribution` does them between processes."""

    def __init__(self, count: int):
        self.count, self.barrier, self.values = count, threading.Barrier(count), [None] * count

    def distribution(self, rank: int) -> SimpleNamespace:
        def gather(value: Any) -> list[Any]:
            self.values[rank] = value
            self.barrier.wait(10)
            values = list(self.values)
            self.barrier.wait(10)
            return values

        def total(values: torch.Tensor) -> torch.Tensor:
            return torch.stack(gather(values)).sum(0)

        return SimpleNamespace(rank=rank, world_size=self.count, device=torch.device("cpu"), gather=gather, sum=total)

    def run(self, of_rank: Callable[[int, IntervalMeter], Any]) -> list[Any]:
        results: list[Any] = [None] * self.count

        def work(rank: int) -> None:
            results[rank] = of_rank(rank, IntervalMeter(self.distribution(rank)))

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


def values(loss: float) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(loss)}


def test_one_rank_says_nothing_about_others():
    def interval(rank: int, meter: IntervalMeter) -> dict[str, float]:
        meter.add(values(1.0))
        meter.add(values(2.0))
        for _ in range(2):
            meter.add_time(samples=8, seconds=0.5, waited=0.1)
        return meter.figures()

    figures = Ranks(1).run(interval)[0]
    assert figures.pop("peak_memory_gib") > 0.01
    assert figures == pytest.approx({"loss": 1.5, "samples_per_s": 16, "step_time": 0.5, "data_wait": 0.2})


def test_the_slowest_of_two_ranks_is_named():
    def intervals(rank: int, meter: IntervalMeter) -> list[dict[str, float]]:
        found = []
        for alone in ((None, None), (0.3, 0.2)):  # of rank 0, of rank 1
            for _ in range(4):
                meter.add(values(1.0 + rank))
                meter.add_time(8, seconds=0.5 + 0.01 * rank, waited=0.2 * rank, alone=alone[rank])
            found.append(meter.figures())
        return found

    first, second = Ranks(2).run(intervals)
    for mine, others in zip(first, second):
        assert mine["loss"] == others["loss"] == 1.5
        assert mine["step_time"] == pytest.approx(0.5) and mine["step_time_max"] == pytest.approx(0.51)
        assert mine["data_wait"] == 0 and mine["data_wait_max"] == pytest.approx(0.2 / 0.51)
    assert [figures["slowest_rank"] for figures in first] == [1, 0]  # by the wait for data; by the time alone
    assert [figures["slowest_rank_lag"] for figures in first] == pytest.approx([0.2, 0.1])


def test_an_unfinished_interval_goes_on_with_its_sums_but_not_its_times():
    def before(rank: int, meter: IntervalMeter) -> dict[str, Any]:
        meter.add(values(1.0 + rank))
        meter.add_time(8, 100.0, 0.0)
        return meter.state()

    state = Ranks(2).run(before)[0]

    def after(rank: int, meter: IntervalMeter) -> dict[str, float]:
        meter.load_state(state)
        meter.add(values(3.0 + rank))
        meter.add_time(8, 1.0, 0.0)
        return meter.figures()

    assert Ranks(2).run(after)[0]["loss"] == (1 + 2 + 3 + 4) / 4
    alone = Ranks(1).run(after)[0]
    assert alone["loss"] == (1.5 + 3) / 2 and alone["step_time"] == 1.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_peak_memory_on_a_gpu_is_of_the_interval():
    device = torch.device("cuda")
    meter = IntervalMeter(SimpleNamespace(rank=0, world_size=1, device=device, gather=lambda value: [value]))
    before = meter.figures()["peak_memory_gib"]
    large = torch.empty(2**30, dtype=torch.uint8, device=device)
    del large
    assert meter.figures()["peak_memory_gib"] >= before + 0.99
    assert meter.figures()["peak_memory_gib"] < before + 0.5
