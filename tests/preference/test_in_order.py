import threading
import time
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adhmr.preference.in_order import in_order


@given(st.integers(0, 30), st.integers(1, 4), st.integers(0, 6))
@settings(max_examples=40, deadline=None)
def test_results_are_in_the_order_of_the_items(count, threads, ahead):
    def make(item: int) -> int:
        time.sleep(0.0005 * (item % 3))
        return item * item

    assert list(in_order(make, range(count), threads, ahead)) == [item * item for item in range(count)]


def test_no_more_than_asked_for_is_in_memory():
    begun = []
    with closing(in_order(begun.append, range(100), 3, ahead=5)) as results:
        next(results)
        time.sleep(0.05)
        assert sorted(begun) == list(range(6))
        next(results)
        time.sleep(0.05)
        assert sorted(begun) == list(range(7))


def test_work_goes_on_while_the_taker_is_busy():
    results = in_order(lambda item: time.sleep(0.05), range(4), 4, ahead=4)
    begin = time.perf_counter()
    next(results)
    time.sleep(0.05)
    list(results)
    assert time.perf_counter() - begin < 0.18  # one after the other: 0.25 s
    results.close()


def test_an_error_comes_in_the_place_of_its_result():
    def make(item: int) -> int:
        if item == 3:
            raise OSError("the third")
        return item

    results, found = in_order(make, range(10), 2, ahead=4), []
    with pytest.raises(OSError, match="the third"):
        for result in results:
            found.append(result)
    assert found == [0, 1, 2]


def test_closing_waits_for_what_is_being_made_and_begins_nothing_more():
    begun, ended = [], []

    def make(item: int) -> None:
        begun.append(item)
        time.sleep(0.05)
        ended.append(item)

    before = threading.active_count()
    results = in_order(make, range(50), 1, ahead=10)
    next(results)
    results.close()
    assert begun == ended and len(ended) <= 3 and threading.active_count() == before


def test_an_error_of_the_items_is_raised():
    def items():
        yield 1
        raise ValueError("no second")

    with pytest.raises(ValueError, match="no second"):
        list(in_order(str, items(), 1, ahead=1))
