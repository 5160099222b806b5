"""Work in threads beside a loop, with results in the order of the items: ahead of a device, or behind it. What is read,
cut, packed and written there is none of this file's business."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(make: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int) -> Iterator[Result]:
    """make(item) of every item, by `threads` threads.

    Items are drawn by whoever takes the results, `ahead` more than results are taken: so many wait or are being made,
    and no more is in memory. An error of `make` comes out in the place of its result. Closing waits for what is being
    made; what is not begun never begins.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
