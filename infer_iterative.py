"""Roll a trained checkpoint forward, step by step, into a forecast store.

    python infer_iterative.py                                           # the constants below
    python infer_iterative.py --checkpoint runs/hrrr/best.pt --zarr data/hrrr.zarr \\
        --init_time 2018-07-23T00 --hours 24 --out runs/hrrr/forecast.zarr
    python infer_iterative.py ... --init_time latest                    # or several times, or: test

Writes the forecast store --out (format: data/forecast_store.py), which opens with xarray.open_zarr.
"""

import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data.boundary import Boundary
from data.command import run
from data.dataset import Hours, Series, Split, find_pairs
from data.forcing import CLOCK_FEATURES, Forcing
from data.forecast_store import ForecastWriter
from data.normalise import Statistics, clip_physical, denormalise, limiter, normalise
from data.store import Store
from data.times import hours_of, parse_duration, parse_time, show
from models.rollout import rollout
from models.unet import ResidualUNet
from training.checkpoint import file_hash, load_checkpoint
from training.device import autocast, choose_device


@dataclass
class Config:
    checkpoint: str = "runs/hrrr/best.pt"  # what train_deterministic.py wrote; best.pt alone is enough
    zarr: str = "data/hrrr.zarr"  # store with the initial hours
    init_time: list[str] = field(default_factory=lambda: ["latest"])  # ISO times, UTC; or: latest; or: test
    hours: float = 24.0  # length of the forecast
    test_starts: int = 12  # with `--init_time test`: at most this many, spread evenly over the test hours
    init_every: str = ""  # with `--init_time test`: instead, one every so often, such as 6h
    boundary: str = ""  # store that gives the edge of the domain at every step; empty: no boundary data
    out: str = "runs/hrrr/forecast.zarr"  # forecast store to write


CENTURY = 876_600.0  # hours; valid times beyond the year 2262 have no datetime64[ns]


def main(cfg: Config) -> int:
    device = choose_device()
    checkpoint = load_checkpoint(cfg.checkpoint, device)
    store = Store(cfg.zarr)
    names = match_variables(checkpoint, store)
    lead = parse_duration(checkpoint["lead"], "lead")
    steps = count_steps(cfg.hours, lead)
    history = checkpoint["config"]["history"]
    init_times, steps = choose_init_times(cfg, store, checkpoint, lead, steps)
    refuse_missing_history(cfg, store, init_times, lead, history)
    statistics = Statistics.from_dict(checkpoint["statistics"]).to(device)
    mask = checkpoint["grid"]["mask"]
    forcing = Forcing(store.grid, lead, statistics.names, mask, device)
    refuse_other_grid(checkpoint, forcing, store)

    # ---- the model, with the averaged weights
    constants = checkpoint["config"]
    size = {k: constants[k] for k in ("base_features", "levels", "blocks", "history")}
    model = ResidualUNet(len(names), len(forcing.names), CLOCK_FEATURES, **size, lean=True).to(device)
    model.load_state_dict(checkpoint["ema"])
    model.eval()
    limit = limiter(statistics, mask)
    hours = Hours(store, names, None if mask is None else mask.cpu(), cache_gb=0.5)
    series = Series(hours, lead, history)
    edge = Boundary(cfg.boundary, store, statistics, mask) if cfg.boundary else None
    if edge:
        edge.refuse_missing(init_times, lead, steps, "fewer --hours, or another --init_time")

    # ---- the roll-out
    lead_times = np.arange(steps + 1) * lead
    first = ", ".join(map(show, init_times[:3])) + (" ..." if len(init_times) > 3 else "")
    print(f"forecast {' '.join(names)} of {cfg.zarr} with {cfg.checkpoint} on {device}, into {cfg.out}")
    print(f"initial times: {len(init_times)} ({first}); {hours_of(lead_times[-1]):g} h in {steps} steps", flush=True)
    series.states(init_times[:1])  # a broken first hour shows before anything is made
    if edge:
        print(f"boundary data: {boundary_text(cfg)}", flush=True)
    attributes = describe_forecast(cfg, checkpoint, store)
    bar = tqdm(total=len(init_times) * steps, desc="roll-out", unit="step", disable=None)
    clipped_sum = np.zeros(len(names))
    with ForecastWriter(cfg.out, names, store.grid, init_times, lead_times, attributes) as out:
        for i, t in enumerate(init_times):
            states = series.states(t[None]).to(device)
            analysis = clip_physical(states[0, -1], statistics.names)
            out.write(i, 0, analysis.cpu().numpy(), np.zeros(len(names)))

            def nudge(state, k, t=t):
                return edge.nudge(state, normalise(edge.hours(t + (k + 1) * lead).to(device), statistics, mask))

            with autocast(device):
                states = rollout(
                    model, normalise(states, statistics, mask), lambda k, t=t: forcing(t + k * lead),
                    statistics.scale, limit, steps, nudge if edge else None,
                )  # fmt: skip
                for k, (state, clipped) in enumerate(states):
                    fields = clip_physical(denormalise(state[0].float(), statistics, mask), statistics.names)
                    if not (fields.isfinite() if mask is None else fields.isfinite() | mask).all():
                        raise ValueError(
                            f"the forecast from {show(t)} is not finite after {k + 1} steps, expected numbers. "
                            "Fix: use another checkpoint (previous.pt) or train with a lower --lr"
                        )
                    out.write(i, k + 1, fields.cpu().numpy(), clipped[0].cpu().numpy())
                    clipped_sum += clipped[0].cpu().numpy()
                    bar.update()
    bar.close()
    shares = ", ".join(f"{n} {s:.2%}" for n, s in zip(names, clipped_sum / (len(init_times) * steps), strict=True) if s)
    print(f"cells clipped to physical bounds, mean over steps: {shares or 'none'}")
    print(f"wrote {cfg.out}; open it with xarray.open_zarr({cfg.out!r})")
    return 0


