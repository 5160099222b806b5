"""RUN/stage.json: whether a stage of a pipeline has begun or is done, and what made it: settings, inputs, code.

Who writes it when is up to the launchers; what a stage's own folder holds is no concern of this file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from adhmr.atomic_file import write_atomically

FILE = "stage.json"


@dataclass(frozen=True)
class Fingerprint:
    """What a result depends on, in two parts: `settings` (configuration and inputs) and `code`, each with that of the
    stages it reads. As text, `settings-code`."""

    settings: str
    code: str

    def __str__(self) -> str:
        return f"{self.settings}-{self.code}"

    @classmethod
    def read(cls, text: str) -> Fingerprint | None:
        settings, dash, code = text.partition("-")
        return cls(settings, code) if dash else None


@dataclass(frozen=True)
class StageRecord:
    state: Literal["started", "done"]
    fingerprint: str  # of a Fingerprint
    seconds: float = 0.0  # of the process that finished it
    parts: dict[str, str] = field(default_factory=dict)  # hashes of the code files, inputs, defaults: to name a change
    accepted: list[str] = field(default_factory=list)  # code versions that really made it, taken for a later one


def read_record(run_dir: Path) -> StageRecord | None:
    """None: never begun, or a damaged file."""
    try:
        return StageRecord(**json.loads((Path(run_dir) / FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write_record(run_dir: Path, record: StageRecord) -> None:
    write_atomically(Path(run_dir) / FILE, json.dumps(asdict(record)))


def mark_done(run_dir: Path, seconds: float) -> None:
    """Of a stage whose record says that it has begun: it is done, by a process of so many seconds."""
    record = read_record(run_dir)
    if record is not None:
        write_record(run_dir, replace(record, state="done", seconds=seconds))


def digest(content: Any) -> str:
    """A short hash of what JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
