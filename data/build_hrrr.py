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
Hours are built in several processes, or by the workers of a Dask cluster (--dask tcp://HOST:8786); the result is the
same.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Literal

import numpy as np
import xarray as xr
from tqdm import tqdm

from data.build_hour import Done
from data.command import run
from data.source_archive import ArchiveHours
from data.source_grib import KINDS, GribHours, listed
from data.source_hrrrzarr import UtahHours
from data.source_zarr import ZarrHours
from data.store import Store
from data.times import parse_time, show
from data.workers import build
from data.write import StoreWriter, refuse_foreign

HOUR = np.timedelta64(1, "h")
# What --source chooses: a class that takes (cfg, first, last) and has
#   times          sorted valid times, ns            names     variables, as they are stored
#   forecast_hour  0 analyses, 1 1-hour forecasts    grid      data.grid.Grid, rows south to north
#   source         one line for the attribute        notes     lines to print before the work
#   load(time)     {name: (y, x) in table units, NaN where the source has no value}
# and may have
#   described      {name: attributes} of variables that the table does not know
#   together       hours in a row that one process should get, because they are decoded or fetched together
#   expect(times)  the hours that will be loaded next
#   share(n)       n processes will read: divide what memory there is; cache_bytes is how much that is
#   close(failed)  clean up; whether hours could not be had that a later try may have; returns lines to print
# It can be pickled, and raises ValueError (got, expected, fix) for a path, option or content that cannot work; `load`
# may raise HourUnavailable for an hour that is to be left out.
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
    cache: int = 200  # MB of decoded fields that a zarr or NetCDF source is read ahead by, of all processes together
    processes: int = 0  # that build hours; 0: as the cores, 1 GiB of memory for all together and the work suggest
    dask: str = ""  # address of a Dask scheduler whose workers build the hours, such as tcp://HOST:8786; empty: none


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
    done: list[Done] = []
    described = getattr(hours, "described", {})
    if cfg.replace and Path(cfg.out).exists():
        print(f"note: {cfg.out} is built anew and replaced when that is complete")
    with StoreWriter(cfg.out, hours.names, hours.grid, attributes, described,
                     hours.times, hours.forecast_hour, cfg.replace) as store:  # fmt: skip
        if len(store.todo) < len(hours.times):
            print(f"note: {len(hours.times) - len(store.todo)} hours are there already; {len(store.todo)} to go")
        for one in progress(build(hours, store.staging, store.todo, cfg.processes, cfg.dask), store.todo, hours):
            done.append(one)
            if not one.lost:
                store.add(one.time, hours.forecast_hour)
        done.sort(key=lambda one: one.time)
        lost = [f"left out: {show(one.time)}, {one.lost}" for one in done if one.lost]
        if lost and len(lost) == len(hours.times):
            raise ValueError(f"start/end: got none of {len(lost)} hours whole ({lost[0]}), expected one or more. "
                             "Fix: another --start and --end, or the same command later")  # fmt: skip

    # --- what came of it ---
    if turned := sum(one.turned for one in done):
        print(f"note: CIN was positive in {turned} hours; its sign was turned, so that it is zero or negative")
    if repaired := [one for one in done if one.repaired]:
        cells, first = sum(one.repaired for one in repaired), repaired[0]
        print(f"note: {cells} broken dew points in {len(repaired)} hours (first {show(first.time)}) were replaced by "
              "the median of the 5 x 5 cells around them")  # fmt: skip
    missing: dict[tuple[str, int], list[np.datetime64]] = {}  # (variable, cells): hours
    for one in done:
        for found in one.missing.items():
            missing.setdefault(found, []).append(one.time)
    lines = [
        f"{show(at[0])} {name}: {cells} cells missing, stored as NaN"
        + (f", and as many in {len(at) - 1} more hours" if at[1:] else "")
        for (name, cells), at in missing.items()
    ]
    written = Store(cfg.out)
    closing = hours.close(any(one.again for one in done)) if hasattr(hours, "close") else []
    for note in [*listed(lost), *listed(lines), *closing, *written.notes]:
        print(f"note: {note}")
    size = sum(p.stat().st_size for p in Path(cfg.out).rglob("*") if p.is_file()) / 1e6
    print(f"wrote {len(done) - len(lost)} hours, {KINDS[hours.forecast_hour]}, to {cfg.out}, "
          f"which has {written.dataset.sizes['time']} hours, {size:.1f} MB")  # fmt: skip


def progress(results, todo: list[np.datetime64], hours):
    """The results, with a bar that has hours/s, MB of fields and gaps; a line a minute where there is no terminal."""
    size = 4 * np.prod(hours.grid.shape) * len(hours.names) / 1e6  # MB of an hour
    began = said = monotonic()
    gaps = 0
    with tqdm(total=len(todo), desc="hours", unit="h", disable=None) as bar:
        for count, one in enumerate(results, 1):
            gaps += bool(one.lost)
            bar.set_postfix_str(f"{(count - gaps) * size:.0f} MB, {gaps} gaps", refresh=False)
            bar.update()
            if bar.disable and monotonic() - said > 60:
                said = monotonic()
                print(f"{count} of {len(todo)} hours, {count / (said - began):.2f} hours/s, "
                      f"{(count - gaps) * size:.0f} MB, {gaps} gaps", flush=True)  # fmt: skip
            yield one


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
    if cfg.processes < 0:
        raise ValueError(f"processes: got {cfg.processes}, expected 0 (as many as suit) or more. Fix: --processes 0")
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
