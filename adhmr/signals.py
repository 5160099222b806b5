"""Asked to stop: signals, the time limit and the job's end become one flag, read where work can be left.

Nothing is saved here: a handler only notes the signal, for it may run in the middle of any statement.
"""

import os
import signal
import threading
import time
from types import FrameType

from adhmr.errors import AdhmrError

EXIT_REQUEUE = 85  # the process saved and left early; the launcher starts it again

# SLURM sends SIGTERM on preemption and USR1/USR2 ahead of the time limit (sbatch --signal); SIGINT is Ctrl-C.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


class StopRequest:
    """Context manager: while it is open, SIGNALS set `reason`; afterwards the former handlers are back.

    A second Ctrl-C raises KeyboardInterrupt at once. Outside the main thread only max_seconds and the job's end work.
    margin: seconds before the job's end at which to save and leave, were its signal lost.
    """

    def __init__(self, max_seconds: float | None = None, margin: float = 120.0):
        now = time.monotonic()
        self._deadline = None if max_seconds is None else now + max_seconds
        left = seconds_of_the_job()
        self._job_end = None if left is None else now + left
        self._widest = 0.0 if left is None else left / 2  # a short job trains for half of its time at least
        self._margin = margin
        self._signal: str | None = None
        self._former: dict[int, object] = {}

    @property
    def reason(self) -> str | None:
        """Why this process should save and leave, or None."""
        if self._signal is not None:
            return self._signal
        now = time.monotonic()
        if self._deadline is not None and now > self._deadline:
            return "train.max_seconds"
        if self._job_end is not None and now > self._job_end - min(self._margin, self._widest):
            return f"the job ends in {max(self._job_end - now, 0):.0f} s"
        return None

    def widen(self, seconds: float) -> None:
        """Leave at least `seconds` before the job's end: saving has turned out to take long."""
        self._margin = max(self._margin, seconds)

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._signal == "SIGINT":
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name


def seconds_of_the_job() -> float | None:
    """Until the end of the job that this process is part of; None outside of one, or when the end has passed.

    Raises AdhmrError: ADHMR_JOB_END is no number of unix seconds.
    """
    ours = os.environ.get("ADHMR_JOB_END")
    told = ours or os.environ.get("SLURM_JOB_END_TIME", "")
    try:
        left = float(told) - time.time()
    except ValueError:
        if ours:
            raise AdhmrError(f"ADHMR_JOB_END: '{ours}' is no unix time in seconds; correct it, or unset it") from None
        return None  # sites write words for "no limit"
    # A shell may have the end of a job that has been prolonged: its processes would leave after each step.
    return left if left > 0 else None
