"""One of the workers that share the units of a ledger: claim, make, mark, until nothing is left. Waits for the others,
takes over from the dead, leaves when asked to. What units become: preference_set.py, how they are shared in ledger.py.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import json
import os
import socket
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from adhmr.atomic_file import write_atomically
from adhmr.errors import AdhmrError
from adhmr.preference.ledger import BEATS, FileNote, Lease, Ledger
from adhmr.signals import EXIT_REQUEUE, StopRequest

SECONDS_BETWEEN_LINES = 20.0
HANG_SECONDS = 1800.0  # without a batch: the process ends to be started again, and others may take its unit
LOOK_SECONDS = 5.0  # between two looks for something to do, at most
NAMED = 8  # failed units that a message names


class OutputError(AdhmrError):
    """The output cannot be written: no fault of the unit that was being made."""


@contextlib.contextmanager
def writing(output: Path) -> Iterator[None]:
    """Around all that writes below `output`: turns its OSErrors into an OutputError."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "make room, then start the same command again" if full else "see to that, then start it again"
        reason = f"{error.strerror or error} ({error.filename})" if error.filename else error.strerror or str(error)
        raise OutputError(f"{output}: cannot be written: {reason}; {remedy}: it goes on after what is done") from error


@dataclass(frozen=True)
class Work:
    """A ledger's units and how one is made.

    make(unit, pause): makes the unit's files and says what they are. It calls `pause` between pieces of some seconds,
    which may raise; then it leaves nothing behind.
    """

    ledger: Ledger
    make: Callable[[str, Callable[[], None]], list[FileNote]]
    after: Ledger | None = None  # whose units must all be done before

    def begins(self) -> bool:
        return self.after is None or self.after.complete()

    def over(self) -> bool:
        """Nothing is left to do or to wait for; what comes after failed units is never done."""
        if self.after is not None and self.after.settled() and not self.after.complete():
            return True
        return self.ledger.settled()


class Presence:
    """The file workers/NAME.json: who this worker is and what it does; its time is that of the last sign of life."""

    def __init__(self, folder: Path, name: str, device: str):
        self._path = folder / f"{name}.json"
        job = {key: os.environ.get(f"SLURM_{key.upper()}") for key in ("job_id", "array_task_id")}
        self._who = {"host": socket.gethostname(), "pid": os.getpid(), "device": device}
        self._who |= {key: value for key, value in job.items() if value is not None}

    def say(self, unit: str | None, done: int) -> None:
        write_atomically(self._path, json.dumps({**self._who, "unit": unit, "done": done}) + "\n", sync=False)

    def beat(self) -> None:
        os.utime(self._path)

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


class _Heart(threading.Thread):
    """Gives signs of life for the worker and its lease, as long as the worker gets on."""

    def __init__(self, presence: Presence, every: float):
        super().__init__(daemon=True, name="signs of life")
        self.lease: Lease | None = None
        self._presence, self._every = presence, every
        self._closed, self._progress = threading.Event(), time.monotonic()

    def progress(self) -> None:
        self._progress = time.monotonic()

    def run(self) -> None:
        while not self._closed.wait(self._every):
            if time.monotonic() - self._progress > HANG_SECONDS:
                print(f"no progress for {HANG_SECONDS:.0f} s; this worker ends, start it again", file=sys.stderr)
                faulthandler.dump_traceback()
                os._exit(EXIT_REQUEUE)
            for life in (self.lease, self._presence):
                with contextlib.suppress(OSError):  # a file system that does not answer: perhaps next time
                    if life is not None:
                        life.beat()

    def __enter__(self) -> _Heart:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self.join(5)  # it may be waiting for a file system that does not answer


class _Left(Exception):
    """Asked to stop."""


class _Overtaken(Exception):
    """Another worker has finished the unit meanwhile."""


