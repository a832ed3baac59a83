"""Is a training store sound? One pass over its hours; a table, faults and notes.

    python -m data.check_store data/hrrr.zarr
    python -m data.check_store data/hrrr.zarr --json check.json

Exit code 0: sound (there may be notes). 1: faults found. 2: not a store. Faulty hours are listed in
STORE.zarr.check.json beside a local store; training leaves out the pairs that touch them, with a count.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
import xarray as xr
import zarr
from tqdm import tqdm

from data.command import run
from data.dataset import read_ahead
from data.grid import read_grid
from data.metadata import write_sidecar
from data.opening import open_zarr
from data.quick_check import FLOORED, Report, check_metadata, judge_written
from data.store import Written, standard
from data.variables import lookup, undeclared

WARMER_DEW = 0.5  # K, dew point above temperature that is no rounding
REPAIR_ME = 192.12  # K, -81.03 C: HRRR's broken dew points
PRESSURES = ("sp", "msl", "mslma", "prmsl", "pres", "press", "pressure_surface", "surface_pressure")
FIGURES = {  # of one hour of one variable
    "missing": 0, "nan": 0, "infinite": 0, "outside": 0,  # chunks, cells, cells, cells
    "low": np.nan, "high": np.nan, "mean": np.nan, "repeated": False, "unreadable": "",  # why
    "fill": np.nan, "filled": 0,  # a fill value that nobody declared, and its cells
}  # fmt: skip
ACROSS = {  # findings that need two variables
    "dew_above_temperature": f"D2M more than {WARMER_DEW} K above T2M",
    "u_equals_v": "U10 and V10 are the same field",
    "broken_dew_points": "D2M of exactly -81.03 C, HRRR's broken pixels; a new build repairs them",
}


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
    times = check_metadata(report, dataset, grid, group, names, cfg.store)
    times = times if len(times) else np.full(dataset.sizes["time"], np.datetime64("NaT", "ns"))
    print(f"{cfg.store}: {' '.join(names)}, {len(times)} times, {grid.shape[0]} x {grid.shape[1]} cells", flush=True)

    # ---- the pass: every hour of every variable is read once
    seen: dict[str, list[dict]] = {n: [] for n in names}  # FIGURES of every hour
    across: dict[str, list[int]] = {key: [] for key in ACROSS}  # cells of every hour
    always: dict[str, np.ndarray] = {}  # cells that were NaN in every hour so far
    before: dict[str, np.ndarray] = {}  # the hour before
    written = Written(group, names)

    def read(index: int) -> dict[str, tuple[np.ndarray | str, dict]]:
        """The field of each variable, or the reason why it cannot be read, and its figures."""
        out = {}
        for name in names:
            try:
                field = dataset[name].variable[index].values
            except Exception as error:  # a broken chunk raises whatever its codec likes
                field = f"{type(error).__name__}: {error}"
            figures = {"unreadable": field} if isinstance(field, str) else look_at(name, field)
            out[name] = field, FIGURES | figures | {"missing": written.missing(name, index)}
        return out

    bar = tqdm(total=len(times), desc="checking", unit="hour", disable=None, leave=False)
    for _, hour in read_ahead(read, range(len(times))):
        fields = {name: field for name, (field, _) in hour.items() if isinstance(field, np.ndarray)}
        for name, (_, figures) in hour.items():
            if name in fields and name in before and figures["mean"] == seen[name][-1]["mean"]:  # a pass less for most
                figures["repeated"] = np.array_equal(fields[name], before[name], equal_nan=True)
            seen[name].append(figures)
            if name in fields and not figures["missing"] and (name not in always or always[name].any()):
                always[name] = always.get(name, True) & np.isnan(fields[name])
        for key, count in look_across(fields).items():
            across[key].append(count)
        before = fields
        bar.update()
    bar.close()

    # ---- the verdict
    columns = {n: {k: np.array([f[k] for f in rows]) for k in FIGURES} for n, rows in seen.items()}
    for n in names:
        judge_variable(report, group[n], n, times, columns[n], always.get(n), dataset[n].variable)
    for key, counts in across.items():
        report.fault(key, ACROSS[key], "", times[np.array(counts) > 0], sum(counts), bad=True)
    print(table(columns))
    for kind, findings in (("fault", report.faults), ("note", report.notes)):
        for f in findings:
            where = "".join(f"{x}: " for x in (f["variable"], f["time"]) if x)
            count = f" ({f['count']})" if f["count"] else ""
            print(f"{kind}  {f['code']:18s} {where}{f['message']}{count}")
    if cfg.json:
        Path(cfg.json).parent.mkdir(parents=True, exist_ok=True)
        result = {"sound": not report.faults, "faults": report.faults, "notes": report.notes}
        Path(cfg.json).write_text(json.dumps(result, indent=1) + "\n")
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
            return out
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
    """Counts of ACROSS in one hour, 0 for what it does not have."""
    by_table, out = {lookup(n).name: x for n, x in fields.items()}, dict.fromkeys(ACROSS, 0)
    if "T2M" in by_table and "D2M" in by_table:
        out["dew_above_temperature"] = int((by_table["D2M"] > by_table["T2M"] + WARMER_DEW).sum())
    if "U10" in by_table and "V10" in by_table:
        out["u_equals_v"] = int(np.array_equal(by_table["U10"], by_table["V10"]))
    if "D2M" in by_table:
        cold = by_table["D2M"][by_table["D2M"] < REPAIR_ME + 1]  # hardly a cell, as a rule
        out["broken_dew_points"] = int((abs(cold - REPAIR_ME) < 0.02).sum())
    return out


def judge_variable(
    report: Report, array: zarr.Array, name: str, times: np.ndarray, seen: dict[str, np.ndarray],
    always: np.ndarray | None, fields: xr.Variable,
) -> None:  # fmt: skip
    """Turn what the pass saw of one variable into findings. `seen`: FIGURES of every hour; `always`: cells that are NaN
    in every hour, a mask."""
    table, cells = lookup(name), int(np.prod(array.shape[1:]))
    floors = FLOORED.get(table.name, ())
    masked = int(always.sum()) if always is not None else 0
    # A writer that stores fields of nothing but the fill value has not passed over others: they are lost.
    filled = (seen["missing"] == 0) & (seen["low"] == seen["high"]) & (seen["low"] == array.fill_value)
    judge_written(report, array, name, times, seen["missing"], filled.any())
    if (broken := seen["unreadable"] != "").any():
        text = f"chunks cannot be read ({seen['unreadable'][broken][0][:80]})"
        report.fault("unreadable", text, name, times[broken], bad=True)

    # values that are no numbers
    if masked == cells:
        report.fault("empty", "NaN in every cell of every hour: no data at all", name, count=len(times))
        return
    if masked:
        report.note("mask", f"{masked / cells:.1%} of the cells are NaN in every hour: a mask", name, count=masked)
    gone = (seen["nan"] > masked) & (seen["missing"] == 0)
    if gone.any():
        y, x = np.argwhere(np.isnan(fields[int(np.argmax(gone))].values) & ~(always if masked else False))[0]
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
        report.fault("celsius", f"mean {mean:.1f}: degrees Celsius where kelvin is expected", name, count=len(times))
    elif table.name == "CIN" and mean > 0:
        report.fault("cin_sign", f"mean {mean:.1f}: positive where CIN <= 0 is expected", name, count=len(times))
    elif name.lower() in PRESSURES and 300 < mean < 1200:
        report.fault("hectopascal", f"mean {mean:.0f}: hPa where Pa is expected", name, count=len(times))
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


def table(seen: dict[str, dict[str, np.ndarray]]) -> str:
    """Range, mean and missing values of each variable."""
    rows = [f"{'variable':22s} {'lowest':>10s} {'mean':>10s} {'highest':>10s} {'NaN':>9s} {'hours':>6s}"]
    for name, figures in seen.items():
        good = np.isfinite(figures["mean"])
        low, mean, high = (figures[k][good] for k in ("low", "mean", "high"))
        numbers = [low.min(), mean.mean(), high.max()] if good.any() else [np.nan] * 3
        text = " ".join(f"{x:10.4g}" for x in numbers)
        rows.append(f"{name:22s} {text} {figures['nan'].sum():9d} {good.sum():6d}")
    return "\n".join(rows)


if __name__ == "__main__":
    run(Config, main, __doc__)
