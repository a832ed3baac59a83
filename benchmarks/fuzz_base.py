"""What the kinds of fuzz cases share: commands run in this process, and what counts as a fault."""

import contextlib
import io
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.command import run


class Fault(AssertionError):
    """A case did not end as it must: sound input refused, unsound input accepted, or a wrong value."""


class Reached(Exception):
    """Raised in place of the work itself, where a case ends once its input has been accepted."""


@dataclass(frozen=True)
class Kind:
    """One kind of case: `cases` is a hypothesis strategy of plain dictionaries that JSON can hold; `play(case, folder)`
    plays one in an empty folder, raises where it ends as it must not, and returns "accepted" or "refused"."""

    cases: Any
    play: Callable[[dict, Path], str]
    share: int  # of the campaign, relative to the other kinds


def check(condition: bool, text: str) -> None:
    """Fault with this text unless the condition holds."""
    if not condition:
        raise Fault(text)


@contextlib.contextmanager
def quiet():
    """Nothing on the screen meanwhile; yields what would have been printed on stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield out, err


def command(module, *arguments, main: Callable | None = None, allowed=(0, 2)) -> tuple[int, str]:
    """Run a script's command line in this process, or `main` with its constants: (exit code, what it printed); Reached
    counts as 0.

    Fault for an exit code that is not allowed, or a 2 without its one line; exceptions that the command does not turn
    into such a line pass through, as they would end in a traceback."""
    before = sys.argv
    sys.argv = [module.__name__, *(str(a) for part in arguments for a in (part if isinstance(part, list) else [part]))]
    code = 0
    try:
        with quiet() as (out, err):
            run(module.Config, main or module.main)
    except SystemExit as stop:
        code = stop.code or 0
    except Reached:
        code = 0
    finally:
        sys.argv = before
    said = err.getvalue()
    check(code in allowed, f"exit code {code}: {said[-500:]}")
    if code == 2 and not of_the_parser(said + out.getvalue()):
        lines = [line for line in said.splitlines() if line.strip()]
        check(len(lines) == 1 and lines[0].startswith("error: "), f"exit code 2 without its one line: {said[-500:]}")
        check("expect" in lines[0] and "Fix: " in lines[0], f"a line without expected or Fix: {lines[0]}")
    return code, out.getvalue() + said


def of_the_parser(text: str) -> bool:
    """Whether this is the command line parser's own message (a box that ends with the hint of --help)."""
    return "For full helptext" in text


def outcome(expected: str, code: int, said: str) -> str:
    """ "accepted" or "refused"; Fault where that is not what was expected ("either" allows both)."""
    got = "refused" if code else "accepted"
    check(expected in (got, "either"), f"{got}, expected {expected}: {said[-600:]}")
    return got
