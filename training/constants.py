"""Check the constants of a run before its first step, and that a resumed run has those it began with."""

import math
import shlex
from dataclasses import MISSING, fields
from pathlib import Path

RANGES = {  # lowest and highest value that makes sense
    "history": (0, 1000), "base_features": (1, 4096), "levels": (0, 20), "detail": (0, 1e6), "epochs": (1, 10**6),
    "batch_size": (1, 10**4), "accumulate": (1, 10**5), "lr": (1e-12, 1e3), "weight_decay": (0, 1e3),
    "clip": (1e-12, 1e12), "noise": (0, 1e3), "rollout_epochs": (0, 10**6), "rollout_hours": (1e-6, 1e4),
    "validate_every": (1, 10**6), "save_every": (0, 1e6), "seed": (0, 2**63 - 1), "loss_weights": (0, 1e6),
}  # fmt: skip


def check_constants(config, ranges: dict[str, tuple[float, float]]) -> None:
    """ValueError for the first constant that is not finite or outside its range (lowest, highest), both allowed.

    config: a dataclass. A constant is a number, or a list, tuple or table of numbers, each of which is checked. The fix
    offered is the default of the dataclass, or the nearest limit if there is none.
    """
    defaults = {f.name: f.default_factory() if f.default is MISSING and f.default_factory is not MISSING else f.default
                for f in fields(config)}  # fmt: skip
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        numbers = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        for number in numbers:
            if low <= number <= high and abs(number) < math.inf:
                continue
            if not abs(number) < math.inf:
                expected, nearest = "a finite number", low
            else:
                expected, nearest = (f"at least {low:g}", low) if number < low else (f"at most {high:g}", high)
            fix = nearest if defaults[name] is MISSING else defaults[name]
            raise ValueError(f"{name}: got {number}, expected {expected}. Fix: {option(name, fix)}")


def check_resume(now: dict, before: dict, may_change: set[str], path: Path) -> None:
    """ValueError if a constant of `now` differs from `before`, the constants in the checkpoint at `path`.

    Constants in may_change may differ, and so may those that only one of the two has.
    """
    changed = [k for k in now if k in before and k not in may_change and now[k] != before[k]]
    if changed:
        both = "; ".join(f"{k}: got {now[k]!r}, expected {before[k]!r}" for k in changed)
        old = " ".join(option(k, before[k]) for k in changed)
        raise ValueError(f"{both} as in {path}. Fix: {old} to resume this run, or another --run_dir for a new one")


def check_data(now: dict, before: dict, store: str | Path) -> None:
    """ValueError if a run would resume on other data than it began with. Both tables have the same keys, such as
    variables, grid and pairs."""
    for key in now:
        if now[key] != before[key]:
            raise ValueError(
                f"{store}: got {key} {now[key]}, expected {before[key]} as when this run began. "
                "Fix: use the same store, or another --run_dir for a new run"
            )


def option(name: str, value) -> str:
    """The command line option that sets a constant, lists separated by spaces."""
    if isinstance(value, dict):
        value = [part for pair in value.items() for part in pair]
    words = value if isinstance(value, list | tuple) else [value]
    return f"--{name} {' '.join(shlex.quote(str(w)) for w in words)}".strip()
