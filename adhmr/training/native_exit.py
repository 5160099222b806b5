"""End this process at a deadline although Python cannot run: a C call that never returns may hold the interpreter lock.

A timer of the C library calls _exit in a thread of its own. Who sets the deadline, and puts it off: watchdog.py.
"""

import ctypes
import sys

CLOCK_MONOTONIC = 1  # <time.h>, Linux
SIGEV_THREAD = 2  # <signal.h>: expiry calls a function in a new thread


class _Event(ctypes.Structure):
    """struct sigevent of 64-bit Linux, as far as SIGEV_THREAD uses it."""

    _fields_ = [
        ("value", ctypes.c_size_t),  # the function's argument
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("rest", ctypes.c_char * 32),
    ]


class _Deadline(ctypes.Structure):
    """struct itimerspec: first expiry from now; no interval. All zero: none."""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "first_s", "first_ns")]


class NativeExit:
    """Calls _exit(code) when `arm`'s seconds pass without another `arm` or `cancel`; nothing where it is not Linux.

    The clock also runs while the process is stopped (SIGSTOP): it then ends as it is continued.
    """

    def __init__(self, code: int):
        self._timer: ctypes.c_void_p | None = None
        if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8:
            return
        self._library = ctypes.CDLL("librt.so.1")  # of older glibc; newer ones answer from libc behind it
        end = ctypes.cast(ctypes.CDLL(None)._exit, ctypes.c_void_p)
        event = _Event(value=code, notify=SIGEV_THREAD, function=end)
        timer = ctypes.c_void_p()
        if self._library.timer_create(CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)) == 0:
            self._timer = timer

    def arm(self, seconds: float) -> None:
        """The process ends `seconds` from now; a former deadline is forgotten."""
        self._set(_Deadline(first_s=int(seconds), first_ns=int(seconds % 1 * 1e9)))

    def cancel(self) -> None:
        self._set(_Deadline())

    def _set(self, deadline: _Deadline) -> None:
        if self._timer is not None:
            self._library.timer_settime(self._timer, 0, ctypes.byref(deadline), None)
