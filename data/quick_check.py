"""The part of the store check that takes no reading of fields: what training looks at before it begins.

Order and steps of time are only noted here: training finds pairs by their timestamps, so it can live with them.
"""

import numpy as np
import zarr

from data.checks import Written
from data.store import Store
from data.variables import lookup
from data.verdict import FLOORED, Report, check_grid, check_kinds, check_layout, check_times

HARMLESS = {"time_order", "time_step"}
SAID = {"no_latlon", "north_to_south", "longitude_360", "gaps"}  # notes that the store or its description gives


def quick_check(store: Store, names: list[str]) -> list[str]:
    """Lines to print about the named variables of a store; ValueError for a fault that spoils training: hours of
    different kinds, wrong units, coordinates that contradict each other, chunks that were never written (zarr returns
    fill values for them). Hours that the full check has listed as faulty are left out already. A remote store's chunks
    are not listed: that may take minutes."""
    report = Report()
    dataset = store.dataset
    group = zarr.open_group(store.path, mode="r")
    times = check_times(dataset, report)
    check_grid(dataset, store.grid, report)
    check_kinds(dataset, report)
    check_layout(dataset, group, names, store.path, report)
    if "://" not in store.path:
        written, used = Written(group, names), set(store.times.tolist())
        for name in names:
            if written.complete(name) or group[name].fill_value in FLOORED.get(lookup(name).name, ()):
                continue
            counts = [written.missing(name, i) for i in range(len(times))]
            # What no hour has reads as NaN in every hour: a mask, or a variable without data, which training tells.
            usual = min(counts) if np.isnan(group[name].fill_value) else 0
            lost = [t for t, n in zip(times, counts, strict=True) if n > usual and t.astype("int64").item() in used]
            if lost:
                report.fault("unwritten", "chunks were never written", name, lost)
    for fault in report.faults:
        if fault.code not in HARMLESS:
            where = ": ".join(x for x in (fault.variable, fault.time) if x)
            raise ValueError(
                f"{store.path}: {where + ': ' if where else ''}got {fault.message} ({fault.count}), expected a sound "
                f"store. Fix: .venv/bin/python -m data.check_store {store.path} tells the rest"
            )
    findings = [*report.faults, *(n for n in report.notes if n.code not in SAID)]
    chunks = [n for n in findings if n.code == "chunks"]  # one line, not one for every variable
    return [": ".join(x for x in (f.variable, f.message) if x) for f in findings if f not in chunks[1:]]
