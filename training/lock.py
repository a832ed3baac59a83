"""One training per run_dir: a lock on the folder, which the system releases when the process ends, however it ends."""

import fcntl
import os
from pathlib import Path


class RunLock:
    """A context in which no other process can enter its own RunLock on `run_dir`; ValueError where one has.

    The folder itself is locked, so that nothing is left to clean up after a crash."""

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir

    def __enter__(self) -> "RunLock":
        self._folder = os.open(self.run_dir, os.O_RDONLY)
        try:
            fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._folder)
            raise ValueError(
                f"run_dir: got {self.run_dir}, in which another training is running, expected a folder for this one. "
                "Fix: wait for the other to end, or choose another --run_dir"
            ) from None
        return self

    def __exit__(self, kind, error, trace) -> None:
        os.close(self._folder)
