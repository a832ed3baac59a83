"""Refuse constants that cannot train, each in one line."""

import math


def refuse_constants(constants, lowest: dict[str, float], positive: tuple[str, ...]) -> None:
    """ValueError where one of `lowest` is below its value or not finite, or one of `positive` is not a number above
    0. constants: a dataclass with attributes of these names."""
    for name, low in lowest.items():
        got = getattr(constants, name)
        if not low <= got < math.inf:
            raise ValueError(f"{name}: got {got}, expected at least {low}. Fix: --{name} {low}")
    for name in positive:
        got = getattr(constants, name)
        if not 0 < got < math.inf:
            raise ValueError(f"{name}: got {got}, expected a positive number. Fix: give one with --{name}")
