"""Is a training store sound? One pass over its hours; a table, faults and notes.

    python -m data.check_store data/hrrr.zarr
    python -m data.check_store data/hrrr.zarr --json check.json

Exit code 0: sound (there may be notes). 1: faults found. 2: not a store. Faulty hours are listed in
STORE.zarr.check.json beside a local store; training leaves out the pairs that touch them, with a count.
"""

import json
from collections import defaultdict
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import tyro
import zarr
from tqdm import tqdm

from data.command import run
from data.grid import read_grid
from data.hours import read_ahead
from data.metadata import write_sidecar
from data.opening import open_zarr
from data.quick_check import FLOORED, Report, check_grid, check_kinds, check_layout, check_times
from data.store import Written, chunk_places, standard
from data.variables import lookup, undeclared

THREADS = 4  # fields read at the same time
WARMER_DEW = 0.5  # K, dew point above temperature that is no rounding
REPAIR_ME = 192.12  # K, -81.03 C: HRRR's broken dew points
PRESSURES = ("sp", "msl", "mslma", "prmsl", "pres", "press", "pressure_surface", "surface_pressure")
FIGURES = np.dtype([  # what one hour of one variable holds
    ("missing", "i8"), ("nan", "i8"), ("infinite", "i8"), ("outside", "i8"),  # chunks, cells, cells, cells
    ("low", "f8"), ("high", "f8"), ("mean", "f8"), ("repeated", "?"), ("unreadable", "?"),
    ("fill", "f8"), ("filled", "i8"),  # a fill value that nobody declared, and its cells
])  # fmt: skip
NOTHING = {"low": np.nan, "high": np.nan, "mean": np.nan}  # of a field without a finite value


@dataclass
class Config:
    store: tyro.conf.Positional[str]  # the training store to look at
    json: str = ""  # file for the findings as JSON; empty: none


def main(cfg: Config) -> int:
    dataset, report = open_zarr(cfg.store), Report()
    if "time" in dataset.variables and dataset["time"].dtype.kind in "iuf":  # a finding, not the end
        names = [str(n) for n, v in dataset.data_vars.items() if v.ndim == 3 and v.dims[0] == "time"]
    else:
        dataset, names = standard(cfg.store, dataset)
    group = zarr.open_group(cfg.store, mode="r")
    grid = read_grid(dataset, dataset[names[0]].dims[1:])
    times = check_times(dataset, report)
    check_grid(grid, report)
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
        return field, {"unreadable": True} | NOTHING if isinstance(field, str) else look_at(name, field)

    ahead = read_ahead(lambda place: look(*place), ((n, i) for i in range(len(labels)) for n in names), THREADS)
    for index in tqdm(range(len(labels)), desc="checking", unit="hour", disable=None, leave=False):
        fields = {}
        for (name, _), (field, figures) in islice(ahead, len(names)):
            figures["missing"] = written.missing(name, index)
            if isinstance(field, np.ndarray):
                fields[name] = field
                if name in before and figures["mean"] == seen[name]["mean"][index - 1]:  # a pass less for most
                    figures["repeated"] = np.array_equal(field, before[name], equal_nan=True)
            for key, value in figures.items():
                seen[name][key][index] = value
            if name in fields and not figures["missing"] and (name not in always or always[name].any()):
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
    try:
        if bad := write_sidecar(cfg.store, report.bad_hours):
            print(f"wrote {bad}: {len(report.bad_hours)} faulty hours that training leaves out")
    except OSError as error:  # a read-only file system
        print(f"note: {cfg.store}.check.json cannot be written or removed ({error.strerror})")
    print("sound" if not report.faults else f"{len(report.faults)} faults")
    return int(bool(report.faults))


def look_at(name: str, values: np.ndarray) -> dict:
    """The figures of one (y, x) field."""
    low, high, table = float(values.min()), float(values.max()), lookup(name)
    out, good = {}, values
    # A NaN anywhere makes both extremes NaN: sound fields, nearly all there are, take no further pass.
    if not (np.isfinite(low) and np.isfinite(high)):
        out = {"nan": int(np.isnan(values).sum()), "infinite": int(np.isinf(values).sum())}
        good = values[np.isfinite(values)]
        if not good.size:
            return out | NOTHING
        low, high = float(good.min()), float(good.max())
    # by rows in single precision, then in double: as exact as needed, and twice as fast
    mean = float(np.atleast_2d(good).mean(axis=-1).mean(dtype=np.float64))
    lowest = min(table.lower, -40.0) if table.name == "REFC" else table.lower  # no echo is below the bound
    beyond = low < lowest or high > table.upper
    outside = int(((good < lowest) | (good > table.upper)).sum()) if beyond else 0
    if found := undeclared(name, good):
        out |= {"fill": found[0], "filled": found[1]}
    return out | {"low": low, "high": high, "mean": mean, "outside": outside}


def look_across(fields: dict[str, np.ndarray]) -> dict[str, int]:
    """Counts that need two variables: dew point above temperature, U equal to V, HRRR's broken dew points."""
    by_table = {lookup(n).name: x for n, x in fields.items()}
    out = {}
    if "T2M" in by_table and "D2M" in by_table:
        out["dew_above_temperature"] = int((by_table["D2M"] > by_table["T2M"] + WARMER_DEW).sum())
    if "U10" in by_table and "V10" in by_table:
        out["u_equals_v"] = int(np.array_equal(by_table["U10"], by_table["V10"]))
    if "D2M" in by_table:
        cold = by_table["D2M"][by_table["D2M"] < REPAIR_ME + 1]  # hardly a cell, as a rule
        out["broken_dew_points"] = int((abs(cold - REPAIR_ME) < 0.02).sum())
    return out


