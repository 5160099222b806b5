"""Units of work that any number of processes on any number of hosts share by files alone: who works on what, what is
done, what failed. No process is in charge and no clock of a host is trusted. What a unit is, its worker knows."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from adhmr.atomic_file import temporary_beside, write_atomically

BEATS = 6  # of a lease's owner in the time after which an unchanged lease has lapsed
RESTS = 24  # a unit that failed rests for this part of a lease, times its failures
MAX_DEATHS = 10  # workers that may die over one unit (of its memory?) before it counts as failed


@dataclass(frozen=True)
class FileNote:
    """What a done-mark says of one file."""

    name: str  # relative to the ledger's root
    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class Failure:
    """One attempt at a unit that came to nothing; a died attempt is noted by the worker that takes over."""

    unit: str
    attempt: int
    kind: str  # "error": it raised; "died": its worker did
    worker: str
    reason: str
    trace: str = ""


class Lease:
    """The right to work on a unit: the file leases/UNIT.ATTEMPT, which its owner touches; nobody deletes it.

    A lease is taken over by creating the file of the next attempt. Its time is 0 when the owner has let it go.
    """

    def __init__(self, unit: str, attempt: int, path: Path):
        self.unit, self.attempt = unit, attempt
        self.lost = False  # another worker has taken over: this one was thought dead. Both write the same bytes
        self._path, self._next = path, path.with_name(f"{unit}.{attempt + 1}")
        self._held, self._lock = True, threading.Lock()

    def beat(self) -> None:
        """A sign of life, for another thread to give."""
        with self._lock:
            if self._held:
                os.utime(self._path)  # a shared file system's own time, where it has one
                self.lost = self.lost or self._next.exists()

    def let_go(self) -> None:
        """For the next attempt to begin at once. Needs no room on the disk."""
        with self._lock:
            if self._held:
                os.utime(self._path, (0, 0))
                self._held = False


def file_system_now(folder: Path) -> float:
    """Seconds on the clock of the file system that holds `folder`: the time that a file gets when it is touched."""
    probe = temporary_beside(folder / "clock")
    probe.touch()
    try:
        os.utime(probe)
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


class Ledger:
    """The units of one folder:

    leases/UNIT.ATTEMPT         who works on it; attempts are counted from 1, and the last one counts
    done/UNIT.json              the files that the unit became, with their hashes
    failed/UNIT.ATTEMPT.error.json, UNIT.ATTEMPT.died.json   a Failure

    root: what the files of done-marks are relative to. lease_seconds: a lease that has not changed for so long is dead.
    attempts: that may end in an error before a unit is given up.
    """

    def __init__(
        self, folder: Path, units: Sequence[str], root: Path, worker: str, lease_seconds: float, attempts: int
    ):
        self.folder, self.units, self.root, self.worker = folder, list(units), root, worker
        self.lease_seconds, self.attempts = lease_seconds, attempts
        self._leases, self._done, self._failed = (folder / name for name in ("leases", "done", "failed"))
        for part in (self._leases, self._done, self._failed):
            part.mkdir(parents=True, exist_ok=True)
        self._known_done: set[str] = set()
        self._watched: dict[Path, tuple[int, float]] = {}  # a lease's time, and since when it is the same
        self._rested: dict[tuple[str, int], float] = {}  # (unit, failures) -> when this worker learnt of the last

    # -------------------------------------------------------------------------------------------- what there is
    def is_done(self, unit: str) -> bool:
        """It has a mark, and the files of the mark are there."""
        if unit not in self._known_done and self._files_are_there(unit):
            self._known_done.add(unit)
        return unit in self._known_done

    def marked(self) -> set[str]:
        """Units that have a mark; one listing of a folder."""
        return {name.removesuffix(".json") for name in os.listdir(self._done) if not name.startswith(".")}

    def complete(self) -> bool:
        """All units are done."""
        return all(self.is_done(unit) for unit in self.units)

    def failures(self) -> dict[str, list[tuple[int, str]]]:
        """(attempt, kind) of the attempts that came to nothing, by unit."""
        found: dict[str, list[tuple[int, str]]] = {}
        for name in sorted(os.listdir(self._failed)) if self._failed.exists() else ():  # deleted for another try
            unit, attempt, kind, *_ = [*name.split("."), "", ""]
            if kind in ("error", "died"):  # not a temporary file
                found.setdefault(unit, []).append((int(attempt), kind))
        return found

    def given_up(self) -> list[str]:
        """Units that are not done and get no further attempt."""
        hopeless = (unit for unit, failures in self.failures().items() if self._hopeless(failures))
        return sorted(unit for unit in hopeless if not self.is_done(unit))

    def last_failure(self, unit: str) -> Failure:
        attempt, kind = max(self.failures()[unit])
        return Failure(**json.loads((self._failed / f"{unit}.{attempt}.{kind}.json").read_text()))

    def settled(self) -> bool:
        """No unit is left to work on or to wait for."""
        hopeless = set(self.given_up())
        return all(self.is_done(unit) for unit in self.units if unit not in hopeless)

    # -------------------------------------------------------------------------------------------- taking a unit
    def claim(self, first: int = 0) -> Lease | None:
        """A lease on a unit that is neither done nor held nor given up; None when there is none just now.

        Units that nobody has tried come first, in order from number `first` on and then from 0.
        """
        marked, last, failures = self.marked(), self._last_attempts(), self.failures()
        order = self.units[first:] + self.units[:first]
        for unit in sorted(order, key=lambda unit: unit in last):  # stable
            if unit in marked and self.is_done(unit):
                continue
            if self._hopeless(failures.get(unit, [])) or self._resting(unit, failures):
                continue
            if unit in last and not self._free(unit, last[unit], failures):
                continue
            lease = self._take(unit, last.get(unit, 0) + 1)
            if lease is not None:
                return lease
        return None

    def _take(self, unit: str, attempt: int) -> Lease | None:
        path = self._leases / f"{unit}.{attempt}"
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)  # one worker alone succeeds
        except FileExistsError:
            return None
        try:
            os.write(descriptor, self.worker.encode())
        except OSError:
            os.utime(path, (0, 0))
            raise
        finally:
            os.close(descriptor)
        lease = Lease(unit, attempt, path)
        if self.is_done(unit):  # since it was looked at
            lease.let_go()
            return None
        return lease

    def _free(self, unit: str, attempt: int, failures: dict[str, list[tuple[int, str]]]) -> bool:
        """Whether the last lease of a unit was let go, or is of a worker that died; then that is noted."""
        path = self._leases / f"{unit}.{attempt}"
        with open(path, "rb") as file:  # opening makes NFS ask its server for the attributes
            changed, owner = os.fstat(file.fileno()).st_mtime_ns, file.read().decode()
        if changed == 0:
            return True
        now = time.monotonic()
        known, since = self._watched.get(path, (None, now))
        if known != changed:
            self._watched[path], since = (changed, now), now
        # The file system's clock says at once that a lease is old. Where it is not one clock (some take the time of
        # the host that writes), that may be wrong in either direction; so the lease must also rest while it is looked
        # at, for longer than between two beats, and the time of looking alone is enough in the end.
        watched = now - since
        old = file_system_now(self.folder) - changed / 1e9 > self.lease_seconds
        if watched <= self.lease_seconds and not (old and watched > 1.5 * self.lease_seconds / BEATS):
            return False
        known_failures = failures.get(unit, [])
        if any(attempt == noted for noted, _ in known_failures):
            return True
        self._note(Failure(unit, attempt, "died", owner, f"its worker {owner} gave no sign of life any more"))
        return not self._hopeless([*known_failures, (attempt, "died")])

    def _resting(self, unit: str, failures: dict[str, list[tuple[int, str]]]) -> bool:
        """A unit that has just failed is left alone: the cause may pass, or lie in the worker that failed it."""
        count = sum(kind == "error" for _, kind in failures.get(unit, []))
        if not count:
            return False
        learnt = self._rested.setdefault((unit, count), time.monotonic())
        return time.monotonic() - learnt < count * self.lease_seconds / RESTS

    def _hopeless(self, failures: list[tuple[int, str]]) -> bool:
        kinds = [kind for _, kind in failures]
        return kinds.count("error") >= self.attempts or kinds.count("died") >= MAX_DEATHS

    def _last_attempts(self) -> dict[str, int]:
        last: dict[str, int] = {}
        for name in os.listdir(self._leases):
            unit, attempt = name.rsplit(".", 1)
            last[unit] = max(int(attempt), last.get(unit, 0))
        return last

    # -------------------------------------------------------------------------------------------- ending an attempt
    def finish(self, lease: Lease, files: Sequence[FileNote], seconds: float = 0.0) -> None:
        """Marks the unit as done; its files are there."""
        mark = {"files": [asdict(file) for file in files], "worker": self.worker, "seconds": round(seconds, 3)}
        write_atomically(self._done / f"{lease.unit}.json", json.dumps(mark) + "\n")
        lease.let_go()

    def fail(self, lease: Lease, reason: str, trace: str) -> None:
        """Notes that the attempt raised an error; the unit is free for the next one."""
        self._note(Failure(lease.unit, lease.attempt, "error", self.worker, reason, trace))
        count = sum(kind == "error" for _, kind in self.failures()[lease.unit])
        # This worker waits longer than the others before it tries again.
        self._rested[lease.unit, count] = time.monotonic() + 2 * count * self.lease_seconds / RESTS
        lease.let_go()

    def _note(self, failure: Failure) -> None:
        name = f"{failure.unit}.{failure.attempt}.{failure.kind}.json"
        write_atomically(self._failed / name, json.dumps(asdict(failure), indent=1) + "\n")

    def forget_failures(self) -> int:
        """All units get their attempts anew; returns how many records of failures there were."""
        records = [path for path in self._failed.iterdir() if not path.name.startswith(".")]
        for path in records:
            path.unlink(missing_ok=True)
        return len(records)

    def times_of_marks(self) -> list[float]:
        """When the units that are done were marked, on the file system's clock, ascending."""
        with os.scandir(self._done) as entries:
            return sorted(entry.stat().st_mtime for entry in entries if not entry.name.startswith("."))

    def _files_are_there(self, unit: str) -> bool:
        try:
            mark = json.loads((self._done / f"{unit}.json").read_text())
            files = [FileNote(**file) for file in mark["files"]]
            return all((self.root / file.name).stat().st_size == file.size for file in files)
        except FileNotFoundError:
            return False
