"""Make a training store from weather files: HRRR GRIB2 today.

    python -m data.build_hrrr --source grib --path hrrr_grib --out data/hrrr.zarr
    python -m data.build_hrrr --path hrrr_grib --out july.zarr --start 2018-07-01 --end 2018-07-31T23 --forecast_hour 1

Writes --out, a store as data/store.py describes. Valid times come from the GRIB messages, never from file
names. Analyses (f00) and 1-hour forecasts (f01) of the same hour differ and are never mixed in one store;
longer lead times and fields between the hours are left out and counted. Nothing is filled in: an hour that
lacks a variable is left out and listed, a cell that is missing in the file is NaN and counted.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from data.command import run
from data.source_grib import KINDS, GribHours, listed
from data.store import Store
from data.times import parse_time, show
from data.write import StoreWriter, start

HOUR = np.timedelta64(1, "h")
# What --source chooses: a class that takes (cfg, first, last) and has
#   times          sorted valid times, ns            names     variables, as they are stored
#   forecast_hour  0 analyses, 1 1-hour forecasts    grid      data.grid.Grid, rows south to north
#   source         one line for the attribute        notes     lines to print before the work
#   load(time)     {name: (y, x) in table units, NaN where the source has no value, CIN zero or negative}
#   flipped        hours, so far, whose CIN was positive and was turned
# and raises ValueError (got, expected, fix) for a path, option or content that cannot work.
SOURCES = {"grib": GribHours}


@dataclass
class Config:
    source: Literal["grib"] = "grib"  # what --path holds
    path: str = "data/grib"  # folder of GRIB2 files, searched with its subfolders
    out: str = "data/hrrr.zarr"  # the store to write; a training store that is there is replaced
    variables: list[str] = field(default_factory=list)  # names; empty: those that more than half of the hours have
    start: str = ""  # first valid time, ISO, UTC; empty: the first there is
    end: str = ""  # last valid time, included; empty: the last there is
    forecast_hour: Literal["auto", "0", "1"] = "auto"  # 0: f00, 1: f01; auto: the one with more hours


def main(cfg: Config) -> None:
    first, last = check(cfg)
    print(f"{cfg.source} {cfg.path} -> {cfg.out}")

    # --- what there is: headers only ---
    hours = SOURCES[cfg.source](cfg, first, last)
    height, width = hours.grid.shape
    print(f"{len(hours.times)} hours {show(hours.times[0])} to {show(hours.times[-1])} UTC, "
          f"{KINDS[hours.forecast_hour]}; {' '.join(hours.names)} on {height} x {width} cells")  # fmt: skip
    for note in [*hours.notes, gaps(hours.times)]:
        print(f"note: {note}")

    # --- hour by hour ---
    options = " ".join(f"--{k} {' '.join(v) if isinstance(v, list) else v}" for k, v in vars(cfg).items() if v)
    attributes = {"source": f"{hours.source}, {KINDS[hours.forecast_hour]}",
                  "history": f"python -m data.build_hrrr {options}"}  # fmt: skip
    missing: list[str] = []
    with StoreWriter(cfg.out, hours.names, hours.grid, attributes) as store:
        for time in tqdm(hours.times, desc="hours", unit="h", disable=None):
            fields = hours.load(time)
            store.write(time, fields, hours.forecast_hour)
            gone = {name: int(np.isnan(values).sum()) for name, values in fields.items()}
            missing += [f"{show(time)} {name}: {n} cells missing, stored as NaN" for name, n in gone.items() if n]

    # --- what came of it ---
    if hours.flipped:
        print(f"note: CIN was positive in {hours.flipped} hours; its sign was turned, so that it is zero or negative")
    for note in [*listed(missing), *Store(cfg.out).notes]:
        print(f"note: {note}")
    size = sum(p.stat().st_size for p in Path(cfg.out).rglob("*") if p.is_file()) / 1e6
    print(f"wrote {len(hours.times)} hours, {KINDS[hours.forecast_hour]}, {size:.1f} MB to {cfg.out}")


def check(cfg: Config) -> tuple[np.datetime64 | None, np.datetime64 | None]:
    """The first and last wanted time; ValueError for options that cannot work, before anything is read."""
    if Path(cfg.out).exists():
        start(Path(cfg.out), "training")  # refuses what is not ours
    first = parse_time(cfg.start, "start") if cfg.start else None
    last = parse_time(cfg.end, "end") if cfg.end else None
    if first is not None and last is not None and first > last:
        raise ValueError(f"start: got {cfg.start}, after the end {cfg.end}, expected a time before. Fix: exchange them")
    return first, last


def gaps(times: list[np.datetime64]) -> str:
    """Which hours are absent between the first and the last, as one line."""
    found = [(a + HOUR, b - HOUR) for a, b in pairwise(times) if b - a > HOUR]
    hours = sum(int((b - a) / HOUR) + 1 for a, b in found)
    spans = [show(a) if a == b else f"{show(a)} to {show(b)}" for a, b in found]
    return f"{hours} hours absent: {', '.join(listed(spans))}" if found else "no hour absent between first and last"


if __name__ == "__main__":
    run(Config, main, __doc__)
