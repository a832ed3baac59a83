"""Files and folders that change in one step, and a lock on building one."""

import fcntl
import os
import shutil
from pathlib import Path


def beside(path: Path, ending: str) -> Path:
    """`<path>.<ending>`"""
    return path.with_name(f"{path.name}.{ending}")


def discard(partial: Path) -> None:
    """Remove a store that was not completed."""
    shutil.rmtree(partial, ignore_errors=True)


def lock(path: Path) -> int:
    """A lock on building `path`, held until the returned file is closed; ValueError where another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path if path.exists() else beside(path, "partial")
    folder.mkdir(exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ValueError(f"{path}: another process is building it, expected one at a time. Fix: wait for it") from None
    except OSError:  # a file system without locks
        pass
    return handle


def replace(path: Path, text: str) -> None:
    """Write a text file in one step: a reader sees the old one or the new one."""
    temporary = beside(path, "tmp")
    temporary.write_text(text)
    sync(temporary)
    os.replace(temporary, path)


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