class Worker:
    """Makes units of several works until all are over.

    check_device: raises when the device is lost to this process, asked for after an error.
    """

    def __init__(
        self,
        output: Path,
        works: Sequence[Work],
        presence: Presence,
        stop: StopRequest,
        check_device: Callable[[], None] = lambda: None,
    ):
        self._output, self._works, self._presence = output, works, presence
        self._stop, self._check_device = stop, check_device
        self._lease_seconds = works[0].ledger.lease_seconds
        self._heart = _Heart(presence, self._lease_seconds / BEATS)
        self._made, self._said = 0, time.monotonic()

    def run(self) -> None:
        """Raises SystemExit(EXIT_REQUEUE) when asked to stop, AdhmrError when units failed or the output cannot be
        written; all leases are let go."""
        with self._heart:
            try:
                self._until_over()
            except _Left:
                print(f"leaving ({self._stop.reason}): its unit is free; the same command goes on", flush=True)
                raise SystemExit(EXIT_REQUEUE) from None
            finally:
                self._presence.end()
        self._report_failures()

    def _until_over(self) -> None:
        while True:
            with writing(self._output):
                work, lease = self._claim()
                self._presence.say(None if lease is None else lease.unit, self._made)
            if lease is not None:
                self._attempt(work, lease)
                continue
            if all(work.over() for work in self._works):
                return
            self._wait(min(self._lease_seconds / BEATS / 4, LOOK_SECONDS))

    def _claim(self) -> tuple[Work, Lease] | tuple[None, None]:
        for work in self._works:
            if work.begins():
                # Workers begin at different places, so that they seldom reach for the same unit.
                first = zlib.crc32(work.ledger.worker.encode()) % max(len(work.ledger.units), 1)
                lease = work.ledger.claim(first)
                if lease is not None:
                    return work, lease
        return None, None

    def _attempt(self, work: Work, lease: Lease) -> None:
        begin = time.monotonic()

        def pause() -> None:
            self._heart.progress()
            if self._stop.reason is not None:
                raise _Left
            if (lease.lost or lease.attempt > 1) and work.ledger.is_done(lease.unit):
                raise _Overtaken

        self._heart.lease = lease
        try:
            pause()
            files = work.make(lease.unit, pause)
            with writing(self._output):
                work.ledger.finish(lease, files, time.monotonic() - begin)
            self._made += 1
            self._say(work)
        except (_Left, KeyboardInterrupt):
            raise
        except _Overtaken:
            return
        except Exception as error:
            with contextlib.suppress(OSError):
                lease.beat()
            if lease.lost or work.ledger.is_done(lease.unit):
                return  # another has it or made it: whoever wrote the index has removed temporary files
            if isinstance(error, OutputError):
                raise
            reason = str(error) if isinstance(error, AdhmrError) else f"{type(error).__name__}: {error}"
            print(f"{work.ledger.folder.name}, unit {lease.unit}, attempt {lease.attempt}: {reason}", file=sys.stderr)
            with writing(self._output):
                work.ledger.fail(lease, " ".join(reason.split()), traceback.format_exc())
            self._check_device()
        finally:
            self._heart.lease = None
            with contextlib.suppress(OSError):  # then it lapses
                lease.let_go()

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            self._heart.progress()
            if self._stop.reason is not None:
                raise _Left
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.2))

    def _say(self, work: Work) -> None:
        if work.after is None and time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
            name, done, total = work.ledger.folder.name, len(work.ledger.marked()), len(work.ledger.units)
            print(f"{name}: {done}/{total} units, {self._made} by this worker", flush=True)
            self._said = time.monotonic()

    def _report_failures(self) -> None:
        """Raises AdhmrError when units were given up."""
        failed = [(work.ledger, unit) for work in self._works for unit in work.ledger.given_up()]
        if not failed:
            return
        lines = []
        for ledger, unit in failed[:NAMED]:
            failure = ledger.last_failure(unit)
            lines.append(f"{ledger.folder.name} unit {unit}, attempt {failure.attempt}: {failure.reason}")
        more = f"; and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
        raise AdhmrError(
            f"{self._output}: all other units are done, but {len(failed)} failed: {'; '.join(lines)}{more}. Stack "
            f"traces are in {self._output}/ledger/*/failed: correct the cause, then `adhmr retry` a submitted run, or "
            f"delete these folders and start again"
        )
