"""One way to start every command: constants from a dataclass, a user's mistake in one line.

A ValueError raised by this project's own code is a message to the user: it is printed as one line
`error: ...` on stderr and the exit code is 2. Anything else (a ValueError from inside numpy, say) is
a bug and keeps its traceback.
"""

import difflib
import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

# a place that cannot be read or written
PLACES = (PermissionError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
PROJECT = Path(__file__).resolve().parent.parent


def run(config: type, main: Callable[[Any], int | None], description: str | None = None) -> None:
    """Parse the command line into `config`, call `main(cfg)`, and exit with its return value (None is 0)."""
    cfg = tyro.cli(config, description=description, use_underscores=True, config=(tyro.conf.FlagConversionOff,))
    try:
        sys.exit(main(cfg) or 0)
    except ValueError as error:
        if not raised_by_us(error):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if isinstance(error, PLACES) or error.errno == errno.ENAMETOOLONG:
            refused = f"{error.filename}: {error.strerror}" if error.filename else " ".join(str(error).split())
            told = (
                f"error: {refused}, expected a place that can be read and written. "
                "Fix: check the path and its permissions, or choose another"
            )
        elif error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            told = (
                f"error: {error.filename or 'disk'}: {error.strerror}, expected room to write. "
                "Fix: make room, then the same command goes on"
            )
        else:  # anything else that the system refuses keeps its traceback
            raise
        print(told, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped by the keyboard; what was saved stays", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def nearest(name: str, candidates, count: int = 3) -> str:
    """The candidates closest in spelling to `name`, or the first few, as text for an error message."""
    names = [str(c) for c in candidates]
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.4)
    upper = {n.upper(): n for n in names}
    if name.upper() in upper:
        close = [upper[name.upper()]]
    return ", ".join(close or names[:count]) or "none"


def refuse_file_above(path: str | Path, what: str) -> None:
    """ValueError where `path` cannot become a folder of ours: it or something above it is a file or is read-only."""
    for place in (Path(path), *Path(path).parents):
        if place.exists():
            if not place.is_dir():
                raise ValueError(
                    f"{what}: got {path}, but {place} is a file, expected a folder. Fix: choose another path"
                )
            if not os.access(place, os.W_OK | os.X_OK):
                raise ValueError(
                    f"{what}: got {path}, but {place} cannot be written to, expected a folder of yours. "
                    "Fix: choose another path, or change its permissions"
                )
            return


def raised_by_us(error: BaseException) -> bool:
    """Whether an exception comes from this project's own code, and not from a library it called."""
    source = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    return source.is_relative_to(PROJECT) and ".venv" not in source.parts
