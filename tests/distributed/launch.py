"""Starts the toy trainer in real processes that talk over gloo. The processes come from a fork server that has torch
already imported, so that each start costs a tenth of a second."""

import multiprocessing
import os
import socket
import sys
import traceback
from multiprocessing.process import BaseProcess
from pathlib import Path

from adhmr.errors import AdhmrError
from tests.training.toy import toy_trainer

SERVER = multiprocessing.get_context("forkserver")
# What DeepSpeed and Accelerate import when they are used, seconds a process.
LATE = ["deepspeed.runtime.zero.muon.original_muon", "transformers"]
SERVER.set_forkserver_preload(["tests.training.toy", "adhmr.training.zero", *LATE])


def start(run_dir: Path, world_size: int, settings: dict) -> list[BaseProcess]:
    """One process a rank, running `toy_trainer(run_dir, settings).fit()`."""
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # the fork server is started from it
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [SERVER.Process(target=_rank, args=(run_dir, settings, r, world_size, port)) for r in range(world_size)]
    for process in processes:
        process.start()
    return processes


def wait(processes: list[BaseProcess], seconds: float = 60) -> list[int]:
    """Exit codes in rank order; fails the test when a process hangs."""
    for process in processes:
        process.join(seconds)
    hung = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for process in processes:
        process.kill()
    assert not hung, f"ranks {hung} did not end"
    return [process.exitcode for process in processes]


def train(run_dir: Path, world_size: int, settings: dict) -> list[int]:
    """Exit codes of a whole run."""
    return wait(start(run_dir, world_size, settings))


def _rank(run_dir: Path, settings: dict, rank: int, world_size: int, port: int) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    if world_size > 1:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size),
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        )  # fmt: skip
    try:
        toy_trainer(run_dir, settings).fit()
    except AdhmrError as error:
        (Path(run_dir) / f"error-{rank}.txt").write_text(str(error))
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
