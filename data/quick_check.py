"""What training says and refuses before it begins: the part of the store check that reads no fields, and the header."""

import numpy as np
import zarr

from data.checks import FLOORED, Report, check_grid, check_kinds, check_layout, check_times
from data.chunks import Written
from data.dataset import Split
from data.store import Store
from data.times import show, show_duration
from data.variables import lookup

HARMLESS = {"time_order", "time_step"}  # training finds pairs by their timestamps
SAID = {"no_latlon", "north_to_south", "longitude_360", "gaps"}  # notes that the store or its description gives


def quick_check(store: Store, names: list[str]) -> list[str]:
    """Lines to print about the named variables of a store; ValueError for a fault that spoils training: hours of
    different kinds, wrong units, coordinates that contradict each other, chunks that were never written (zarr returns
    fill values for them). Hours that the full check has listed as faulty are left out already. A remote store's chunks
    are not listed: that may take minutes."""
    report, dataset = Report(), store.dataset
    group = zarr.open_group(store.path, mode="r")
    times = check_times(dataset, report)
    check_grid(dataset, store.grid, report)
    check_kinds(dataset, report)
    check_layout(dataset, group, names, store.path, report)
    if "://" not in store.path:
        written, used = Written(group, names), np.isin(times, store.times)
        for name in names:
            fill = group[name].fill_value
            if written.complete(name) or fill in FLOORED.get(lookup(name).name, ()):
                continue
            counts = np.array([written.missing(name, i) for i in range(len(times))])
            # What no hour has reads as NaN in every hour: a mask, or a variable without data, which training tells.
            lost = times[used & (counts > (counts.min() if np.isnan(fill) else 0))]
            report.fault("unwritten", "chunks were never written", name, lost)
    for fault in report.faults:
        if fault.code not in HARMLESS:
            where = "".join(f"{x}: " for x in (fault.variable, fault.time) if x)
            raise ValueError(
                f"{store.path}: {where}got {fault.message} ({fault.count}), expected a sound "
                f"store. Fix: .venv/bin/python -m data.check_store {store.path} tells the rest"
            )
    findings = [*report.faults, *(n for n in report.notes if n.code not in SAID)]
    chunks = [n for n in findings if n.code == "chunks"]  # one line, not one for every variable
    return [": ".join(x for x in (f.variable, f.message) if x) for f in findings if f not in chunks[1:]]


def describe(store: Store, names: list[str], split: Split, parts: dict, lead, history: int) -> str:
    """The header of a training: what is trained on what."""
    height, width = store.grid.shape
    rows = [f"train {' '.join(names)} of {store.path} ({height} x {width} cells), lead {show_duration(lead)}",
            f"record {show(store.times.min())} to {show(store.times.max())}, {len(store.times)} times"]  # fmt: skip
    for part, times in parts.items():
        first, last = getattr(split, part)
        inside = ((store.times >= first) & (store.times <= last)).sum()
        lost = max(inside - 1 - history - len(times), 0)
        text = f", {lost} lost to gaps" if lost else ""
        rows.append(f"  {part:10s} {show(first)} to {show(last)}: {len(times)} pairs{text}")
    rows.append(f"  gap between the parts {show_duration(split.gap)}")
    return "\n".join(rows)


def mask_notes(names: list[str], mask) -> list[str]:
    """A line for each variable that has cells without data in every hour."""
    share = [] if mask is None else mask.float().mean(dim=(1, 2)).tolist()
    return [
        f"{n}: {s:.1%} of the cells have no data in any hour; masked: left out of loss, statistics and scores"
        for n, s in zip(names, share, strict=False)
        if s
    ]
