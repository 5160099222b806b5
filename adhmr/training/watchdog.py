"""A process that makes no progress: its stacks are written down, and it ends so that it is started again.

Heartbeat files are in heartbeats.py, the end of a process whose interpreter is stuck in native_exit.py.
"""

import contextlib
import faulthandler
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from adhmr.signals import EXIT_REQUEUE
from adhmr.training.flight_recorder import write_collectives
from adhmr.training.heartbeats import Heartbeat, read_heartbeats, who_is_behind, write_heartbeat
from adhmr.training.native_exit import NativeExit

LOOK_SECONDS = 5.0  # between two looks at the beats
HEARTBEATS_PER_SECOND = 20  # files written by all ranks of a run together, at most: they share a file system
OTHERS_SECONDS = 20.0  # wait at most so long for the stacks of the others: the first that ends takes them along
COLLECTIVES_SECONDS = 10.0  # for PyTorch to say which collectives are pending
GIVE_UP_SECONDS = 120.0  # for writing all that: the file system may be what hangs


class _Beat(NamedTuple):
    step: int
    phase: str
    order: int  # of the phase in its step
    since: float  # unix seconds


class Watchdog:
    """Context manager around training. After `seconds` without a `beat` of any rank, every rank appends the stacks of
    its threads to run_dir/hang/rank-00003.txt and ends with EXIT_REQUEUE; one of them says on stderr who is behind.

    Time in which this process did not run (SIGSTOP, a suspended machine) does not count, up to twice `seconds`. When
    a C call holds the interpreter lock, the stacks are written all the same, and the process ends after twice
    `seconds`. on_hang: called with the line before the end, in the watchdog's thread.
    """

    def __init__(
        self,
        seconds: float,
        run_dir: str | Path,
        rank: int = 0,
        world_size: int = 1,
        on_hang: Callable[[str], None] | None = None,
    ):
        self._seconds = seconds
        self._run_dir = Path(run_dir)
        self._rank, self._world_size = rank, world_size
        self._on_hang = on_hang
        self._look_every = min(LOOK_SECONDS, seconds / 10)
        self._write_every = max(self._look_every, world_size / HEARTBEATS_PER_SECOND)
        self._host, self._pid = socket.gethostname(), os.getpid()
        self._stacks = self._run_dir / "hang" / f"rank-{rank:05d}.txt"
        self._closed, self._writing = threading.Event(), threading.Lock()
        self._ending = False
        self._beat = _Beat(0, "start", 0, time.time())

    def beat(self, step: int, phase: str) -> None:
        """Progress: `phase` of step `step` begins. All ranks beat alike, so that who is behind can be told."""
        order = self._beat.order + 1 if step == self._beat.step else 0
        self._beat = _Beat(step, phase, order, time.time())

    def __enter__(self) -> "Watchdog":
        self._stacks.parent.mkdir(parents=True, exist_ok=True)
        # From the start, for a stuck process can open none; a bare descriptor, for a full disk must not raise later.
        self._stacks_file = os.open(self._stacks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._native_exit = NativeExit(EXIT_REQUEUE)
        self._beat = self._beat._replace(since=time.time())
        self._write_heartbeat()
        # Two threads: a file system that does not answer must not look like a process that does not train.
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._look, self._write_heartbeats)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join(self._look_every + 1)
            # Another rank has ended already, and what this one waited for has failed: the end is under way here too.
            while self._ending and thread.is_alive():
                thread.join(1.0)
        faulthandler.cancel_dump_traceback_later()
        self._native_exit.cancel()
        os.close(self._stacks_file)
        with contextlib.suppress(OSError):
            if self._stacks.stat().st_size == 0:
                self._stacks.unlink()
                self._stacks.parent.rmdir()  # unless it holds others
        self._beat = self._beat._replace(phase="ended", since=time.time())
        self._write_heartbeat()

    def _write_heartbeats(self) -> None:
        while not self._closed.wait(self._write_every):
            self._write_heartbeat()

    def _write_heartbeat(self) -> None:
        heartbeat = Heartbeat(self._rank, self._host, self._pid, **self._beat._asdict(), time=time.time())
        with self._writing, contextlib.suppress(OSError):  # a full disk is no reason to stop training
            write_heartbeat(self._run_dir, heartbeat)

    def _look(self) -> None:
        seen, silent = self._beat, 0.0  # seconds in which this process ran and did not beat
        enough = self._seconds
        looked = time.monotonic()
        self._set_safety_net(silent)
        while not self._closed.wait(self._look_every):
            passed, looked = time.monotonic() - looked, time.monotonic()
            if passed > self._seconds:
                self._note(f"this process was stopped for {passed:.0f} s; no hang")
            if self._beat is not seen:
                seen, silent, enough = self._beat, 0.0, self._seconds
            else:
                silent += min(passed, 2 * self._look_every)
            self._set_safety_net(silent)
            if silent >= enough:
                # One rank may work for all, in an evaluation: as long as it beats, nothing hangs.
                youngest = self._least_silence_of_others()
                if youngest >= self._seconds - 3 * self._write_every:
                    self._end(seen, silent)
                enough = silent + self._seconds - youngest

    def _set_safety_net(self, silent: float) -> None:
        """What happens without the interpreter, should this thread never run again."""
        left = max(self._seconds - silent, 0.0) + 2 * self._look_every
        faulthandler.dump_traceback_later(left, file=self._stacks_file)
        self._native_exit.arm(left + self._seconds)

    def _least_silence_of_others(self) -> float:
        """Seconds without a beat of the rank that made the last one, among those that still write heartbeats."""
        live, _ = self._heartbeats()
        return min((h.silent for h in live if h.rank != self._rank and h.phase != "ended"), default=float("inf"))

    def _heartbeats(self) -> tuple[list[Heartbeat], list[Heartbeat]]:
        """Those whose process still writes them, this one's among them, and the others."""
        self._write_heartbeat()
        found = read_heartbeats(self._run_dir, self._world_size)
        if self._rank not in found:
            return [], []  # the file system does not answer
        now = found[self._rank][1]  # the file system's clock; those of the hosts may differ
        fresh = {rank for rank, (_, written) in found.items() if now - written < 4 * self._write_every}
        live = [heartbeat for rank, (heartbeat, _) in found.items() if rank in fresh]
        return live, [heartbeat for rank, (heartbeat, _) in found.items() if rank not in fresh]

    def _end(self, beat: _Beat, silent: float) -> None:
        began, self._ending = time.time(), True
        faulthandler.cancel_dump_traceback_later()
        self._native_exit.arm(GIVE_UP_SECONDS)
        try:
            self._write_stacks(
                f"rank {self._rank} ({self._host}, pid {self._pid}) made no progress for {silent:.0f} s in step "
                f"{beat.step}, {beat.phase}"
            )
            collectives = self._stacks.with_name(f"collectives-rank-{self._rank:05d}.json")
            asking = threading.Thread(target=write_collectives, args=(collectives,), daemon=True)
            asking.start()  # NCCL itself may be what hangs
            asking.join(COLLECTIVES_SECONDS)
            self._await_other_stacks(began)
            live, lost = self._heartbeats()
            known = {heartbeat.rank for heartbeat in (*live, *lost)}
            missing = [rank for rank in range(self._world_size) if rank not in known]
            line = (
                f"no progress for {silent:.0f} s: {who_is_behind(live, lost, missing)}; "
                f"stacks are in {self._stacks.parent}; leaving to be started again"
            )
            if self._rank == min((heartbeat.rank for heartbeat in live), default=self._rank):
                os.write(2, f"{line}\n".encode())  # not sys.stderr: a stuck thread may have its lock
            if self._on_hang is not None:
                self._on_hang(line)
        finally:
            os._exit(EXIT_REQUEUE)

    def _write_stacks(self, header: str) -> None:
        before = os.fstat(self._stacks_file).st_size
        self._note(header)
        faulthandler.dump_traceback(file=self._stacks_file)
        if os.fstat(self._stacks_file).st_size == before:  # the disk is full
            faulthandler.dump_traceback(file=2)

    def _note(self, line: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self._stacks_file, f"\n{time.strftime('%Y-%m-%d %H:%M:%S')}: {line}\n".encode())

    def _await_other_stacks(self, began: float) -> None:
        """Returns when all ranks have written stacks in this hang, or some (dead, ended) seem never to."""
        until = time.monotonic() + min(OTHERS_SECONDS, self._seconds)
        earliest = began - self._seconds / 2  # stacks of an earlier hang are older than the silence of this one
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                states = [path.stat() for path in self._stacks.parent.glob("rank-*.txt")]
                if sum(state.st_size > 0 and state.st_mtime > earliest for state in states) >= self._world_size:
                    return
            time.sleep(min(1.0, self._look_every))
