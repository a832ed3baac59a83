"""One training per run_dir: a lock on the folder, which the system releases when the process ends, however it ends."""

import contextlib
import fcntl
import os
from pathlib import Path


class RunLock:
    """A context in which no other process can enter its own RunLock on `run_dir`; ValueError where one has.

    The folder itself is locked, so that nothing is left to clean up after a crash. It is made where it is missing, and
    removed at the end where it is empty, so that a refused run leaves nothing."""

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir

    def __enter__(self) -> "RunLock":
        self.made = [p for p in (self.run_dir, *self.run_dir.parents) if not p.exists()]
        while True:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            self._folder = os.open(self.run_dir, os.O_RDONLY)
            try:
                fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._folder)
                raise ValueError(
                    f"run_dir: got {self.run_dir}, in which another training is running, expected a folder for this "
                    "one. Fix: wait for the other to end, or choose another --run_dir"
                ) from None
            except OSError:  # a file system without locks
                pass
            if os.path.exists(self.run_dir) and os.path.samestat(os.fstat(self._folder), os.stat(self.run_dir)):
                return self
            os.close(self._folder)  # another process, refused, has just removed the folder it had made

    def __exit__(self, kind, error, trace) -> None:
        for folder in self.made:  # the innermost comes first; one that is not empty stays, and those around it
            with contextlib.suppress(OSError):
                folder.rmdir()
        os.close(self._folder)
