"""A window of steps recorded with torch.profiler: a trace for a viewer and a table of the costliest operations."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from adhmr.atomic_file import write_atomically
from adhmr.config.training import ProfileConfig

TABLE_ROWS = 40


class StepProfiler:
    """Context manager; writes RUN/profile/steps-20-25-rank-0.json.gz and .txt on the ranks that the config names.

    A process records one window: the steps of the configured one that it makes, from its first to the last before the
    window's end, a rewind or a stop. A run that fails within the window leaves no profile.
    """

    def __init__(self, config: ProfileConfig | None, run_dir: Path, rank: int):
        self._config = config if config is not None and rank in config.ranks else None  # None: nothing more to do
        self._run_dir, self._rank = run_dir, rank
        self._profile: profile | None = None  # while it records
        self._range: record_function | None = None  # the running step's
        self._first = self._latest = 0

    def __enter__(self) -> "StepProfiler":
        return self

    def __exit__(self, *error: Any) -> None:
        if self._profile is not None:
            self._stop(write=error[0] in (None, SystemExit))  # SystemExit: leaving for a requeue

    def step(self, step: int) -> None:
        """At the start of each optimizer step, with its number from 0."""
        if self._config is None:
            return
        first, stop = self._config.window
        if self._profile is not None and not self._latest < step < stop:
            self._stop(write=True)
        elif self._profile is None and first <= step < stop:
            self._start(step)
        if self._profile is not None:
            self._end_range()
            self._range = record_function(f"step {step}")
            self._range.__enter__()
            self._latest = step

    def _start(self, step: int) -> None:
        cuda = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        self._profile = profile(
            activities=[ProfilerActivity.CPU, *cuda], record_shapes=True, profile_memory=self._config.memory
        )
        self._profile.start()
        self._first = step

    def _stop(self, write: bool) -> None:
        self._end_range()
        finished, self._profile, self._config = self._profile, None, None
        finished.stop()
        if not write:
            return
        folder = self._run_dir / "profile"
        name = f"steps-{self._first}-{self._latest + 1}-rank-{self._rank}"
        key = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            temporary = folder / f".{name}.{os.getpid()}.json.gz"
            finished.export_chrome_trace(str(temporary))
            os.replace(temporary, folder / f"{name}.json.gz")
            table = finished.key_averages().table(sort_by=key, row_limit=TABLE_ROWS, max_name_column_width=60)
            write_atomically(folder / f"{name}.txt", table + "\n")
        except OSError as problem:  # a full disk: the run goes on
            print(f"{folder}: no profile of {name} ({problem})", file=sys.stderr, flush=True)
            return
        print(f"profile: {folder / name}.txt; the .json.gz beside it opens in ui.perfetto.dev", flush=True)

    def _end_range(self) -> None:
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None
