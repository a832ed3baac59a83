"""Hours and megabytes a second of the loader: first pass and cached, against plain xarray, bare decoding and a copy.

    python -m benchmarks.loader                                         # makes its own store of eight full-CONUS hours
    python -m benchmarks.loader --zarr data/hrrr.zarr --hours 12 --json benchmarks/results/loader.json

A pair is what one step reads with one hour of history: three hours. `xarray` reads them with
xarray.open_zarr(...).isel(time=i).load(). `bare decode` is one hour: the bytes of its chunks, read and unpacked by
Blosc into memory that is already there. `first pass` and `cached` are two epochs in random order, for each pair up to
what the step takes to its device, in the cache's precision; `gathered` adds the copy into one (on a GPU pinned) buffer,
`converted` what makes float32 of it on the device. `new memory` is what the system takes to hand out the memory of an
hour in the cache; before each first pass it is taken once and given back, as a virtual machine may need twenty times as
long for memory that it has not used for a while. Every round does all of them in turn; times are medians over the
rounds, ratios medians of the rounds' ratios, so that a busy machine is so for both sides. `CPU` is processor time, of
all threads, which others on the machine disturb less. One thread decodes, where --threads does not say otherwise; the
files are in the system's page cache but for `first pass, from disk`.
"""

import contextlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from numcodecs.blosc import Blosc

from data.cache import block_order
from data.command import run
from data.dataset import Hours, Series, find_pairs
from data.grid import HRRR_SPACING, HRRR_X0, HRRR_Y0, LAMBERT_HRRR, Grid, lambert_latlon
from data.metadata import replace
from data.packing import find_step
from data.store import Store
from data.write import StoreWriter
from training.device import choose_device

SHAPE = (1059, 1799)
TOUCHED = 3  # hours of a pair
AN_HOUR = ("bare decode", "new memory")  # given for an hour, not a pair


@dataclass
class Config:
    zarr: str = ""  # a training store; empty: a synthetic full-CONUS one is made
    hours: int = 8  # of the store, its first ones
    repeats: int = 9  # rounds
    threads: int = 1  # variables that are decoded at the same time
    json: str = ""  # file for the figures


