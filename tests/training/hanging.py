"""Processes that beat a watchdog and then hang in one way or another, for its tests."""

import ctypes
import multiprocessing
import os
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from adhmr.training.watchdog import Watchdog

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["adhmr.training.watchdog"])


def start(run_dir: Path, ways: list[str], seconds: float) -> list[BaseProcess]:
    """One process a rank, each with its way to hang; their stderr goes to run_dir/stderr."""
    run_dir.mkdir(parents=True, exist_ok=True)
    processes = [SERVER.Process(target=_rank, args=(run_dir, way, r, len(ways), seconds)) for r, way in enumerate(ways)]
    for process in processes:
        process.start()
    return processes


def wait(processes: list[BaseProcess], seconds: float = 60) -> list[int]:
    """Exit codes in rank order; those that still run are killed and have -9."""
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(until - time.monotonic(), 0))
    for process in processes:
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def sleep_in_python() -> None:
    while True:
        time.sleep(0.1)


def sleep_with_the_interpreter_lock() -> None:
    ctypes.PyDLL(None).sleep(600)


def wait_for_the_others() -> None:
    torch.distributed.all_reduce(torch.zeros(3))


def _rank(run_dir: Path, way: str, rank: int, world_size: int, seconds: float) -> None:
    os.dup2(os.open(run_dir / "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    if world_size > 1:
        store = f"file://{run_dir}/store"
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    with Watchdog(seconds, run_dir, rank, world_size, on_hang=_note(run_dir, rank)) as watchdog:
        for step in range(3):
            watchdog.beat(step, "data")
            watchdog.beat(step, "model")
        watchdog.beat(3, "data")
        if way == "data":
            sleep_in_python()
        if way == "lock":
            time.sleep(seconds / 2)  # until its heartbeat says where it is
            sleep_with_the_interpreter_lock()
        watchdog.beat(3, "model")
        if way == "model":
            sleep_in_python()
        if way == "collective":
            wait_for_the_others()
        if way == "die":
            os._exit(7)
        until = time.monotonic() + float(way)  # goes on so long, beating
        step = 4
        while time.monotonic() < until:
            watchdog.beat(step, "model")
            step += 1
            time.sleep(0.02)


def _note(run_dir: Path, rank: int):
    return lambda line: (run_dir / f"on-hang-{rank}").write_text(line)
