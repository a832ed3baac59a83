"""Writing where the disk may be full: a whole file or the old one, and a line that says so."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def writing(path: Path, *temporaries: Path) -> Iterator[None]:
    """Around the writing of `path` by way of temporary files: where the system refuses, they are removed, for a full
    disk needs the room, and ValueError says why."""
    try:
        yield
    except OSError as error:
        for left in temporaries:
            left.unlink(missing_ok=True)
        raise ValueError(
            f"{path}: cannot be written ({error.strerror or error}); what was there before is whole. Expected room and "
            "permission to write. Fix: make room, then the same command goes on"
        ) from error


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # a file system that cannot
        pass
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote."""
    for left in [*folder.glob("*.tmp"), *folder.glob("*.tmp.png")]:
        left.unlink(missing_ok=True)
