"""Stop or save at the next step when a signal asks for it, and one training per folder.

with RunLock(run_dir), StopRequest() as stop:
    for batch in batches:
        train_step(batch)
        if stop.received or stop.take_save():
            save_checkpoint(...)
        if stop.received:
            return exit_code(stop.received)
"""

import contextlib
import fcntl
import os
import signal
from pathlib import Path

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """A context in which signals are requests.

    received: number of the signal that asks to stop (SIGINT, SIGTERM, SIGHUP), 0 without one. A second one acts as
    outside the context: it stops the process at once. save_now: SIGUSR1 has asked for a save; the run goes on. A signal
    that is ignored, as SIGHUP is under nohup, stays ignored.
    """

    def __init__(self):
        self.received, self.save_now = 0, False

    def __enter__(self) -> "StopRequest":
        self._terminals = [n for n in (1, 2) if os.isatty(n)]  # after a SIGHUP isatty is false
        handlers = dict.fromkeys(STOPS, self._stop) | {signal.SIGUSR1: self._save}
        kept = (signal.SIG_IGN, None)  # None: a handler that is not Python's
        self._old = {s: signal.signal(s, h) for s, h in handlers.items() if signal.getsignal(s) not in kept}
        return self

    def __exit__(self, kind, error, trace) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def take_save(self) -> bool:
        """Whether a save was requested since the last call."""
        requested, self.save_now = self.save_now, False
        return requested

    def _save(self, number: int, frame) -> None:
        self.save_now = True

    def _stop(self, number: int, frame) -> None:
        self.received = int(number)
        for s in set(STOPS) & self._old.keys():
            signal.signal(s, self._old[s])
        if number == signal.SIGHUP:  # writing to a closed terminal is an error
            with open(os.devnull, "w") as nothing:
                for terminal in self._terminals:
                    os.dup2(nothing.fileno(), terminal)
        with contextlib.suppress(RuntimeError, OSError):  # another print was going on, or nobody reads
            print("\nStopping after this step. Press Ctrl-C again to quit now.", flush=True)


def exit_code(number: int) -> int:
    """The exit code of a process that a signal has ended, as shells count it."""
    return 128 + number


class RunLock:
    """A context in which no other process can train in run_dir; ValueError if one does.

    The folder itself is locked. The system releases the lock when the process ends, even if it is killed, so no lock
    file remains. A folder that was missing is made, and removed if it is still empty at the end.
    """

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir

    def __enter__(self) -> "RunLock":
        self._made = [p for p in (self.run_dir, *self.run_dir.parents) if not p.exists()]
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self._folder = os.open(self.run_dir, os.O_RDONLY)
        try:
            fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._folder)
            raise ValueError(
                f"run_dir: got {self.run_dir}, where another training is running, expected a folder for this one. "
                "Fix: wait until the other has ended, or choose another --run_dir"
            ) from None
        except OSError as error:
            print(
                f"note: {self.run_dir} cannot be locked ({error.strerror}). Start no second training there.", flush=True
            )
        return self

    def __exit__(self, kind, error, trace) -> None:
        with contextlib.suppress(OSError):  # a folder that is not empty stays, and so do those around it
            for folder in self._made:
                folder.rmdir()
        os.close(self._folder)
