"""Is a training store sound? One pass over its hours; a table, faults and notes.

    python -m data.check_store data/hrrr.zarr
    python -m data.check_store data/hrrr.zarr --json check.json

Exit code 0: sound (there may be notes). 1: faults found. 2: not a store. Faulty hours are listed in
STORE.zarr.check.json beside a local store; training leaves out the pairs that touch them, with a count.
"""

import json
import time
import warnings
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
import xarray as xr
import zarr
from tqdm import tqdm

from data.checks import HourValues, Written, look_across, look_at, same_field
from data.command import run
from data.dataset import find_pairs, split_by_date
from data.grid import read_grid
from data.sidecar import write_sidecar
from data.store import open_zarr
from data.times import parse_duration, show, show_duration
from data.verdict import (
    Report,
    check_grid,
    check_kinds,
    check_layout,
    check_times,
    judge_across,
    judge_variable,
)


@dataclass
class Config:
    store: tyro.conf.Positional[str]  # the training store to look at
    json: str = ""  # file for the findings as JSON; empty: none
    lead: str = "1h"  # step that training would use
    sidecar: bool = True  # list faulty hours beside a local store, for training to leave out
    threads: int = 4  # hours' variables read at the same time


def main(cfg: Config) -> int:
    dataset, report = open_for_check(cfg.store), Report()
    names = [
        str(n) for n, v in dataset.data_vars.items() if v.ndim == 3 and v.dims[0] == "time" and v.dtype.kind in "fiu"
    ]
    if not names or "time" not in dataset.variables:
        found = ", ".join(map(str, dataset.variables)) or "nothing"
        raise ValueError(
            f"{cfg.store}: not a training store, got {found}, expected `time` and at least one (time, y, x) array. "
            "Fix: build one as data/store.py describes"
        )
    group = zarr.open_group(cfg.store, mode="r")
    grid = read_grid(dataset, dataset[names[0]].dims[1:])
    times = check_times(dataset, report)
    check_grid(dataset, grid, report)
    check_kinds(dataset, report)
    check_layout(dataset, group, names, cfg.store, report)
    labels = times if len(times) else np.full(dataset.sizes["time"], np.datetime64("NaT", "ns"))
    print(f"{cfg.store}: {' '.join(names)}, {len(labels)} times, {grid.shape[0]} x {grid.shape[1]} cells", flush=True)

    # ---- the pass: every hour of every variable is read once
    values: dict[str, list[HourValues]] = {n: [] for n in names}
    across: dict[str, list[int]] = defaultdict(list)
    always: dict[str, np.ndarray] = {}
    before: dict[str, np.ndarray] = {}
    written = Written(group, names)
    reading = 0.0

    def read(name: str, index: int):
        """The field of one hour, or the reason why it cannot be read; its figures; how long reading took."""
        started = time.perf_counter()
        try:
            field = dataset[name].variable[index].values
        except Exception as error:  # a broken chunk raises whatever its codec likes
            return f"{type(error).__name__}: {error}", HourValues(), time.perf_counter() - started
        taken = time.perf_counter() - started
        return field, look_at(name, field), taken

    with ThreadPoolExecutor(max(1, cfg.threads)) as pool:

        def begin(index: int) -> list[Future]:
            return [pool.submit(read, name, index) for name in names] if index < len(labels) else []

        coming = begin(0)
        for index in tqdm(range(len(labels)), desc="checking", unit="hour", disable=None, leave=False):
            ready, coming = coming, begin(index + 1)  # the next hour is read while this one is looked at
            fields = {}
            for name, future in zip(names, ready, strict=True):
                field, found, taken = future.result()
                reading += taken
                found.missing_chunks = written.missing(name, index)
                if isinstance(field, str):
                    found.unreadable = field
                else:
                    fields[name] = field
                    if name in before:
                        found.same_as_before = same_field(found, field, values[name][-1], before[name])
                    if not found.missing_chunks and (name not in always or always[name].any()):
                        missing = np.isnan(field) if found.nan else np.zeros(field.shape, bool)
                        always[name] = always[name] & missing if name in always else missing
                values[name].append(found)
            for key, count in look_across(fields).items():
                across[key].append((index, count))
            before = fields

    # ---- the verdict
    for name in names:
        judge_variable(report, dataset, group, name, labels, values[name], always.get(name))
    judge_across(report, labels, across)
    usable = describe_training(report, times, cfg.lead, reading / max(len(labels), 1))
    print(table(names, values))
    for kind, findings in (("fault", report.faults), ("note", report.notes)):
        for f in findings:
            where = ": ".join(x for x in (f.variable, f.time.replace("NaT", "")) if x)
            print(
                f"{kind}  {f.code:18s} {where + ': ' if where else ''}{f.message}"
                + (f" ({f.count})" if f.count else "")
            )
    print(usable)
    result = report.as_dict()
    if cfg.json:
        Path(cfg.json).parent.mkdir(parents=True, exist_ok=True)
        Path(cfg.json).write_text(json.dumps(result, indent=1) + "\n")
        print(f"wrote {cfg.json}")
    bad = write_sidecar(cfg.store, report.bad_hours) if cfg.sidecar else None
    if bad:
        print(f"wrote {bad}: {len(report.bad_hours)} faulty hours that training leaves out")
    print("sound" if not report.faults else f"{len(report.faults)} faults")
    return int(bool(report.faults))


