"""Asked to stop: signals and the time limit become one flag that the trainer reads at step boundaries.

Nothing is saved here: a handler only notes the signal, for it may run in the middle of any statement.
"""

import signal
import threading
import time
from types import FrameType

EXIT_REQUEUE = 85  # the process saved and left early; the launcher starts it again

# SLURM sends SIGTERM on preemption and USR1/USR2 ahead of the time limit (sbatch --signal); SIGINT is Ctrl-C.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


class StopRequest:
    """Context manager: while it is open, SIGNALS set `reason`; afterwards the former handlers are back.

    A second Ctrl-C raises KeyboardInterrupt at once. Outside the main thread only the time limit works.
    """

    def __init__(self, max_seconds: float | None = None):
        self._deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self._signal: str | None = None
        self._former: dict[int, object] = {}

    @property
    def reason(self) -> str | None:
        """Why this process should save and leave, or None."""
        if self._signal is None and self._deadline is not None and time.monotonic() > self._deadline:
            return "train.max_seconds"
        return self._signal

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
