"""How loader worker processes are started and what they are set up with. What they load is in stream.py."""

import contextlib
import ctypes
import multiprocessing.forkserver
import multiprocessing.popen_forkserver
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext, ForkServerProcess

import cv2
import torch

# SLURM and the terminal send these to every process of a job; the trainer acts on them and still needs its workers.
IGNORED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt in <malloc.h>
LARGE_BLOCK = 2**25  # bytes; the most that glibc takes for M_MMAP_THRESHOLD
KEPT_MEMORY = 2**28  # bytes of freed memory that a process keeps at most


class _Popen(multiprocessing.popen_forkserver.Popen):
    def terminate(self) -> None:
        # Workers ignore SIGTERM; Python ends what still runs at exit by it and then waits, which would be for ever.
        self.kill()


class LoaderProcess(ForkServerProcess):
    """A worker process that terminate() ends although it ignores SIGTERM."""

    @staticmethod
    def _Popen(process: ForkServerProcess) -> _Popen:
        return _Popen(process)


class LoaderContext(ForkServerContext):
    """The forkserver context with LoaderProcess as its process."""

    Process = LoaderProcess


def forkserver() -> LoaderContext:
    """The context that starts workers from a clean server process (never by forking the threads of the trainer)."""
    context = LoaderContext()
    context.set_forkserver_preload(["adhmr.data.stream", "adhmr.data.transforms"])
    # The server inherits which signals are ignored, for itself and for the workers that it forks.
    with _ignored(IGNORED_SIGNALS):
        multiprocessing.forkserver.ensure_running()
    return context


def set_up_worker(worker: int) -> None:
    """In a new worker: ignore the trainer's signals, use one thread, keep memory, end when the trainer ends."""
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    end_with_the_parent()


def keep_freed_memory() -> None:
    """Let malloc use the memory of one image for the next (glibc; nothing is done elsewhere).

    Otherwise it returns each image to the system and asks for the next one's pages anew, a fifth of decoding's time.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_MEMORY)


def end_with_the_parent() -> None:
    """In a process made by multiprocessing: exit when the process that made it does, however that ends."""
    threading.Thread(target=_wait_for_the_parent, daemon=True).start()


def _wait_for_the_parent() -> None:
    # The parent in the sense of the operating system is the fork server, which lives as long as its workers do; torch
    # watches only that one, so a killed trainer would leave both behind.
    multiprocessing.parent_process().join()
    os._exit(1)


@contextlib.contextmanager
def _ignored(numbers: tuple[signal.Signals, ...]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may change handlers
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
