"""Make a training store from weather data: HRRR GRIB2 files or archive, hrrrzarr, any zarr or NetCDF that xarray reads.

    python -m data.build_hrrr --source grib --path hrrr_grib --out data/hrrr.zarr
    python -m data.build_hrrr --path hrrr_grib --out july.zarr --start 2018-07-01 --end 2018-07-31T23 --forecast_hour 1
    python -m data.build_hrrr --source zarr --path era5.nc --out data/era5.zarr
    python -m data.build_hrrr --source hrrrzarr --path hrrrzarr --out data/utah.zarr
    python -m data.build_hrrr --source archive --start 2024-05-20 --end 2024-06-02T23 --out data/hrrr.zarr

Writes --out, a store as data/store.py describes. The same command goes on where it was interrupted (OUT.partial and
OUT.progress hold what is complete until then), and a later --end adds hours to a finished store; run twice it changes
nothing. Valid times come from the data, never from file names. Analyses (f00) and 1-hour forecasts (f01) of the same
hour differ and are never mixed in one store; longer lead times and fields between the hours are left out and counted.
Nothing is filled in: an hour that lacks a variable is left out and listed, a cell that is missing is NaN and counted.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr
from tqdm import tqdm

from data.archive import HourUnavailable
from data.command import run
from data.source_archive import ArchiveHours
from data.source_grib import KINDS, GribHours, listed
from data.source_hrrrzarr import UtahHours
from data.source_zarr import ZarrHours
from data.store import Store
from data.times import parse_time, show
from data.write import StoreWriter, refuse_foreign

HOUR = np.timedelta64(1, "h")
# What --source chooses: a class that takes (cfg, first, last) and has
#   times          sorted valid times, ns            names     variables, as they are stored
#   forecast_hour  0 analyses, 1 1-hour forecasts    grid      data.grid.Grid, rows south to north
#   source         one line for the attribute        notes     lines to print before the work
#   load(time)     {name: (y, x) in table units, NaN where the source has no value}
#   described      (may be absent) {name: attributes} of variables that the table does not know
#   close()        (may be absent) clean up; returns lines to print
# and raises ValueError (got, expected, fix) for a path, option or content that cannot work; `load` may raise
# HourUnavailable for an hour that is to be left out.
SOURCES = {"grib": GribHours, "zarr": ZarrHours, "hrrrzarr": UtahHours, "archive": ArchiveHours}


@dataclass
class Config:
    source: Literal["grib", "zarr", "hrrrzarr", "archive"] = "grib"  # what --path holds; archive: what --url serves
    path: str = "data/grib"  # folder of GRIB2 or hrrrzarr files, a zarr store, a NetCDF file or folder of them
    url: str = "https://noaa-hrrr-bdp-pds.s3.amazonaws.com"  # archive: NOAA's bucket, a mirror or a local server
    out: str = "data/hrrr.zarr"  # the store to write; one that is there is extended by later hours
    replace: bool = False  # build it anew; the store that is there is replaced when the new one is complete
    variables: list[str] = field(default_factory=list)  # names; empty: those that more than half of the hours have
    start: str = ""  # first valid time, ISO, UTC; empty: the first there is
    end: str = ""  # last valid time, included; empty: the last there is
    forecast_hour: Literal["auto", "0", "1"] = "auto"  # 0: f00, 1: f01; auto: the one with more hours
    cache: int = 200  # MB of decoded fields that a zarr or NetCDF source is read ahead by


def main(cfg: Config) -> None:
    first, last = check(cfg)
    print(f"{cfg.source} {cfg.url if cfg.source == 'archive' else cfg.path} -> {cfg.out}")

    # --- what there is: headers only ---
    hours = SOURCES[cfg.source](cfg, first, last)
    if cfg.source == "archive":
        leave_out_lost(cfg, hours)
    height, width = hours.grid.shape
    print(f"{len(hours.times)} hours {show(hours.times[0])} to {show(hours.times[-1])} UTC, "
          f"{KINDS[hours.forecast_hour]}; {' '.join(hours.names)} on {height} x {width} cells")  # fmt: skip
    for note in [*hours.notes, gaps(hours.times)]:
        print(f"note: {note}")

    # --- hour by hour ---
    options = " ".join(f"--{k} {' '.join(v) if isinstance(v, list) else v}" for k, v in vars(cfg).items() if v)
    attributes = {"source": f"{hours.source}, {KINDS[hours.forecast_hour]}",
                  "history": f"python -m data.build_hrrr {options}"}  # fmt: skip
    missing: dict[tuple[str, int], list[np.datetime64]] = {}  # (variable, cells): hours
    turned = 0  # hours whose CIN was positive: sources differ in its sign
    lost: list[str] = []  # hours that the archive could not deliver
    described = getattr(hours, "described", {})
    if cfg.replace and Path(cfg.out).exists():
        print(f"note: {cfg.out} is built anew and replaced when that is complete")
    with StoreWriter(cfg.out, hours.names, hours.grid, attributes, described,
                     hours.times, hours.forecast_hour, cfg.replace) as store:  # fmt: skip
        if len(store.todo) < len(hours.times):
            print(f"note: {len(hours.times) - len(store.todo)} hours are there already; {len(store.todo)} to go")
        for time in tqdm(store.todo, desc="hours", unit="h", disable=None):
            try:
                fields = hours.load(time)
            except HourUnavailable as error:
                lost.append(f"left out: {show(time)}, {error}")
                continue
            if "CIN" in fields and np.nansum(fields["CIN"]) > 0:
                fields["CIN"] = 0.0 - fields["CIN"]
                turned += 1
            store.write(time, fields, hours.forecast_hour)
            for name, values in fields.items():
                if cells := int(np.isnan(values).sum()):
                    missing.setdefault((name, cells), []).append(time)
        if lost and len(lost) == len(store.todo):
            raise ValueError(f"start/end: got none of {len(lost)} hours whole ({lost[0]}), expected one or more. "
                             "Fix: another --start and --end, or the same command later")  # fmt: skip

    # --- what came of it ---
    if turned:
        print(f"note: CIN was positive in {turned} hours; its sign was turned, so that it is zero or negative")
    lines = [
        f"{show(at[0])} {name}: {cells} cells missing, stored as NaN"
        + (f", and as many in {len(at) - 1} more hours" if at[1:] else "")
        for (name, cells), at in missing.items()
    ]
    written = Store(cfg.out)
    closing = hours.close() if hasattr(hours, "close") else []
    for note in [*listed(lost), *listed(lines), *closing, *written.notes]:
        print(f"note: {note}")
    size = sum(p.stat().st_size for p in Path(cfg.out).rglob("*") if p.is_file()) / 1e6
    print(f"wrote {len(store.todo) - len(lost)} hours, {KINDS[hours.forecast_hour]}, to {cfg.out}, "
          f"which has {written.dataset.sizes['time']} hours, {size:.1f} MB")  # fmt: skip


def leave_out_lost(cfg: Config, hours) -> None:
    """Hours that an earlier run could not have and went on without: a store grows at its end only."""
    if not Path(cfg.out).exists() or cfg.replace:
        return
    held = xr.open_zarr(cfg.out, chunks=None).time.values.astype("datetime64[ns]")
    late = [t for t in hours.times if t <= held.max() and t not in held]
    hours.times = [t for t in hours.times if t not in late]
    if late:
        hours.notes.append(f"{len(late)} hours before the end of {cfg.out} are not in it (first {show(late[0])}) and "
                           "stay out: a store grows at its end. With them: --replace True")  # fmt: skip


def check(cfg: Config) -> tuple[np.datetime64 | None, np.datetime64 | None]:
    """The first and last wanted time; ValueError for options that cannot work, before anything is read."""
    if Path(cfg.out).exists():
        refuse_foreign(Path(cfg.out), "training")
    first = parse_time(cfg.start, "start") if cfg.start else None
    last = parse_time(cfg.end, "end") if cfg.end else None
    if first is not None and last is not None and first > last:
        raise ValueError(f"start: got {cfg.start}, after the end {cfg.end}, expected a time before. Fix: exchange them")
    return first, last


def gaps(times: list[np.datetime64]) -> str:
    """Which hours are absent between the first and the last, as one line."""
    step = min([HOUR, *(b - a for a, b in pairwise(times))])  # shorter for radar every 5 minutes
    found = [(a + step, b - step) for a, b in pairwise(times) if b - a > step]
    hours = sum(int((b - a) / step) + 1 for a, b in found)
    spans = [show(a) if a == b else f"{show(a)} to {show(b)}" for a, b in found]
    return f"{hours} hours absent: {', '.join(listed(spans))}" if found else "no hour absent between first and last"


if __name__ == "__main__":
    run(Config, main, __doc__)
