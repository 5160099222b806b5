"""Where each process of a run is: run_dir/heartbeats/rank-00003.json, and what they say when nothing goes on.

Only these files and their reading; who writes them how often, and what follows from silence, is in watchdog.py.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from adhmr.atomic_file import write_atomically

NAMED = 8  # ranks named one by one in a message


@dataclass(frozen=True)
class Heartbeat:
    """The last sign of one process."""

    rank: int
    host: str
    pid: int
    step: int  # optimizer steps made
    phase: str  # what it is doing in this step
    order: int  # which phase of the step it is, from 0; on all ranks alike
    since: float  # unix seconds: when this phase began
    time: float  # unix seconds: when this file was written

    @property
    def silent(self) -> float:
        """Seconds in this phase, by the process's own clock."""
        return self.time - self.since

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}, pid {self.pid}, step {self.step}, {self.phase})"


def heartbeat_file(run_dir: Path, rank: int) -> Path:
    return run_dir / "heartbeats" / f"rank-{rank:05d}.json"


def write_heartbeat(run_dir: Path, heartbeat: Heartbeat) -> None:
    write_atomically(heartbeat_file(run_dir, heartbeat.rank), json.dumps(asdict(heartbeat)), sync=False)


def read_heartbeats(run_dir: Path, world_size: int) -> dict[int, tuple[Heartbeat, float]]:
    """Of the ranks that ever wrote one: the heartbeat and when its file was written, on the file system's clock."""
    found = {}
    for rank in range(world_size):
        path = heartbeat_file(run_dir, rank)
        try:
            found[rank] = (Heartbeat(**json.loads(path.read_text())), path.stat().st_mtime)
        except (OSError, ValueError, TypeError):
            continue  # never written, or by another version
    return found


def who_is_behind(live: Sequence[Heartbeat], lost: Sequence[Heartbeat], missing: Sequence[int]) -> str:
    """One sentence on the ranks. live: still write heartbeats; lost: no longer; missing: never did."""
    parts = []
    if lost:
        parts.append(f"no sign of life from {_listed(lost)}")
    if missing:
        parts.append(f"never heard of {_listed([f'rank {rank}' for rank in missing])}")
    places = {(heartbeat.step, heartbeat.order) for heartbeat in live}
    last = [heartbeat for heartbeat in live if (heartbeat.step, heartbeat.order) == min(places)]
    rest = [heartbeat for heartbeat in live if heartbeat not in last]
    if rest:
        ahead = max(rest, key=lambda heartbeat: (heartbeat.step, heartbeat.order))
        parts.append(f"behind: {_listed(last)}; the foremost: {ahead}")
    elif live:
        everyone = "all ranks" if len(live) > 1 and not parts else _listed(live)
        parts.append(f"{everyone} in one place: step {live[0].step}, {live[0].phase}" if len(live) > 1 else everyone)
    return "; ".join(parts)


def _listed(things: Sequence[object]) -> str:
    more = f" and {len(things) - NAMED} more" if len(things) > NAMED else ""
    return ", ".join(str(thing) for thing in things[:NAMED]) + more
