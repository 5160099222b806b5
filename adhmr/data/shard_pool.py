"""One task a shard, on several processes, with progress. What is done to a shard is said by the callers."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

import cv2

from adhmr.data.loader_process import end_with_the_parent
from adhmr.progress import track

AHEAD = 3  # arguments a process that are made before they are needed: some may be large

Result = TypeVar("Result")
_shared: Any = None  # in a process of the pool: what every task of it takes first


def over_shards(
    task: Callable[..., Result], shared: Any, arguments: Sequence[Any], processes: int, title: str
) -> Iterator[Result]:
    """task(shared, argument) for every argument, in order; `processes` 1 works in this process. An error ends it.

    `shared` is sent to each process once: the index of a large data set is worth not sending with every shard.
    """
    if processes == 1 or len(arguments) < 2:
        for argument in track(arguments, title, "shards"):
            yield task(shared, argument)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that has run torch threads may hang
    pool = ProcessPoolExecutor(
        min(processes, len(arguments)), mp_context=context, initializer=_set_up, initargs=(shared,)
    )
    try:
        ahead: deque[Future] = deque()
        for at in track(range(len(arguments)), title, "shards"):
            while len(ahead) < AHEAD * processes and at + len(ahead) < len(arguments):
                ahead.append(pool.submit(_run, task, arguments[at + len(ahead)]))
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _set_up(shared: Any) -> None:
    global _shared
    _shared = shared
    end_with_the_parent()
    cv2.setNumThreads(1)


def _run(task: Callable[..., Result], argument: Any) -> Result:
    return task(_shared, argument)
