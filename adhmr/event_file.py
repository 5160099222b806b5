"""Files of events, one JSON object a line, that survive kills: a line is on disk before anything goes on, and one that
was torn is passed over. What the events are is said by the modules that write them."""

import json
import os
import time
from pathlib import Path
from typing import Any

from adhmr.atomic_file import sync_folder


def append_event(path: Path, line: dict[str, Any]) -> None:
    """Adds `line`, which has an "event", with its time (unix seconds); makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")  # its writer was killed in the middle of a line
        file.write(json.dumps({**line, "time": time.time()}).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def read_events(path: Path) -> list[dict[str, Any]]:
    """Oldest first; [] when there is no such file."""
    lines = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in lines if isinstance(line, dict) and "event" in line]
