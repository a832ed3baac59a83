"""Ctrl-C and SIGTERM as a request to stop at the next safe point."""

import contextlib
import os
import signal
from pathlib import Path


class StopRequest:
    """While the context is open, SIGINT, SIGTERM and SIGHUP (the terminal is gone) set `received` to the signal's
    number; a second one of any acts as usual (stops at once). What is ignored, as SIGHUP is by nohup, stays so."""

    def __init__(self):
        self.received = 0

    def __enter__(self) -> "StopRequest":
        self._terminals = [n for n in (1, 2) if os.isatty(n)]  # later they are none any more
        heard = [s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) != signal.SIG_IGN]
        self._old = {s: signal.signal(s, self._note) for s in heard}
        return self

    def __exit__(self, kind, error, trace) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number, frame) -> None:
        self.received = number
        for s, handler in self._old.items():
            signal.signal(s, handler)
        if number == signal.SIGHUP:
            leave_terminal(self._terminals)
        with contextlib.suppress(RuntimeError):  # a signal in the middle of another print
            print("\nstopping after this step; once more to stop at once", flush=True)


def leave_terminal(numbers: list[int]) -> None:
    """Say nothing more to a terminal that is gone: every word would be an error."""
    with open(os.devnull, "w") as nothing:
        for number in numbers:
            os.dup2(nothing.fileno(), number)


def say_stopped(number: int, step: int, path: Path) -> int:
    """Say that a signal ended the run, and where its state is; returns the exit code, 128 + the signal's number."""
    print(f"stopped by {signal.Signals(number).name} at step {step}; saved in {path}; the same command goes on")
    return 128 + number
