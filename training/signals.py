"""Ctrl-C and SIGTERM as a request to stop at the next safe point."""

import signal
from pathlib import Path


class StopRequest:
    """While the context is open, SIGINT and SIGTERM set `received` to the signal's number; a second one of
    either acts as usual (stops at once)."""

    def __init__(self):
        self.received = 0

    def __enter__(self) -> "StopRequest":
        self._old = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind, error, trace) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number, frame) -> None:
        self.received = number
        for s, handler in self._old.items():
            signal.signal(s, handler)
        print("\nstopping after this step; once more to stop at once", flush=True)


def say_stopped(number: int, step: int, path: Path) -> int:
    """Say that a signal ended the run, and where its state is; returns the exit code, 128 + the signal's number."""
    print(f"stopped by {signal.Signals(number).name} at step {step}; saved in {path}; the same command goes on")
    return 128 + number
