"""One command at a time in the folder of a pipeline: a lock that ends with the processes that hold it."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adhmr.errors import AdhmrError

PATIENCE = 5.0  # s: processes that were killed just now may need a moment to go


@contextmanager
def pipeline_lock(output: Path) -> Iterator[int]:
    """Holds output/.pipeline.lock; its file descriptor, which children may keep open to hold it too.

    Raises AdhmrError: another process holds it.
    """
    output.mkdir(parents=True, exist_ok=True)
    path = output / ".pipeline.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise AdhmrError(
                        f"{output}: another `adhmr pipeline`, or a stage that one started, works here "
                        f"({path.read_text().strip() or 'unknown process'}); wait for it, or stop it"
                    ) from None
                time.sleep(0.1)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"started as process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)
