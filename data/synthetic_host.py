"""Make a host store of a training store: what a coarse model with errors would give for the edge of the domain.

    python -m data.synthetic_host --zarr runs/demo/store.zarr --out runs/demo/host.zarr

The host has means over 24 km, every 3 hours, with a smooth, moving error of 0.5 K rms in temperatures and 1 m/s in
winds. Its fields are analyses: they stand in for a larger model's forecasts, whose errors would grow with lead time.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from data.command import fault, run
from data.store import Store
from data.variables import lookup

HOUR = np.timedelta64(1, "h").astype("timedelta64[ns]")
MEAN, EVERY = 24_000.0, 3  # m and hours: the host's resolution
ERROR = {"K": 0.5, "m s-1": 1.0}  # unit: rms of the host's error
WAVES, PERIOD = 8, 24.0  # waves of the error, at most two in the domain, and the shortest period in hours


@dataclass
class Config:
    zarr: str = "runs/demo/store.zarr"  # training store
    out: str = "runs/demo/host.zarr"  # host store to write; it must not exist


def main(cfg: Config) -> None:
    if Path(cfg.out).exists():
        raise ValueError(f"out: {cfg.out} exists, expected a new path. Fix: remove it, or name another")
    store = Store(cfg.zarr)
    write_host(Path(cfg.out), store, store.choose([]), coarse_times(store))
    print(f"wrote {cfg.out}: means over {MEAN / 1000:g} km every {EVERY} h, with errors")


def coarse_times(store: Store) -> np.ndarray:
    """The times of a store that its host has."""
    return store.times[(store.times - store.times.astype("datetime64[D]")) % (EVERY * HOUR) == 0 * HOUR]


def write_host(path: Path, store: Store, names: list[str], times: np.ndarray) -> Path:
    """Write the host store: means of the truth at `times`, with errors, on a coarser grid."""
    if store.grid.latitude is None or not store.grid.spacing:
        raise fault(store.path, "cells without latitude and longitude", "both", "add them to the store")
    (rows, down), (columns, across) = (
        averages(n, MEAN / d) for n, d in zip(store.grid.shape, store.grid.spacing, strict=True)
    )
    fields = np.stack([down @ store.load(t, names) @ across.T for t in times])  # (T, C, y, x)
    y, x = (at / n for at, n in zip((rows, columns), store.grid.shape, strict=True))
    for c, name in enumerate(names):
        fields[:, c] += ERROR.get(lookup(name).units, 0.0) * smooth_error((times - times[0]) / HOUR, y, x, seed=c)
    dims = ("time", "row", "column")
    coordinates = {n: (dims[1:], getattr(store.grid, n)[np.ix_(rows, columns)]) for n in ("latitude", "longitude")}
    arrays = {n: (dims, fields[:, c].astype(np.float32), store.dataset[n].attrs) for c, n in enumerate(names)}
    partial = path.with_name(path.name + ".partial")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr says that consolidation is not yet in the v3 specification
        xr.Dataset(arrays, {"time": times, **coordinates}).drop_encoding().to_zarr(partial, mode="w")
    partial.rename(path)
    return path


def averages(cells: int, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Cells (K,) about `width` apart from edge to edge, and weights (K, cells) of means over `width` around them, over
    what lies inside the domain at its edge."""
    at = np.unique(np.linspace(0, cells - 1, max(2, round((cells - 1) / width) + 1)).round().astype(int))
    weights = ((width + 1) / 2 - np.abs(np.arange(cells) - at[:, None])).clip(0, 1)
    return at, weights / weights.sum(axis=1, keepdims=True)


def smooth_error(hours: np.ndarray, y: np.ndarray, x: np.ndarray, seed: int) -> np.ndarray:
    """(T, Y, X) of rms 1: waves that move. y and x: places as shares of the domain's sides."""
    rng, error = np.random.default_rng(seed), 0.0
    for _ in range(WAVES):
        (ky, kx), period, phase = rng.uniform(-2, 2, 2), rng.uniform(1, 3) * PERIOD, rng.uniform()
        turns = hours[:, None, None] / period + ky * y[:, None] + kx * x + phase
        error = error + np.sqrt(2 / WAVES) * np.sin(2 * np.pi * turns)
    return error


if __name__ == "__main__":
    run(Config, main, __doc__)