def judge_variable(
    report: Report, array: zarr.Array, name: str, times: np.ndarray, seen: np.ndarray, always: np.ndarray | None, read
) -> None:
    """Turn what the pass saw of one variable into findings. `seen`: FIGURES of every hour; `always`: cells that are NaN
    in every hour, a mask; read(index) gives a field once more."""
    table, cells = lookup(name), int(np.prod(array.shape[1:]))
    floors = FLOORED.get(table.name, ())
    masked = int(always.sum()) if always is not None else 0

    # chunks that every hour lacks, and those that some lack
    tiles = int(np.prod([len(places) for places in chunk_places(array)[1:]]))
    usual = int(seen["missing"].min(initial=tiles))
    usual = usual if np.isnan(array.fill_value) and usual < tiles else 0
    if usual:  # xarray leaves such chunks out on purpose
        report.note("unwritten_mask", f"{usual} chunks are absent in every hour and read as NaN: a mask", name)
    lost, fill = times[seen["missing"] > usual], array.fill_value
    # A writer that stores fields of nothing but this value has not passed over others: they are lost.
    stored = (seen["missing"] == 0) & (seen["low"] == seen["high"]) & (seen["low"] == fill)
    if fill in floors and not stored.any():
        text = f"chunks without a file, read as {fill:g}, which is this variable's floor"
        report.note("unwritten_floor", text, name, lost)
    else:
        report.fault("unwritten", f"chunks were never written; zarr returns {fill} for them", name, lost, bad=True)
    if seen["unreadable"].any():
        text = f"chunks cannot be read ({read(int(np.argmax(seen['unreadable'])))[:80]})"
        report.fault("unreadable", text, name, times[seen["unreadable"]], bad=True)

    # values that are no numbers
    if masked == cells:
        report.fault("empty", "NaN in every cell of every hour: no data at all", name, count=len(seen))
        return
    if masked:
        report.note("mask", f"{masked / cells:.1%} of the cells are NaN in every hour: a mask", name, count=masked)
    gone = (seen["nan"] > masked) & (seen["missing"] == 0)
    if gone.any():
        y, x = np.argwhere(np.isnan(read(int(np.argmax(gone)))) & ~(always if masked else False))[0]
        text, count = f"NaN that is no mask, first in cell y={y}, x={x}", (seen["nan"][gone] - masked).sum()
        report.fault("nan", text, name, times[gone], count, bad=True)
    infinite = seen["infinite"]
    report.fault("infinite", "infinite values", name, times[infinite > 0], infinite.sum(), bad=True)

    # units and bounds
    if (filled := seen["filled"] > 0).any():
        value = seen["fill"][filled][0]
        text = f"{value:g} in some cells: missing data that nobody declared; give {name} in the source the attribute "
        text += f"_FillValue {value:g}, and build the store again"
        report.fault("fill_value", text, name, times[filled], seen["filled"].sum(), bad=True)
    known, outside = np.isfinite(seen["mean"]), seen["outside"] > 0
    mean = float(seen["mean"][known].mean()) if known.any() else np.nan
    if table.units == "K" and -90 < mean < 60:
        report.fault("celsius", f"mean {mean:.1f}: degrees Celsius where kelvin is expected", name, count=len(seen))
    elif table.name == "CIN" and mean > 0:
        report.fault("cin_sign", f"mean {mean:.1f}: positive where CIN <= 0 is expected", name, count=len(seen))
    elif name.lower() in PRESSURES and 300 < mean < 1200:
        report.fault("hectopascal", f"mean {mean:.0f}: hPa where Pa is expected", name, count=len(seen))
    elif (outside & ~filled).any():
        outside &= ~filled
        low, high = seen["low"][outside].min(), seen["high"][outside].max()
        text = f"values {low:.4g}..{high:.4g} beyond {table.lower:g}..{table.upper:g} {table.units}"
        report.fault("bounds", text, name, times[outside], seen["outside"].sum(), bad=True)

    # constant and repeated hours, and the value that means no echo
    flat, weather = seen["low"] == seen["high"], bool(table.standard_name)
    calm = flat & np.isin(seen["low"], floors if weather else (0.0,))
    report.note("constant_floor", "hours constant at the variable's floor", name, times[calm])
    dead = flat & ~calm & (seen["missing"] == 0)
    report.fault("constant", "hours with one value in every cell", name, times[dead], bad=True)
    again, text = times[seen["repeated"] & (seen["low"] < seen["high"])], "hours equal to the hour before in every cell"
    if weather:
        report.fault("repeated", text, name, again, bad=True)
    else:  # rain that a source spread over several hours, say
        report.note("repeated", text, name, again)
    if table.name == "REFC" and {-10.0, 0.0} <= set(seen["low"].tolist()):
        text = "no echo is -10 dBZ in some hours and 0 in others: two sources mixed"
        report.fault("refc_floor", text, name, times[seen["low"] == 0])


def judge_across(report: Report, times: np.ndarray, across: dict[str, list[tuple[int, int]]]) -> None:
    """Findings that need two variables."""
    texts = {
        "dew_above_temperature": f"D2M more than {WARMER_DEW} K above T2M",
        "u_equals_v": "U10 and V10 are the same field",
        "broken_dew_points": "D2M of exactly -81.03 C, HRRR's broken pixels; a new build repairs them",
    }
    for key, counts in across.items():
        found = [(times[i], n) for i, n in counts if n]
        report.fault(key, texts[key], "", [t for t, _ in found], sum(n for _, n in found), bad=True)


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