class Bench:
    """The things that are timed, on the first hours of one store."""

    def __init__(self, path: Path, cfg: Config, device: torch.device):
        self.store, self.device, self.threads = Store(path), device, cfg.threads
        self.dataset, self.names = xr.open_zarr(path, chunks=None), self.store.choose([])
        self.times = self.store.times[: cfg.hours]
        self.lead = np.diff(self.times).min()
        self.pairs = find_pairs(self.times, self.lead, (self.times[0], self.times[-1]), 1)
        if len(self.pairs) < 2:
            raise ValueError(f"hours: got {len(self.pairs)} pairs in {path}, expected at least 2. Fix: --hours 8")
        self.fields = np.empty((len(self.names), *self.store.grid.shape), np.float32)
        self.copies = [np.zeros((TOUCHED, *self.fields.shape), np.int16) for _ in range(2)]
        self.rng = torch.Generator().manual_seed(0)

    def xarray_pair(self) -> np.ndarray:
        at = int(np.searchsorted(self.store.dataset["time"].values, self.pairs[len(self.pairs) // 2]))
        return seconds(lambda: [self.dataset[self.names].isel(time=at + k).load() for k in (-1, 0, 1)])

    def bare_hour(self) -> np.ndarray:
        """One hour, the mean over all of them."""

        def all_hours():
            for t in self.times:
                at = int(np.searchsorted(self.store.dataset["time"].values, t))
                for name, field in zip(self.names, self.fields, strict=True):
                    Blosc().decode(chunk(self.store.path, name, at).read_bytes(), out=field)

        return seconds(all_hours) / len(self.times)

    def copy_pair(self) -> np.ndarray:
        return seconds(lambda: np.copyto(*self.copies))

    def touch(self, kind: type) -> np.ndarray:
        """Take the memory of a cache and give it back, so that a virtual machine has it at hand; seconds an hour."""
        return seconds(lambda: [np.ones(self.fields.shape, kind) for _ in self.times]) / len(self.times)

    def loader(self, packed: bool, cache_gb: float = -1.0) -> tuple[Hours, str]:
        hours = Hours(self.store, self.names, None, threads=self.threads)
        line = hours.plan(self.times, TOUCHED, self.device, True, cache_gb, half=packed).line
        hours.decoded = 0
        return hours, line

    def epoch(self, hours: Hours, block: int = 0, then: Callable | None = None) -> np.ndarray:
        """Seconds a pair of one epoch."""
        series, order = Series(hours, self.lead, 1), block_order(len(self.pairs), block, self.rng)

        def all_pairs():
            for i in order:
                states, targets = series.batches(self.pairs[[i]], range(1))
                if then:
                    then(states, *targets)

        return seconds(all_pairs) / len(order)

    def gather(self, *batches) -> None:
        for out, hour in zip(self.copies[1], [h for b in batches for h in b.hours], strict=True):
            np.copyto(out, hour.values.numpy())

    def convert(self, *batches) -> None:
        for batch in batches:
            batch.to(self.device)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def round(self) -> dict[str, np.ndarray]:
        out = {"xarray": self.xarray_pair(), "bare decode": self.bare_hour()}
        hours, _ = self.loader(packed=False)
        self.touch(np.float32)
        out["first pass, float32"] = self.epoch(hours)
        out["cached, float32"] = self.epoch(hours)
        out["converted, float32"] = self.epoch(hours, then=self.convert)
        hours, _ = self.loader(packed=True)
        out["new memory"] = self.touch(np.int16)
        out["first pass"] = self.epoch(hours)
        assert hours.decoded == len(self.times), "each hour is decoded once"
        out["cached"] = self.epoch(hours)
        if hours._steps is not None and self.device.type == "cpu":
            out["gathered"] = self.epoch(hours, then=self.gather)
        out["converted"] = self.epoch(hours, then=self.convert)
        hours, _ = self.loader(packed=True)
        if forget(self.store.path):
            out["first pass, from disk"] = self.epoch(hours)
        out["memory copy"] = self.copy_pair()
        return out


def chunk(path: str, name: str, index: int) -> Path:
    """A chunk of a store that our writer made."""
    return Path(path) / name / "c" / str(index) / "0" / "0"


def forget(path: str) -> bool:
    """Have the system drop a store's files from its page cache; False where it cannot be asked to."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for file in Path(path).rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)
    return True


def seconds(action: Callable) -> np.ndarray:
    """Seconds by the clock and of processor time."""
    began = time.perf_counter(), time.process_time()
    action()
    return np.array([time.perf_counter() - began[0], time.process_time() - began[1]])


def precision(bench: Bench, hours: Hours) -> dict[str, dict]:
    """For each variable the source's step, and the largest error over all hours of int16 in the cache, of float16, and
    of float16 beside the hour's middle."""
    table: dict[str, dict] = {}
    for t in bench.times:
        exact, cached = bench.store.load(t, bench.names), hours(t).numpy()
        for name, field, ours in zip(bench.names, exact, cached, strict=True):
            middle = np.float32((field.min() + field.max()) / 2)
            errors = {
                "cache": ours - field,
                "float16": field.astype(np.float16).astype(np.float32) - field,
                "float16 beside the middle": (field - middle).astype(np.float16).astype(np.float32) + middle - field,
            }
            row = table.setdefault(name, {"step": find_step(field), **dict.fromkeys(errors, 0.0)})
            for kind, error in errors.items():
                row[kind] = max(row[kind], float(np.abs(error).max()))
    return table


def main(cfg: Config) -> None:
    place = contextlib.nullcontext() if cfg.zarr else tempfile.TemporaryDirectory()
    with place as folder:
        path = Path(cfg.zarr or f"{folder}/conus.zarr")
        if not cfg.zarr:
            needed, free = 40e6 * cfg.hours, shutil.disk_usage(folder).free
            if free < needed:
                raise ValueError(f"hours: got {cfg.hours}, {needed / 1e9:.1f} GB, expected less than the "
                                 f"{free / 1e9:.1f} GB free in {folder}. Fix: fewer --hours")  # fmt: skip
            print(f"making {cfg.hours} hours of 1059 x 1799 cells", flush=True)
            synthetic_day(path, cfg.hours)
        measure(cfg, path)


def measure(cfg: Config, path: Path) -> None:
    device = choose_device()
    bench = Bench(path, cfg, device)
    hours, line = bench.loader(packed=True)
    kind = "int16" if hours._steps is not None else "float32"
    bench.round()  # warm-up
    rounds = [bench.round() for _ in range(cfg.repeats)]
    medians = {k: np.median([r[k] for r in rounds], axis=0) for k in rounds[0]}
    pair = TOUCHED * bench.fields.nbytes / 1e6  # MB of float32 fields in a pair
    print(f"{path}: {len(bench.times)} hours, {bench.fields.shape} float32, {pair / TOUCHED:.0f} MB each\n{line}")
    print(f"{'ms a pair':30s} {'clock':>8s} {'CPU':>8s} {'MB/s of float32':>16s}")
    for name, (value, cpu) in medians.items():
        size = pair / TOUCHED if name in AN_HOUR else pair / 2 if name == "memory copy" else pair
        note = " an hour" if name in AN_HOUR else f" of {size:.0f} MB" if name == "memory copy" else ""
        print(f"{name + note:30s} {1e3 * value:8.2f} {1e3 * cpu:8.2f} {size / value:16.0f}")
    decoded = len(bench.times) / len(bench.pairs)  # hours that the first pass decodes for each pair

    def ratio(a: str, b: str, factor: float = 1.0) -> list[float]:
        return np.median([r[a] / (factor * r[b]) for r in rounds], axis=0).tolist()

    ratios = {
        "cached against xarray": ratio("xarray", "cached"),
        "gathered against xarray": ratio("xarray", "gathered") if "gathered" in medians else None,
        "first pass against xarray": ratio("xarray", "first pass"),
        "first pass against bare decode": ratio("first pass", "bare decode", decoded),
        "first pass, float32, against bare decode": ratio("first pass, float32", "bare decode", decoded),
    }
    for name, value in ratios.items():
        text = "-" if value is None else f"{value[0]:.2f} by the clock, {value[1]:.2f} in CPU time"
        print(f"{name:42s} {text}")
    errors = precision(bench, hours)
    print(f"largest error: {'step':>10s} {kind:>10s} {'float16':>10s} {'float16 beside the middle':>26s}")
    for name, row in errors.items():
        step = "-" if row["step"] is None else f"{row['step']:.4g}"
        numbers = f"{row['cache']:10.3g} {row['float16']:10.3g} {row['float16 beside the middle']:26.3g}"
        print(f"{name:14s} {step:>10s} {numbers}")
    if cfg.json:
        card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
        about = {"device": card, "torch": torch.__version__, "grid": list(bench.store.grid.shape),
                 "variables": bench.names, "hours": len(bench.times), "repeats": cfg.repeats,
                 "decoding_threads": cfg.threads, "cores": os.cpu_count(), "cache": line, "cache_kind": kind,
                 "mb_of_a_pair": pair,
                 "milliseconds_clock_and_cpu": {k: (1e3 * v).tolist() for k, v in medians.items()},
                 "hours_per_s": {k: (1 if k in AN_HOUR else TOUCHED) / v[0] for k, v in medians.items()},
                 "ratios": ratios, "largest_error": errors}  # fmt: skip
        Path(cfg.json).parent.mkdir(parents=True, exist_ok=True)
        replace(Path(cfg.json), json.dumps(about, indent=1) + "\n")
        print(f"wrote {cfg.json}")


def synthetic_day(path: Path, hours: int) -> None:
    """Fields that pack about as real ones do: smooth waves and fine noise, rounded to steps as GRIB rounds them."""
    x, y = HRRR_X0 + HRRR_SPACING * np.arange(SHAPE[1]), HRRR_Y0 + HRRR_SPACING * np.arange(SHAPE[0])
    latitude, longitude = lambert_latlon(x[None, :], y[:, None])
    static = {"orography": np.zeros(SHAPE, np.float32), "land_sea_mask": np.ones(SHAPE, np.float32)}
    grid = Grid(SHAPE, latitude=latitude, longitude=longitude, y=y, x=x, projection=LAMBERT_HRRR, static=static)
    rng = np.random.default_rng(0)
    fine = rng.standard_normal(SHAPE).astype(np.float32)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float32)
    plan = {"REFC": (-30, 30, -10, 75, 2**-4), "T2M": (288, 8, 180, 340, 2**-4), "D2M": (275, 7, 180, 340, 2**-4),
            "U10": (1, 5, -90, 90, 2**-4), "V10": (-2, 5, -90, 90, 2**-4), "CAPE": (-500, 1500, 0, 6000, 8.0),
            "CIN": (60, 100, -500, 0, 2.0)}  # fmt: skip  # mean, wave, lowest, highest, step
    with StoreWriter(path, list(plan), grid, {"source": "synthetic fields of benchmarks/loader.py"}) as store:
        for h in range(hours):
            fields = {}
            for k, (name, (mean, wave, low, high, step)) in enumerate(plan.items()):
                field = mean + wave * np.sin((columns - 8 * h) / (150 + 20 * k)) * np.cos(rows / (130 + 10 * k))
                field += 0.03 * wave * np.roll(fine, 8 * h + k, 1)
                fields[name] = np.clip(np.round(field / step) * step, low, high)
                if name == "CIN":
                    fields[name] = -np.abs(fields[name])
            fields["D2M"] = np.minimum(fields["D2M"], fields["T2M"])
            store.write(np.datetime64("2024-05-20", "ns") + h * np.timedelta64(1, "h"), fields)


if __name__ == "__main__":
    run(Config, main, __doc__)
