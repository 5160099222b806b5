"""`adhmr logs RUN`: the log of a rank, or of a worker of an array, cut to one attempt; --follow goes on reading.

Log files grow over all attempts of a run; each attempt begins with the line that `attempt_line` makes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

from adhmr.errors import AdhmrError
from launchers.launch_folder import LaunchFolder

ATTEMPT = re.compile(rb"^=== attempt (\d+) of job .* ===$", re.MULTILINE)
PAUSE = 0.5  # s between two looks at a file that grows


def attempt_line(attempt: int, job: str, host: str) -> str:
    """What a task prints before its stage begins."""
    return f"=== attempt {attempt} of job {job} on {host}, {time.strftime('%Y-%m-%d %H:%M:%S')} ==="


def log_file(run: Path, rank: int, worker: int | None, batch: bool) -> Path:
    """Raises AdhmrError: there is none, with what there is."""
    launch = LaunchFolder(run)
    job = launch.job()
    if worker is None and job is not None and job.array:
        worker = 0
    path = launch.batch_log(worker) if batch else launch.log(rank, worker)
    if path.exists():
        return path
    if not launch.path.exists():
        raise AdhmrError(f"{run}: no log; only runs that were submitted have one, others print to their terminal")
    there = sorted(file.name for file in launch.logs.glob("*.log"))
    hint = f"there are {', '.join(there[:8])}{' ...' if len(there) > 8 else ''}" if there else "nothing has started yet"
    raise AdhmrError(f"{path}: no such log; {hint}")


def lines_of(path: Path, attempt: int | None, follow: bool) -> Iterator[str]:
    """attempt: 0 gives all; None the latest. With follow it never ends, and goes on into later attempts."""
    content = path.read_bytes()
    begins = [(int(match[1]), match.start()) for match in ATTEMPT.finditer(content)]
    first, stop = 0, len(content)
    if attempt is None and begins:
        first = begins[-1][1]
    elif attempt:
        numbers = [number for number, _ in begins]
        if attempt not in numbers:
            has = f"attempts {', '.join(map(str, numbers))}" if numbers else "no attempt that is marked"
            raise AdhmrError(f"--attempt {attempt}: {path} has {has}")
        index = numbers.index(attempt)
        first, stop = begins[index][1], begins[index + 1][1] if index + 1 < len(begins) else stop
    yield content[first:stop].decode(errors="replace")
    position = len(content)
    while follow:
        with open(path, "rb") as file:
            file.seek(position)
            more = file.read()
        position += len(more)
        if more:
            yield more.decode(errors="replace")
        time.sleep(PAUSE)
