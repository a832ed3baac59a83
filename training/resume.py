"""Which changes end a resumed run before it starts: a run_dir holds one run."""

from pathlib import Path

# These may differ when a run is resumed; any other change would make it another run.
MAY_CHANGE = {"zarr", "run_dir", "epochs", "validate_every", "validate_hours", "save_every", "cache_gb"}
MAY_CHANGE |= {"patience", "skip_steps", "explode", "tensorboard", "preview_every", "quiet", "sharpen", "restrain"}
MAY_CHANGE |= {"memory", "memory_gb", "empty_cache_every"}  # the gradients are the same up to rounding


def refuse_other_run(now: dict, old: dict, path: Path) -> None:
    """A run_dir holds one run: refuse to resume it with other constants."""
    changed = [k for k in now if k not in MAY_CHANGE and k in old and now[k] != old[k]]
    if changed:
        was = ", ".join(f"{k}={old[k]!r}" for k in changed)
        raise ValueError(
            f"{path} was trained with {was}; got {', '.join(f'{k}={now[k]!r}' for k in changed)}, expected the same. "
            "Fix: use the old constants to go on, or another --run_dir for a new run"
        )


def refuse_other_data(previous: dict, split: dict, names: list[str], grid_shape: list[int], path: str) -> None:
    """Refuse to resume on a store whose variables, grid or pairs are not those of the checkpoint."""
    found = {"variables": names, "grid": grid_shape, "pairs": split["pairs"]}
    wanted = {
        "variables": previous["variables"],
        "grid": previous["grid"]["shape"],
        "pairs": previous["split"]["pairs"],
    }
    for key in found:
        if found[key] != wanted[key]:
            raise ValueError(
                f"{path}: got {key} {found[key]}, expected {wanted[key]} as when this run began. "
                "Fix: use the same store, or another --run_dir for a new run"
            )
