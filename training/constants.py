"""Refuse constants that cannot train, each in one line."""

import math

# The largest values that make sense; far above them a run would not end, or not fit into any memory.
HIGHEST = {
    "epochs": 10**6, "batch_size": 10**4, "accumulate": 10**5, "base_features": 4096, "levels": 20, "blocks": 100,
    "history": 1000, "rollout_epochs": 10**6, "validate_every": 10**6, "empty_cache_every": 10**6, "seed": 2**63 - 1,
    "width": 1000.0, "rollout_width": 1000.0, "amplitude": 1e6, "rollout_amplitude": 1e6, "noise": 1000.0,
    "season": 366.0, "weight_decay": 1000.0, "warmup": 1.0, "save_every": 1e6, "cache_gb": 1e6, "memory_gb": 1e6,
    "rollout_accumulate": 10**5, "edge_weight": 1000.0,
    "lr": 1000.0, "muon_lr": 1000.0, "clip": 1e12, "validate_hours": 1e4, "rollout_hours": 1e4, "rollout_lr": 1000.0,
}  # fmt: skip


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
    for name in (*lowest, *positive):
        if (got := getattr(constants, name)) > HIGHEST.get(name, math.inf):
            raise ValueError(f"{name}: got {got}, expected at most {HIGHEST[name]:g}. Fix: --{name} {HIGHEST[name]:g}")