def match_variables(checkpoint: dict, store: Store) -> list[str]:
    """The store's names of the checkpoint's variables, in its order; ValueError where one is missing."""
    try:
        return store.choose(checkpoint["variables"])
    except ValueError as error:
        wanted = " ".join(checkpoint["variables"])
        found = str(error).split(" Fix: ")[0]
        raise ValueError(
            f"the checkpoint is for the variables {wanted}; {found} Fix: use the kind of store it was trained on, or "
            "another checkpoint"
        ) from error


def count_steps(hours: float, lead: np.timedelta64) -> int:
    """`hours` in steps of one lead; ValueError where that is not a whole positive number."""
    steps = hours / hours_of(lead)
    if not (0.5 < steps < 1e6 and hours < CENTURY and abs(steps - round(steps)) < 1e-6):
        raise ValueError(
            f"hours: got {hours:g}, expected a positive multiple of the model's step of {hours_of(lead):g} hours, at "
            f"most 100 years. Fix: --hours {max(round(min(steps, 1e5)), 1) * hours_of(lead):g}"
            if np.isfinite(hours) else
            f"hours: got {hours}, expected a positive number. Fix: --hours 24"
        )  # fmt: skip
    return round(steps)


def choose_init_times(cfg: Config, store: Store, checkpoint: dict, lead, steps: int) -> tuple[np.ndarray, int]:
    """The initial times as datetime64[ns], and the number of steps (fewer for `test` on a short record)."""
    if cfg.init_time == ["latest"]:
        return store.times.max()[None], steps
    if cfg.init_time == ["test"]:
        return choose_test_times(cfg, store, checkpoint, lead, steps)
    times = []
    for text in cfg.init_time:
        if text in ("latest", "test"):
            raise ValueError(
                f"init_time: got {' '.join(cfg.init_time)}, expected {text} alone. Fix: --init_time {text}"
            )
        times.append(parse_time(text, "init_time"))
        if not store.has(times[-1]):
            raise ValueError(
                f"init_time: {cfg.zarr} has no {text}, expected a time of the store. "
                f"Nearest: {store.nearest_times(times[-1])}. Fix: --init_time with one of them, or latest"
            )
    return np.unique(np.array(times, "datetime64[ns]")), steps


