"""Is a training store sound? One pass over its hours; a table, faults and notes.

    python -m data.check_store data/hrrr.zarr
    python -m data.check_store data/hrrr.zarr --json check.json

Exit code 0: sound (there may be notes). 1: faults found. 2: not a store. Faulty hours are listed in
STORE.zarr.check.json beside a local store; training leaves out the pairs that touch them, with a count.
"""

import contextlib
import json
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

from data.checks import (
    FIGURES,
    Report,
    check_grid,
    check_kinds,
    check_layout,
    check_times,
    judge_across,
    judge_variable,
    look_across,
    look_at,
)
from data.chunks import Written
from data.command import fault, run
from data.grid import read_grid
from data.store import field_names, open_zarr, write_sidecar

THREADS = 4  # variables read at the same time


@dataclass
class Config:
    store: tyro.conf.Positional[str]  # the training store to look at
    json: str = ""  # file for the findings as JSON; empty: none


def main(cfg: Config) -> int:
    dataset, report = open_for_check(cfg.store), Report()
    names = field_names(dataset)
    if not names or "time" not in dataset.variables:
        found = ", ".join(map(str, dataset.variables)) or "nothing"
        expected, fix = "`time` and at least one (time, y, x) array", "build one with data.build_hrrr"
        raise fault(f"{cfg.store}: not a training store", found, expected, fix)
    group = zarr.open_group(cfg.store, mode="r")
    grid = read_grid(dataset, dataset[names[0]].dims[1:])
    times = check_times(dataset, report)
    check_grid(dataset, grid, report)
    check_kinds(dataset, report)
    check_layout(dataset, group, names, cfg.store, report)
    labels = times if len(times) else np.full(dataset.sizes["time"], np.datetime64("NaT", "ns"))
    print(f"{cfg.store}: {' '.join(names)}, {len(labels)} times, {grid.shape[0]} x {grid.shape[1]} cells", flush=True)

    # ---- the pass: every hour of every variable is read once
    seen = {n: np.zeros(len(labels), FIGURES) for n in names}
    across: dict[str, list[tuple[int, int]]] = defaultdict(list)
    always: dict[str, np.ndarray] = {}  # cells that were NaN in every hour so far
    before: dict[str, np.ndarray] = {}  # the hour before
    written = Written(group, names)

    def read(name: str, index: int) -> np.ndarray | str:
        """The field of one hour, or the reason why it cannot be read."""
        try:
            return dataset[name].variable[index].values
        except Exception as error:  # a broken chunk raises whatever its codec likes
            return f"{type(error).__name__}: {error}"

    def look(name: str, index: int) -> tuple[np.ndarray | str, dict]:
        """The same, with its figures."""
        field = read(name, index)
        figures = {"unreadable": True, "low": np.nan, "high": np.nan, "mean": np.nan}
        return field, figures if isinstance(field, str) else look_at(name, field)

    with ThreadPoolExecutor(THREADS) as pool:

        def begin(index: int) -> list[Future]:
            return [pool.submit(look, name, index) for name in names] if index < len(labels) else []

        coming = begin(0)
        for index in tqdm(range(len(labels)), desc="checking", unit="hour", disable=None, leave=False):
            ready, coming = coming, begin(index + 1)  # the next hour is read while this one is looked at
            fields = {}
            for name, future in zip(names, ready, strict=True):
                field, figures = future.result()
                missing = written.missing(name, index)
                for key, value in (figures | {"missing": missing}).items():
                    seen[name][key][index] = value
                if isinstance(field, str):
                    continue
                fields[name] = field
                alike = all(np.array_equal(seen[name][k][index], seen[name][k][index - 1], equal_nan=True)
                            for k in ("low", "high", "mean", "nan"))  # fmt: skip
                if name in before and alike:
                    seen[name]["repeated"][index] = np.array_equal(field, before[name], equal_nan=True)
                if not missing and (name not in always or always[name].any()):
                    always[name] = always.get(name, True) & np.isnan(field)
            for key, count in look_across(fields).items():
                across[key].append((index, count))
            before = fields

    # ---- the verdict
    for n in names:
        judge_variable(report, group[n], n, labels, seen[n], always.get(n), lambda index, name=n: read(name, index))
    judge_across(report, labels, across)
    print(table(names, seen))
    for kind, findings in (("fault", report.faults), ("note", report.notes)):
        for f in findings:
            where, count = "".join(f"{x}: " for x in (f.variable, f.time) if x), f" ({f.count})" if f.count else ""
            print(f"{kind}  {f.code:18s} {where}{f.message}{count}")
    if cfg.json:
        Path(cfg.json).parent.mkdir(parents=True, exist_ok=True)
        Path(cfg.json).write_text(json.dumps(report.as_dict(), indent=1) + "\n")
        print(f"wrote {cfg.json}")
    bad = write_sidecar(cfg.store, report.bad_hours)
    if bad:
        print(f"wrote {bad}: {len(report.bad_hours)} faulty hours that training leaves out")
    print("sound" if not report.faults else f"{len(report.faults)} faults")
    return int(bool(report.faults))


def open_for_check(path: str) -> xr.Dataset:
    """Open a store, decoded where that is possible: an undecodable time is a finding, not the end."""
    try:
        return open_zarr(path)
    except ValueError:
        with warnings.catch_warnings(), contextlib.suppress(Exception):
            warnings.simplefilter("ignore")
            raw = xr.open_zarr(path, chunks=None, decode_times=False)
            if "time" in raw.variables:
                return raw
        raise


def table(names: list[str], seen: dict[str, np.ndarray]) -> str:
    """Range, mean and missing values of each variable."""
    rows = [f"{'variable':22s} {'lowest':>10s} {'mean':>10s} {'highest':>10s} {'NaN':>9s} {'hours':>6s}"]
    for name in names:
        good = seen[name][np.isfinite(seen[name]["mean"])]
        numbers = [good["low"].min(), good["mean"].mean(), good["high"].max()] if len(good) else [np.nan] * 3
        text = " ".join(f"{x:10.4g}" for x in numbers)
        rows.append(f"{name:22s} {text} {seen[name]['nan'].sum():9d} {len(good):6d}")
    return "\n".join(rows)


if __name__ == "__main__":
    run(Config, main, __doc__)
