"""One of the worker processes of a stage whose work is shared: its device, its name, and the plan from which others
read how far the stage is. What it does is in worker.py, what its units become with the stages."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from adhmr.atomic_file import write_atomically
from adhmr.config.common import LedgerConfig
from adhmr.preference.progress import LEDGERS, PLAN_NAME, WORKERS
from adhmr.preference.worker import Presence, Work, Worker, writing
from adhmr.signals import StopRequest

STOP_MARGIN = 30.0  # seconds before the job's end to leave, when no signal came: the length of a batch


def share(
    output: Path,
    ledger: LedgerConfig,
    units: Mapping[str, int],
    works_of: Callable[[str], list[Work]],
    device: torch.device,
    stop: StopRequest,
    check_device: Callable[[], None],
) -> None:
    """Be one of the workers on `output`, until all is done or `stop` says to leave; raises as Worker.run does.

    units: how many each ledger has, by its name. works_of: the works of a worker of that name.
    """
    name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
    with writing(output):
        works = works_of(name)
        plan = {"lease_seconds": ledger.lease_seconds, "attempts": ledger.attempts, "units": dict(units)}
        write_atomically(output / LEDGERS / PLAN_NAME, json.dumps(plan, indent=1) + "\n")
    Worker(output, works, Presence(output / LEDGERS / WORKERS, name, str(device)), stop, check_device).run()


def own_device() -> torch.device:
    """The GPU of this process's number on its node, where a launcher gave it one (LOCAL_RANK); else the first."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    number = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()  # a launcher may hide the others
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def check_device(device: torch.device) -> None:
    """Raises when an error of the device has ended its use by this process: CUDA's stay until the process ends."""
    if device.type == "cuda":
        torch.zeros(1, device=device).item()
