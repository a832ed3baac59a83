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
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

# what the system says of a place that cannot be read or written, and of a full disk
PLACES = (PermissionError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SILENCE = 20.0  # seconds without a line of progress where there is no terminal
PROJECT = Path(__file__).resolve().parent.parent


def run(config: type, main: Callable[[Any], int | None], description: str | None = None) -> None:
    """Parse the command line into `config`, call `main(cfg)`, and exit with its return value (None is 0)."""
    cfg = tyro.cli(config, description=description, use_underscores=True, config=(tyro.conf.FlagConversionOff,))
    for stream in (sys.stdout, sys.stderr):  # a terminal without umlauts, say, must not end the command
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(main(cfg) or 0)
    except (ValueError, OSError) as error:
        message = str(error)
        if isinstance(error, OSError):
            refused = f"{error.filename}: {error.strerror}" if error.filename else message
            if isinstance(error, PLACES) or error.errno == errno.ENAMETOOLONG:
                message = (f"{refused}, expected a place that can be read and written. "
                           "Fix: check the path and its permissions, or choose another")  # fmt: skip
            elif error.errno in FULL:
                message = f"{refused}, expected room to write. Fix: make room, then run the same command again"
            else:  # anything else that the system refuses keeps its traceback
                raise
        elif not raised_by_us(error):
            raise
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped by the keyboard; what was saved stays", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def paced(items: Iterable, what: str, total: int, unit: str) -> Iterator:
    """The items one by one, with a bar on a terminal and a line now and then without one."""
    said, bar = time.monotonic(), tqdm(items, total=total, desc=what, unit=unit, disable=None)
    for done, item in enumerate(bar):
        if bar.disable and time.monotonic() - said > SILENCE:
            said = time.monotonic()
            print(f"{what}: {done} of {total}", flush=True)
        yield item


def fault(where, got: str, expected: str, fix: str) -> ValueError:
    """A user's mistake, as every command tells it: where it is, what was found, what was expected, what to do."""
    return ValueError(f"{where}: got {got}, expected {expected}. Fix: {fix}")


def nearest(name: str, candidates, count: int = 3) -> str:
    """The candidates closest in spelling to `name`, or the first few, as text for an error message."""
    names = [str(c) for c in candidates]
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.4)
    upper = {n.upper(): n for n in names}
    if name.upper() in upper:
        close = [upper[name.upper()]]
    return ", ".join(close or names[:count]) or "none"


def refuse_file_above(path: str | Path, what: str) -> None:
    """ValueError if `path` cannot become a folder of ours: it or something above it is a file or is read-only."""
    place = next(p for p in (Path(path), *Path(path).absolute().parents) if p.exists())
    if not place.is_dir():
        raise fault(what, f"{path}, but {place} is a file", "a folder", "choose another path")
    if not os.access(place, os.W_OK | os.X_OK):
        raise fault(what, f"{path}, but {place} cannot be written to", "a folder of yours",
                    "choose another path, or change its permissions")  # fmt: skip


def raised_by_us(error: BaseException) -> bool:
    """Whether an exception comes from this project's own code, and not from a library it called."""
    source = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    return source.is_relative_to(PROJECT) and ".venv" not in source.parts
