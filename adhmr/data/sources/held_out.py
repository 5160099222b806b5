"""A validation part of a data set that has only a train split: whole groups (subjects, sequences) are held out, chosen
by a hash of their names, so that both parts are the same in every conversion and share nobody."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from adhmr.data.sources.person import Person
from adhmr.data.sources.source import Rejected, Source

ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class HeldOut:
    """share: of the groups, that are `val`. part: "train" or "val"."""

    share: float
    part: str

    def takes(self, group: str) -> bool:
        """Whether a group belongs to this part."""
        number = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64
        return (number < self.share) == (self.part == "val")


class PartOfSource(Source):
    """The people of a source whose groups a part takes. Those that the source itself rejects count as train."""

    def __init__(self, source: Source, held: HeldOut) -> None:
        self._source = source
        self.name, self.licence, self.image_root = source.name, source.licence, source.image_root
        self._rows: list[int] = []
        for first in range(0, len(source), ROWS_AT_ONCE):
            rows = range(first, min(first + ROWS_AT_ONCE, len(source)))
            for row, one in zip(rows, source.people(rows), strict=True):
                if held.part == "train" if isinstance(one, Rejected) else held.takes(one.group):
                    self._rows.append(row)

    def __len__(self) -> int:
        return len(self._rows)

    def people(self, rows: range) -> list[Person | Rejected]:
        chosen = self._rows[rows.start : rows.stop]
        found: list[Person | Rejected] = []
        for run in _runs(chosen):
            found += self._source.people(run)
        return found

    def files(self) -> Iterable[Path]:
        return self._source.files()


def _runs(rows: list[int]) -> list[range]:
    """Ascending rows as ranges of consecutive ones."""
    runs: list[range] = []
    for row in rows:
        if runs and runs[-1].stop == row:
            runs[-1] = range(runs[-1].start, row + 1)
        else:
            runs.append(range(row, row + 1))
    return runs
