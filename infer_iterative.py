"""Roll a trained checkpoint forward, step by step, into a forecast store.

    python infer_iterative.py                                           # the constants below
    python infer_iterative.py --checkpoint runs/hrrr/best.pt --zarr data/hrrr.zarr \\
        --init_time 2018-07-23T00 --hours 24 --out runs/hrrr/forecast.zarr
    python infer_iterative.py ... --init_time latest                    # or several times, or: test

Writes the forecast store --out (format: data/forecast_store.py), which opens with xarray.open_zarr.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data.boundary import Boundary
from data.command import run
from data.dataset import Hours, Series, Split, find_pairs, usual_step
from data.forecast_store import ForecastWriter
from data.metadata import refuse_foreign
from data.store import Store
from data.times import hours_of, parse_duration, parse_time, show, show_duration
from forecaster import (
    count_steps,
    describe,
    forecast,
    load_model,
    match_variables,
    refuse_missing_history,
    refuse_no_batch,
    roll_out,
)

__all__ = ["Config", "forecast", "load_model", "main"]  # forecast and load_model are for use from Python


@dataclass
class Config:
    checkpoint: str = "runs/hrrr/best.pt"  # what train_deterministic.py wrote; best.pt alone is enough
    zarr: str = "data/hrrr.zarr"  # store with the initial hours
    init_time: list[str] = field(default_factory=lambda: ["latest"])  # ISO times, UTC; or: latest; or: test
    hours: float = 24.0  # length of the forecast
    test_starts: int = 12  # with `--init_time test`: at most this many, spread evenly over the test hours
    init_every: str = ""  # with `--init_time test`: instead, one every so often, such as 6h
    boundary: str = ""  # store that gives the edge of the domain at every step; empty: no boundary data
    yesterday: bool = True  # without it: draw the edge to the day before, where training has measured it so
    sharpen: bool = True  # give back the detail that a step loses, where training has measured it
    batch_size: int = 1  # initial times that are computed together: faster on small domains, for more memory
    out: str = "runs/hrrr/forecast.zarr"  # forecast store to write


def main(cfg: Config) -> int:
    refuse_no_batch(cfg.batch_size)
    model = load_model(cfg.checkpoint)
    checkpoint, lead = model.checkpoint, model.lead
    store = Store(cfg.zarr)
    names = match_variables(checkpoint, store)
    steps = count_steps(cfg.hours, lead)
    init_times, steps = choose_init_times(cfg, store, checkpoint, lead, steps)
    refuse_missing_history(store, init_times, lead, model.history)
    forcing = model.forcing(store.grid, store.path)
    hours = Hours(store, names, None if model.mask is None else model.mask.cpu(), cache_gb=0.5)
    series = Series(hours, lead, model.history)
    edge = Boundary(cfg.boundary, store, model.statistics, model.mask) if cfg.boundary else None
    if edge:
        edge.refuse_missing(init_times, lead, steps, "fewer --hours, or another --init_time")
    elif cfg.yesterday:
        edge = model.yesterday(hours, init_times, steps)

    # ---- the roll-out
    lead_times = np.arange(steps + 1) * lead
    some = ", ".join(map(show, init_times[:3])) + (" ..." if len(init_times) > 3 else "")
    print(f"forecast {' '.join(names)} of {cfg.zarr} with {cfg.checkpoint} on {model.device}, into {cfg.out}")
    print(f"initial times: {len(init_times)} ({some}); {hours_of(lead_times[-1]):g} h in {steps} steps", flush=True)
    first, last = Split.from_dict(checkpoint["split"]).train
    if seen := int(((init_times >= first) & (init_times <= last)).sum()):
        print(
            f"note: {seen} of them lie in the training hours ({show(first)} to {show(last)}): the model has seen them"
        )
    refuse_foreign(Path(cfg.out), "forecast")
    if Path(cfg.out).exists():
        print(f"note: the forecast that is in {cfg.out} stays until this one is complete, which then replaces it")
    series.states(init_times[:1])  # a broken first hour shows before anything is made
    sharpened = model.sharpened(bool(cfg.boundary)) if cfg.sharpen else None
    attributes = describe(model, store, cfg.boundary, sharpened is not None, edge)
    if cfg.boundary:
        print(f"boundary data: {attributes['boundary']}", flush=True)
    elif edge:
        without = int((~edge.known(init_times)).sum())
        but = f"; not in {without} of {len(init_times)}: the store lacks hours of it" if without else ""
        told = f"after {edge.after:g} h the edge is drawn to the day before the initial time{but}"
        print(f"no boundary data: {told}", flush=True)
    if held := attributes["held"]:
        print(f"note: {held} stay as they are (persistence): validation did not show them forecast better", flush=True)
    if cfg.sharpen and not sharpened:
        kind = "with boundary data" if cfg.boundary else "without boundary data"
        print(
            f"note: not sharpened; {cfg.checkpoint} has nothing measured for forecasts {kind} "
            "(where validation is short, or training had --sharpen False, that is so)",
            flush=True,
        )
    bar = tqdm(total=len(init_times) * steps, desc="roll-out", unit="step", disable=None)
    clipped_sum = np.zeros(len(names))
    with ForecastWriter(cfg.out, names, store.grid, init_times, lead_times, attributes) as out:
        forecasts = roll_out(model, series, init_times, forcing, steps, edge, cfg.batch_size, sharpened)
        for batch, k, fields, clipped in forecasts:
            for i, some, share in zip(range(batch.start, batch.stop), fields, clipped, strict=True):
                out.write(i, k, some, share)
            clipped_sum += clipped.sum(axis=0)
            bar.update(len(fields) if k else 0)
    bar.close()
    shares = ", ".join(f"{n} {s:.2%}" for n, s in zip(names, clipped_sum / (len(init_times) * steps), strict=True) if s)
    print(f"cells clipped to physical bounds, mean over steps: {shares or 'none'}")
    print(f"wrote {cfg.out}; open it with xarray.open_zarr({cfg.out!r})")
    return 0


def choose_init_times(cfg: Config, store: Store, checkpoint: dict, lead, steps: int) -> tuple[np.ndarray, int]:
    """The initial times as datetime64[ns], and the number of steps (fewer for `test` on a short record)."""
    if not cfg.init_time:
        raise ValueError("init_time: got nothing, expected ISO times, latest or test. Fix: --init_time latest")
    if cfg.init_every and cfg.init_time != ["test"]:
        raise ValueError(
            f"init_every: got {cfg.init_every} with --init_time {' '.join(cfg.init_time)}, expected it with test "
            "alone. Fix: --init_time test, or no --init_every"
        )
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
        every, step = parse_duration(cfg.init_every, "init_every"), usual_step(store.times)
        if every % step != np.timedelta64(0, "ns"):
            raise ValueError(
                f"init_every: got {cfg.init_every}, expected a multiple of {show_duration(step)}, the step of "
                f"{cfg.zarr}. Fix: --init_every {show_duration(step).replace(' ', '')}"
            )
        return starts[(starts - starts[0]) % every == np.timedelta64(0, "ns")], steps
    chosen = np.unique(np.linspace(0, len(starts) - 1, min(cfg.test_starts, len(starts))).round().astype(int))
    return starts[chosen], steps


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    run(Config, main, __doc__)
