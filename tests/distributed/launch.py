"""Starts the toy trainer or a stage in real processes that talk over gloo. The processes come from a fork server that
has torch already imported, so that each start costs a tenth of a second."""

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from adhmr.errors import AdhmrError
from tests.training.toy import toy_trainer

SERVER = multiprocessing.get_context("forkserver")
# What DeepSpeed, Accelerate and adapters import when they are used, seconds a process.
LATE = ["deepspeed.runtime.zero.muon.original_muon", "transformers", "adhmr.training.tasks.dpo", "peft"]
PRELOADED = ["tests.training.toy", "adhmr.training.zero", *LATE]


def start(run_dir: Path, world_size: int, settings: dict) -> list[BaseProcess]:
    """One process a rank, running `toy_trainer(run_dir, settings).fit()`."""
    return _start(_toy, run_dir, world_size, settings)


def train_stage(stage: dict, world_size: int) -> list[int]:
    """Exit codes of a whole run of a training stage, as its file describes it."""
    output = Path(stage["output"])
    output.mkdir(parents=True, exist_ok=True)
    return wait(_start(_stage, output, world_size, stage), 300)


def _start(work: Callable[[Path, dict], None], folder: Path, world_size: int, settings: dict) -> list[BaseProcess]:
    _restart_server()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = (work, folder, settings)
    processes = [SERVER.Process(target=_rank, args=(*common, rank, world_size, port)) for rank in range(world_size)]
    for process in processes:
        process.start()
    return processes


def wait(processes: list[BaseProcess], seconds: float = 300) -> list[int]:
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


def _restart_server() -> None:
    """Once: a process has one fork server, and loaders of earlier tests may have started it without our modules."""
    global PRELOADED
    if PRELOADED:
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # the fork server is started from it
        forkserver._forkserver._stop()  # made for tests, says Python's source
        SERVER.set_forkserver_preload(PRELOADED)
        PRELOADED = []


def _toy(run_dir: Path, settings: dict) -> None:
    toy_trainer(run_dir, settings).fit()


def _stage(run_dir: Path, stage: dict) -> None:
    from pydantic import TypeAdapter

    from adhmr.config.stages import Stage
    from adhmr.training.run import run_stage

    run_stage(TypeAdapter(Stage).validate_python(stage))


def _rank(
    work: Callable[[Path, dict], None], run_dir: Path, settings: dict, rank: int, world_size: int, port: int
) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)  # torch was imported before, by the fork server
    if world_size > 1:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size),
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        )  # fmt: skip
    try:
        work(run_dir, settings)
    except AdhmrError as error:
        (Path(run_dir) / f"error-{rank}.txt").write_text(str(error))
        sys.exit(error.exit_code)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
