"""Measure how fast training reads a store: hours per second of the first epoch and of a cached one.

    python -m benchmarks.loader                                         # makes a store of eight full-CONUS hours
    python -m benchmarks.loader --zarr data/hrrr.zarr --hours 12 --json benchmarks/results/loader.json

`first epoch` decodes every hour and fills the cache, `no checksums` does so from a copy of the store without them,
`cached` reads the same hours again, all in random order. `copy` copies an hour in memory, the bound of any cache. Every
round does all of them in turn; times are medians over the rounds. `CPU` is processor time of all threads. The files are
in the system's page cache.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from data.command import run
from data.dataset import Hours
from data.grid import Grid
from data.metadata import COMPRESSION
from data.normalise import Statistics
from data.store import Store
from data.variables import lookup
from data.write import StoreWriter

FULL = (1059, 1799)  # cells of the HRRR domain
SCALES = {"REFC": (-30, 30, 2**-4), "T2M": (288, 8, 2**-4), "D2M": (275, 7, 2**-4), "U10": (1, 5, 2**-4),
          "V10": (-2, 5, 2**-4), "CAPE": (-500, 1500, 8.0), "CIN": (-60, 100, 2.0)}  # fmt: skip  # mean, wave, step


@dataclass
class Config:
    zarr: str = ""  # training store; empty: a synthetic full-CONUS one
    hours: int = 8  # hours read, the first of the store
    repeats: int = 9  # rounds
    json: str = ""  # file for the figures; empty: none


def main(cfg: Config) -> None:
    if min(cfg.hours, cfg.repeats) < 1:
        raise ValueError(f"got --hours {cfg.hours} --repeats {cfg.repeats}, expected at least 1. Fix: --repeats 9")
    with tempfile.TemporaryDirectory() as folder:
        path = cfg.zarr or f"{folder}/conus.zarr"
        if not cfg.zarr:
            write_store(Path(path), cfg.hours)
        stores = {"first epoch": Store(path)}
        names, times = stores["first epoch"].choose([]), np.sort(stores["first epoch"].times)[: cfg.hours]
        encoding = {n: {"compressors": [COMPRESSION], "chunks": (1, *stores["first epoch"].grid.shape)} for n in names}
        dataset = xr.open_zarr(path, chunks=None)[names].sel(time=times).drop_encoding()
        dataset.to_zarr(f"{folder}/plain.zarr", encoding=encoding, consolidated=False)
        measure(cfg, stores | {"no checksums": Store(f"{folder}/plain.zarr")}, names, times)


def measure(cfg: Config, stores: dict[str, Store], names: list[str], times: np.ndarray) -> None:
    shape = stores["first epoch"].grid.shape
    size = 4 * len(names) * int(np.prod(shape))  # bytes of an hour as float32
    source, target = (np.zeros(size, np.uint8) for _ in range(2))
    statistics = Statistics(tuple(names), *(torch.ones(len(names)) for _ in range(3)))
    rng = np.random.default_rng(0)

    def one_round() -> dict[str, np.ndarray]:
        out = {}
        for way, store in stores.items():
            hours = Hours(store, names, statistics, None, room=len(times) * size)  # as training reads

            def read_all(hours=hours) -> None:
                for t in rng.permutation(times):
                    torch.stack([hours(t)])  # training copies each hour into a batch too

            out[way], cached = seconds(read_all), seconds(read_all)
        return out | {"cached": cached, "copy": seconds(lambda: [np.copyto(target, source) for _ in times])}

    one_round()  # warm-up
    rounds = [one_round() for _ in range(cfg.repeats)]
    medians = {k: np.median([r[k] for r in rounds], axis=0) / len(times) for k in rounds[0]}
    print(f"{len(times)} hours of {size / 1e6:.0f} MB\n{'ms per hour':12s} {'clock':>8s} {'CPU':>8s} {'MB/s':>8s}")
    for name, (clock, cpu) in medians.items():
        print(f"{name:12s} {1e3 * clock:8.2f} {1e3 * cpu:8.2f} {size / 1e6 / clock:8.0f}")
    share = float(np.median([1 - r["no checksums"][0] / r["first epoch"][0] for r in rounds]))
    print(f"checksums take {share:.1%} of the first epoch's reading")
    if cfg.json:
        result = {"grid": list(shape), "variables": names, "hours": len(times), "repeats": cfg.repeats,
                  "cores": os.cpu_count(), "torch": torch.__version__,
                  "milliseconds_clock_and_cpu": {k: (1e3 * v).tolist() for k, v in medians.items()},
                  "hours_per_s": {k: 1 / v[0] for k, v in medians.items()}, "checksum_share": share}  # fmt: skip
        Path(cfg.json).write_text(json.dumps(result, indent=1) + "\n")


def seconds(action: Callable) -> np.ndarray:
    """Seconds by the clock and of processor time."""
    began = time.perf_counter(), time.process_time()
    action()
    return np.array([time.perf_counter() - began[0], time.process_time() - began[1]])


def write_store(path: Path, hours: int, shape: tuple[int, int] = FULL) -> None:
    """Smooth waves with fine noise, rounded to steps as GRIB rounds them, so that they compress like real fields."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with StoreWriter(path, list(SCALES), Grid(shape), {"source": "benchmarks.loader"}) as store:
        for h in range(hours):
            fields = {}
            for k, (name, (mean, wave, step)) in enumerate(SCALES.items()):
                field = mean + wave * np.sin((x - 8 * h) / (150 + 20 * k)) * np.cos(y / (130 + 10 * k))
                field = np.round((field + 0.03 * wave * np.roll(noise, 8 * h + k, 1)) / step) * step
                fields[name] = np.clip(field, lookup(name).lower, lookup(name).upper)
            store.write(np.datetime64("2024-05-20", "ns") + h * np.timedelta64(1, "h"), fields)


if __name__ == "__main__":
    run(Config, main, __doc__)
