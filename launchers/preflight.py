"""`python -m launchers.preflight RUN --gpus N`: looks at this node before a rank starts there, once a node.

Exit code 87 and one line: the node is unfit, the run goes elsewhere. 2: the run folder itself is unfit (full), on any
node. What follows is step_end.py's.
"""

from __future__ import annotations

import argparse
import errno
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path

from adhmr.errors import AdhmrError
from launchers.launch_folder import EXIT_BAD_NODE

PROBE_BYTES = 1 << 20  # of the write test
LEAST_FREE = 1 << 30  # bytes in the run folder's file system: less is about to be full
LEAST_TEMPORARY = 64 << 20  # bytes in the node's folder for temporary files
CLOCK_SECONDS = 60.0  # that this node's clock and the file system's may differ: heartbeats and logs are read by both
MATRIX = 1024  # side of the product that each GPU makes
FULL = (errno.ENOSPC, errno.EDQUOT)


class UnfitNode(AdhmrError):
    """Something on this node is broken; another one may do."""

    exit_code = EXIT_BAD_NODE


def check_node(run_dir: Path, gpus: int) -> None:
    """Raises UnfitNode; AdhmrError for what is wrong on every node."""
    _check_run_folder(run_dir)
    _check_temporary_folder()
    if gpus:
        _check_gpus(gpus)


def _check_run_folder(run_dir: Path) -> None:
    """That what is written there is read again, that there is room, and that the clocks agree."""
    content = secrets.token_bytes(PROBE_BYTES)
    probe = run_dir / "launch" / f".preflight-{socket.gethostname()}-{os.getpid()}"
    try:
        free = shutil.disk_usage(run_dir).free
        try:
            before = time.time()
            with open(probe, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            written, after = probe.stat().st_mtime, time.time()
            same = probe.read_bytes() == content
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in FULL:
            raise AdhmrError(f"{run_dir}: {error.strerror}; make room, then submit the stage again") from None
        raise UnfitNode(f"{run_dir}: the run folder cannot be used from here ({error.strerror})") from None
    if not same:
        raise UnfitNode(f"{run_dir}: what was written there is read back differently")
    if free < LEAST_FREE:
        raise AdhmrError(
            f"{run_dir}: {free / 1e9:.2f} GB are free, expected {LEAST_FREE / 1e9:.1f} GB at least; make room, then "
            "submit the stage again"
        )
    wrong = max(written - after, before - written)
    if wrong > CLOCK_SECONDS:
        raise UnfitNode(f"the clock of this node and that of the file system of {run_dir} differ by {wrong:.0f} s")


def _check_temporary_folder() -> None:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < LEAST_TEMPORARY:
        raise UnfitNode(f"{folder}: {free / 1e6:.0f} MB are free, expected {LEAST_TEMPORARY / 1e6:.0f} MB at least")


def _check_gpus(expected: int) -> None:
    """That as many are seen as the job asked for, and that each takes memory and multiplies."""
    import torch  # seconds

    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen < expected:
        raise UnfitNode(f"{seen} GPUs are seen, {expected} were asked for (resources.gpus_per_node; see nvidia-smi)")
    for index in range(expected):
        try:
            ones = torch.ones(MATRIX, MATRIX, device=f"cuda:{index}")
            right = bool(((ones @ ones) == MATRIX).all())
        except RuntimeError as error:  # busy, out of memory, fallen off the bus
            raise UnfitNode(f"GPU {index}: {str(error).splitlines()[0]}") from None
        if not right:
            raise UnfitNode(f"GPU {index}: a product of matrices of ones is wrong")


def main() -> None:
    parser = argparse.ArgumentParser(description="Look at this node before a rank of RUN starts here.")
    parser.add_argument("run_dir", type=Path, metavar="RUN")
    parser.add_argument("--gpus", type=int, default=0, help="that this node must have")
    arguments = parser.parse_args()
    try:
        check_node(arguments.run_dir, arguments.gpus)
    except AdhmrError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