def refuse_missing_history(cfg: Config, store: Store, init_times: np.ndarray, lead, history: int) -> None:
    """ValueError where the store lacks one of the hours before an initial time that the model looks back on."""
    for t in init_times:
        for k in range(1, history + 1):
            if not store.has(t - k * lead):
                raise ValueError(
                    f"init_time: {cfg.zarr} has no {show(t - k * lead)}, expected it because the model sees the last "
                    f"{history + 1} times up to {show(t)}. Fix: another --init_time"
                )


def choose_test_times(cfg: Config, store: Store, checkpoint: dict, lead, steps: int) -> tuple[np.ndarray, int]:
    """Test hours with truth for the whole forecast; where there are none, shorter forecasts, said."""
    first = Split.from_dict(checkpoint["split"]).test[0]
    last = store.times.max()  # the end of the record, or of a later one: training has seen nothing after `first`
    inside = find_pairs(store.times, lead, (first, last), checkpoint["config"]["history"])
    if len(inside) == 0:
        raise ValueError(
            f"init_time: {cfg.zarr} has no test hour ({show(first)} to {show(last)}) with truth one step later, "
            "expected some. Fix: name initial times with --init_time"
        )
    if cfg.test_starts < 1:
        raise ValueError(f"test_starts: got {cfg.test_starts}, expected at least 1. Fix: --test_starts 12")
    length = last - max(first, store.times.min())
    if length < steps * lead:
        steps = max(int(length / lead) // 2, 1)
        print(f"the test part is only {hours_of(length):g} hours long: forecasts of {steps * hours_of(lead):g} hours")
    in_time = inside <= last - steps * lead
    starts = inside[in_time] if in_time.any() else inside[:1]
    if cfg.init_every:
        every = parse_duration(cfg.init_every, "init_every")
        return starts[(starts - starts[0]) % every == np.timedelta64(0)], steps
    chosen = np.unique(np.linspace(0, len(starts) - 1, min(cfg.test_starts, len(starts))).round().astype(int))
    return starts[chosen], steps


def refuse_other_grid(checkpoint: dict, forcing: Forcing, store: Store) -> None:
    """ValueError where the store does not offer the forcing or the mask the model was trained with."""
    trained = checkpoint["grid"]
    if trained["forcing"] != forcing.names:
        raise ValueError(
            f"{store.path}: offers the forcing {', '.join(forcing.names) or 'none'}; the checkpoint expects "
            f"{', '.join(trained['forcing']) or 'none'}. Fix: add the missing coordinates or static fields to the store"
        )
    if trained["mask"] is not None and tuple(trained["mask"].shape[1:]) != store.grid.shape:
        raise ValueError(
            f"{store.path}: got the grid {store.grid.shape}, expected {tuple(trained['shape'])} because the model was "
            "trained with a mask. Fix: use a store on the training grid"
        )
    if tuple(trained["shape"]) != store.grid.shape:
        print(f"note: trained on {tuple(trained['shape'])} cells, forecast on {store.grid.shape}")


def boundary_text(cfg: Config) -> str:
    """What the forecast's attribute says of its edge: "" without boundary data."""
    if not cfg.boundary:
        return ""
    perfect = Path(cfg.boundary).resolve() == Path(cfg.zarr).resolve()
    return f"{cfg.boundary}{' (perfect boundary: the truth itself)' if perfect else ''}"


def describe_forecast(cfg: Config, checkpoint: dict, store: Store) -> dict:
    """The attributes that tell where a forecast came from."""
    libraries = {name: version(name) for name in ("torch", "numpy", "zarr", "xarray")}
    return {
        "title": "hourcast forecast", "source": f"residual UNet, {cfg.checkpoint}, started from {cfg.zarr}",
        "checkpoint_sha256": file_hash(cfg.checkpoint), "checkpoint_step": checkpoint["step"],
        "training_period": " to ".join(checkpoint["split"]["train"]), "lead": checkpoint["lead"],
        "split": checkpoint["split"], "statistics": checkpoint["statistics"], "constants": checkpoint["config"],
        "versions": {"python": sys.version.split()[0], **libraries},
        "boundary": boundary_text(cfg), "store_source": str(store.dataset.attrs.get("source", "")),
    }  # fmt: skip


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    run(Config, main, __doc__)