def open_for_check(path: str) -> xr.Dataset:
    """Open a store, decoded where that is possible: an undecodable time is a finding, not the end."""
    try:
        return open_zarr(path)
    except ValueError:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                raw = xr.open_zarr(path, chunks=None, decode_times=False)
        except Exception:
            raw = None
        if raw is None or "time" not in raw.variables:
            raise
        return raw


def describe_training(report: Report, times: np.ndarray, lead_text: str, seconds_per_hour: float) -> str:
    """The pairs and the split that training would use, and how long reading an epoch takes."""
    lead = parse_duration(lead_text, "lead")
    if len(times) == 0:
        return "training: no usable time"
    good = np.setdiff1d(np.unique(times), np.array(sorted(report.bad_hours), "datetime64[ns]"))
    pairs = len(find_pairs(good, lead, (good.min(), good.max()))) if len(good) else 0
    days = len(np.unique(good.astype("datetime64[D]")))
    try:
        split = split_by_date(good, lead, "", "", "")
    except (ValueError, IndexError) as error:
        report.note("short_record", f"the default split leaves a part without pairs: {str(error).split(' Fix:')[0]}")
        return f"training: {pairs} pairs {show_duration(lead)} apart on {days} days; no default split"
    parts = {p: getattr(split, p) for p in ("train", "validation", "test")}
    counts = {p: len(find_pairs(good, lead, part)) for p, part in parts.items()}
    text = ", ".join(f"{p} {show(a)} to {show(b)} ({counts[p]})" for p, (a, b) in parts.items())
    epoch = 2 * counts["train"] * seconds_per_hour
    return (
        f"training: {pairs} pairs {show_duration(lead)} apart on {days} days: {text}\n"
        f"reading: {1000 * seconds_per_hour:.0f} ms per hour, about {epoch:.0f} s per epoch without a cache"
    )


def table(names: list[str], values: dict[str, list[HourValues]]) -> str:
    """Range, mean and missing values of each variable."""
    rows = [f"{'variable':22s} {'lowest':>10s} {'mean':>10s} {'highest':>10s} {'NaN':>9s} {'hours':>6s}"]
    for name in names:
        seen = [v for v in values[name] if np.isfinite(v.mean)]
        if not seen:
            rows.append(f"{name:22s} {'-':>10s} {'-':>10s} {'-':>10s} {'-':>9s} {0:6d}")
            continue
        low, mean, high = min(v.low for v in seen), float(np.mean([v.mean for v in seen])), max(v.high for v in seen)
        rows.append(f"{name:22s} {low:10.4g} {mean:10.4g} {high:10.4g} {sum(v.nan for v in seen):9d} {len(seen):6d}")
    return "\n".join(rows)


if __name__ == "__main__":
    run(Config, main, __doc__)
