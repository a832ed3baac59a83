"""Make a training store from weather data: GRIB files, the HRRR archive, hrrrzarr, zarr or NetCDF.

    python -m data.build_hrrr --source grib --path hrrr_grib --out data/hrrr.zarr
    python -m data.build_hrrr --path hrrr_grib --out july.zarr --start 2018-07-01 --end 2018-07-31T23 --forecast_hour 1
    python -m data.build_hrrr --source zarr --path era5.nc --out data/era5.zarr
    python -m data.build_hrrr --source hrrrzarr --path hrrrzarr --out data/utah.zarr
    python -m data.build_hrrr --source archive --start 2024-05-20 --end 2024-06-02T23 --out data/hrrr.zarr
    python -m data.build_hrrr --source archive --start 2024-06-01 --end 2024-06-02T23 --leads 1-18 --out data/noaa.zarr

Writes --out, a store as data/store.py describes. The same command goes on where it was interrupted (OUT.partial holds
what is complete until then), and a later --end adds hours to a finished store; run twice it changes nothing. Valid
times come from the data, never from file names. Analyses (f00) and 1-hour forecasts (f01) of the same hour differ and
are never mixed in one store; longer lead times and fields between the hours are left out and counted. Nothing is filled
in: an hour that lacks a variable is left out and listed, a cell that is missing is NaN and counted.
With --leads it writes the source's own forecasts instead, a store as data/forecast_store.py describes, whose initial
times are --start to --end: verify_forecast.py scores it like any other.
Hours are built in several processes, or by the workers of a Dask cluster (--dask tcp://HOST:8786); the result is the
same.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Literal

import numpy as np
from tqdm import tqdm

from data.command import fault, run
from data.forecast_store import ForecastWriter
from data.grid import same_grid
from data.metadata import refuse_foreign
from data.sources import HOUR, KINDS, Source, listed
from data.sources.archive import ArchiveHours
from data.sources.grib import GribHours
from data.sources.hrrrzarr import UtahHours
from data.sources.zarr_netcdf import ZarrHours
from data.store import Store, open_zarr
from data.times import parse_time, show, show_duration
from data.variables import lookup
from data.workers import Done, build, load
from data.write import StoreWriter

TOLD = 4  # items of a line of the report; the notes before it have them all
SOURCES = {"grib": GribHours, "zarr": ZarrHours, "hrrrzarr": UtahHours, "archive": ArchiveHours}


@dataclass
class Config:
    source: Literal["grib", "zarr", "hrrrzarr", "archive"] = "grib"  # what --path holds; archive: what --url serves
    path: str = "data/grib"  # folder of GRIB or hrrrzarr files, a zarr store, a NetCDF file or folder of them
    url: str = "https://noaa-hrrr-bdp-pds.s3.amazonaws.com"  # archive: NOAA's bucket, a mirror or a local server
    out: str = "data/hrrr.zarr"  # the store to write; one that is there is extended by later hours
    replace: bool = False  # build it anew; the store that is there is replaced when the new one is complete
    variables: list[str] = field(default_factory=list)  # names; empty: those that more than half of the hours have
    start: str = ""  # first valid time, ISO, UTC; empty: the first there is
    end: str = ""  # last valid time, included; empty: the last there is
    forecast_hour: Literal["auto", "0", "1"] = "auto"  # 0: f00, 1: f01; auto: the one with more hours
    leads: str = ""  # hours, such as 1-18: write the forecasts of a GRIB folder or the archive; empty: a training store
    cache: int = 200  # MB of decoded fields that a zarr or NetCDF source is read ahead by, of all processes together
    processes: int = 0  # that build hours; 0: as the cores, 1 GiB of memory for all together and the work suggest
    dask: str = ""  # address of a Dask scheduler whose workers build the hours, such as tcp://HOST:8786; empty: none


def main(cfg: Config) -> None:
    first, last = check(cfg)
    print(f"{cfg.source} {cfg.url if cfg.source == 'archive' else cfg.path} -> {cfg.out}")
    if cfg.leads:
        return write_forecasts(cfg, first, last)

    # --- what there is: headers only ---
    hours = SOURCES[cfg.source](cfg, first, last)
    if cfg.source == "archive" and Path(cfg.out).exists() and not cfg.replace:
        leave_out_lost(cfg, hours)
    height, width = hours.grid.shape
    kind = KINDS[hours.forecast_hour]
    print(f"{len(hours.times)} hours {show(hours.times[0])} to {show(hours.times[-1])} UTC, {kind}; "
          f"{' '.join(hours.names)} on {height} x {width} cells")  # fmt: skip
    for note in [*hours.notes, gaps(hours.times)]:
        print(f"note: {note}")

    # --- hour by hour ---
    options = " ".join(f"--{k} {' '.join(v) if isinstance(v, list) else v}" for k, v in vars(cfg).items() if v)
    attributes = {"source": f"{hours.source}, {kind}", "history": f"python -m data.build_hrrr {options}"}
    done: list[Done] = []
    if cfg.replace and Path(cfg.out).exists():
        print(f"note: {cfg.out} is built anew and replaced when that is complete")
    with StoreWriter(cfg.out, hours.names, hours.grid, attributes, hours.described,
                     hours.times, hours.forecast_hour, cfg.replace) as store:  # fmt: skip
        if len(store.todo) < len(hours.times):
            print(f"note: {len(hours.times) - len(store.todo)} hours are there already; {len(store.todo)} to go")
        began = said = monotonic()
        results = build(hours, store.staging, store.todo, cfg.processes, cfg.dask)
        for one in (bar := tqdm(results, total=len(store.todo), desc="hours", unit="h", disable=None)):
            done.append(one)
            if not one.lost:
                store.add(one.time)
            if bar.disable and monotonic() - said > 60:  # no terminal
                said = monotonic()
                print(f"{len(done)} of {len(store.todo)} hours, {len(done) / (said - began):.2f} hours/s", flush=True)
        done.sort(key=lambda one: one.time)
        lost = [f"left out: {show(one.time)}, {one.lost}" for one in done if one.lost]
        if lost and len(lost) == len(hours.times):
            got, fix = f"none of {len(lost)} hours whole ({lost[0]})", "mend the source, or another --start and --end"
            raise fault("start/end", got, "one or more", fix)

    # --- what came of it ---
    written = Store(cfg.out)
    hours.close()
    for note in [*listed(lost), *written.notes]:
        print(f"note: {note}")
    read = f"read: {len(done)} hours, {kind}, of {' '.join(hours.names)}, {height} x {width} cells"
    why = [f"left out: {len(lost)} hours of those read (first {lost[0].removeprefix('left out: ')})"] if lost else []
    print(*report([read, *hours.notes, *why, *changed(done)]), sep="\n")
    size = sum(p.stat().st_size for p in Path(cfg.out).rglob("*") if p.is_file()) / 1e6
    print(f"wrote {len(done) - len(lost)} hours, {kind}, to {cfg.out}, "
          f"which has {written.dataset.sizes['time']} hours, {size:.1f} MB")  # fmt: skip


def check(cfg: Config) -> tuple[np.datetime64 | None, np.datetime64 | None]:
    """The first and last wanted time; ValueError for options that cannot work, before anything is read."""
    refuse_foreign(Path(cfg.out), "forecast" if cfg.leads else "training")
    if cfg.processes < 0:
        raise fault("processes", cfg.processes, "0 (as many as suit) or more", "--processes 0")
    first = parse_time(cfg.start, "start") if cfg.start else None
    last = parse_time(cfg.end, "end") if cfg.end else None
    if first is not None and last is not None and first > last:
        raise fault("start", f"{cfg.start}, after the end {cfg.end}", "a time before", "exchange them")
    return first, last


def write_forecasts(cfg: Config, first: np.datetime64 | None, last: np.datetime64 | None) -> None:
    """The forecasts that the source itself holds, from initial times first to last; runs that lack a lead time are left
    out and counted. ValueError for a field that cannot be read."""
    span = re.fullmatch(r"(\d{1,2})(?:-(\d{1,2}))?", cfg.leads)
    if not span or int(span[1]) > int(span[2] or span[1]) or cfg.source not in ("grib", "archive"):
        got = f"{cfg.leads!r} with --source {cfg.source}"
        expected, fix = "hours of the forecasts in a GRIB folder or the archive", "--source grib --leads 1-18"
        raise fault("leads", got, expected, fix)
    hours = {}
    for hour in sorted({0, *range(int(span[1]), int(span[2] or span[1]) + 1)}):
        one, lead = dataclasses.replace(cfg, forecast_hour=str(hour)), np.timedelta64(hour, "h")
        try:
            hours[lead] = SOURCES[cfg.source](one, *(None if t is None else t + lead for t in (first, last)))
        except ValueError:
            if hour:  # a fault of another kind comes again at the next lead
                raise
            print("note: the source has no whole analyses, so the store has no lead 0")
    leads, start = list(hours), next(iter(hours.values()))
    names = [n for n in start.names if all(n in source.names for source in hours.values())]
    runs = [{t - lead for t in source.times} for lead, source in hours.items()]
    inits = sorted(set.intersection(*runs))
    if not inits or not names:
        raise fault("leads", f"no run with every lead time of {cfg.leads}", "one or more", "--leads with fewer hours")
    for lead, source in hours.items():
        if not same_grid(start.grid, source.grid) or source.described != start.described:
            raise fault("path", f"another grid at lead {show_duration(lead)}", "one grid", "a folder for each")
    about = {"source": start.source, "lead": "1h", "history": f"python -m data.build_hrrr --leads {cfg.leads}"}
    with ForecastWriter(cfg.out, names, start.grid, np.array(inits), np.array(leads), about) as store:
        for name in names:
            store.fields[name].attrs.update(start.described.get(name, {}))
        low, high = (np.array([getattr(lookup(n), b) for n in names])[:, None, None] for b in ("lower", "upper"))
        for j, (lead, source) in enumerate(hours.items()):
            for i, init in enumerate(tqdm(inits, desc=f"lead {show_duration(lead)}", unit="h", disable=None)):
                if i % source.together == 0:
                    source.expect([t + lead for t in inits[i : i + source.together]])
                fields, done = load(source, init + lead)
                if done.lost:
                    raise fault(f"run {show(init)}", done.lost, "a whole hour", "leave it out with --start and --end")
                values = np.stack([fields[n] for n in names])
                store.write(i, j, np.clip(values, low, high), ((values < low) | (values > high)).mean(axis=(1, 2)))
    for source in hours.values():
        source.close()
    print(f"wrote {len(inits)} runs, leads {leads[0].astype(int)}-{leads[-1]}, of {' '.join(names)} to {cfg.out}; "
          f"left out: {len(set.union(*runs)) - len(inits)} runs that lack a lead time")  # fmt: skip


def leave_out_lost(cfg: Config, hours: Source) -> None:
    """Leave out hours that an earlier run could not have and went on without: a store grows at its end only."""
    held = open_zarr(cfg.out).time.values
    late = [t for t in hours.times if t <= held.max() and t not in held]
    hours.times = [t for t in hours.times if t not in late]
    if late:
        hours.notes.append(f"{len(late)} hours before the end of {cfg.out} are not in it (first {show(late[0])}) and "
                           "stay out: a store grows at its end. With them: --replace True")  # fmt: skip


def report(notes: list[str]) -> list[str]:
    """What was read, turned, converted, missing and left out: a line each, of the notes that begin with these words."""
    lines = []
    for word in ("read", "turned", "converted", "missing", "left out"):
        texts = [n.removeprefix(f"{word}: ") for n in notes if n.startswith(f"{word}: ")]
        more = f"; and {len(texts) - TOLD} more" if len(texts) > TOLD else ""
        lines.append(f"{word + ':':11s}{'; '.join(texts[:TOLD]) or 'nothing'}{more}")
    return lines


def changed(done: list[Done]) -> list[str]:
    """Lines for the report about values that were changed or are missing."""
    out = []
    if turned := sum(one.turned for one in done):
        out.append(f"turned: CIN was positive in {turned} hours; its sign was turned, so that it is zero or negative")
    if repaired := [one for one in done if one.repaired]:
        out.append(f"converted: {sum(one.repaired for one in repaired)} broken dew points in {len(repaired)} hours "
                   f"(first {show(repaired[0].time)}) to the median of the 5 x 5 cells around them")  # fmt: skip
    strange = "cells are beyond the bounds and stored as they are; if they stand for missing values, declare these"
    for kind, what in (("missing", "cells missing, stored as NaN"), ("beyond", strange)):
        for name in dict.fromkeys(name for one in done for name in getattr(one, kind)):
            those = [(one.time, getattr(one, kind)[name]) for one in done if name in getattr(one, kind)]
            where = f"in {len(those)} hours, the first {show(those[0][0])}"
            out.append(f"missing: {name}: {sum(n for _, n in those)} {what} ({where})")
    return out


def gaps(times: list[np.datetime64]) -> str:
    """Which hours are absent between the first and the last, as one line."""
    step = min([HOUR, *(b - a for a, b in pairwise(times))])  # shorter for radar every 5 minutes
    found = [(a + step, b - step) for a, b in pairwise(times) if b - a > step]
    hours = sum(int((b - a) / step) + 1 for a, b in found)
    spans = [show(a) if a == b else f"{show(a)} to {show(b)}" for a, b in found]
    return f"{hours} hours absent: {', '.join(listed(spans))}" if found else "no hour absent between first and last"


if __name__ == "__main__":
    run(Config, main, __doc__)
