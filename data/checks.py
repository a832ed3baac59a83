"""What can be wrong with a training store: the figures of every hour, and the faults and notes that follow from them.

A fault is wrong or unreadable data; a note is something worth knowing that training can live with.
"""

from dataclasses import asdict, dataclass, field

import numpy as np
import xarray as xr
import zarr

from data.chunks import chunk_places
from data.grid import Grid, lambert_latlon
from data.metadata import conversion
from data.times import show, show_duration
from data.variables import lookup

WARMER_DEW = 0.5  # K, dew point above temperature that is no rounding
REPAIR_ME = 192.12  # K, -81.03 C: HRRR's broken dew points
TEMPERATURES = ("T2M", "D2M")
# values that a calm hour has in every cell
FLOORED = {"REFC": (-10.0, 0.0), "CAPE": (0.0,), "CIN": (0.0,), "RAIN": (0.0,)}
PRESSURES = ("sp", "msl", "mslma", "prmsl", "pres", "press", "pressure_surface", "surface_pressure")
FIGURES = np.dtype([  # what one hour of one variable holds
    ("missing", "i8"), ("nan", "i8"), ("infinite", "i8"), ("outside", "i8"),  # chunks, cells, cells, cells
    ("low", "f8"), ("high", "f8"), ("mean", "f8"), ("repeated", "?"), ("unreadable", "?"),
])  # fmt: skip


@dataclass
class Finding:
    """One line of the report."""

    code: str
    message: str
    variable: str = ""
    time: str = ""
    count: int = 0


@dataclass
class Report:
    """Findings, and the hours that training has to leave out."""

    faults: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    bad_hours: set[np.datetime64] = field(default_factory=set)

    def fault(self, code: str, message: str, variable="", hours=None, count: int = 0, bad: bool = False) -> None:
        """A fault; `hours` are the times it concerns (the first is named; none: no fault), left out of training if
        `bad`."""
        if self._add(self.faults, code, message, variable, hours, count) and bad:
            self.bad_hours |= {h for h in hours if not np.isnat(h)}

    def note(self, code: str, message: str, variable="", hours=None, count: int = 0) -> None:
        self._add(self.notes, code, message, variable, hours, count)

    @staticmethod
    def _add(findings: list, code: str, message: str, variable: str, hours, count: int) -> bool:
        if hours is None:
            findings.append(Finding(code, message, variable, "", int(count)))
        elif len(hours):
            time = "" if np.isnat(hours[0]) else show(min(hours))
            findings.append(Finding(code, message, variable, time, int(count or len(hours))))
        return hours is not None and len(hours) > 0

    def as_dict(self) -> dict:
        return {
            "sound": not self.faults,
            "faults": [asdict(f) for f in self.faults],
            "notes": [asdict(f) for f in self.notes],
        }


# --- metadata: no field is read ---


def check_times(dataset: xr.Dataset, report: Report) -> np.ndarray:
    """Decodable, sorted, unique, evenly spaced but for gaps; returns the times, empty if they are no use."""
    time = dataset["time"]
    if time.dtype.kind != "M":
        units = time.attrs.get("units", "no units attribute")
        report.fault("time_units", f"time cannot be decoded: dtype {time.dtype} with {units!r}; set CF units")
        return np.array([], "datetime64[ns]")
    times = time.values.astype("datetime64[ns]")
    if np.isnat(times).any():
        report.fault("time_missing", "some times are missing (NaT)", count=np.isnat(times).sum())
        return np.array([], "datetime64[ns]")
    zero = np.timedelta64(0, "ns")
    report.fault("time_order", "time is not sorted", hours=times[1:][np.diff(times) < zero])
    values, counts = np.unique(times, return_counts=True)
    report.fault("time_duplicate", "a time occurs more than once", hours=values[counts > 1])
    if len(steps := np.diff(values)):
        step = np.median(steps.astype("int64")).astype("timedelta64[ns]")
        wide = steps > step
        lost = round(float((steps[wide] / step - 1).sum()))
        text = f"{wide.sum()} gaps, {lost} steps of {show_duration(step)} missing"
        report.note("gaps", text, hours=values[:-1][wide] + step, count=lost)
        text = f"times are not a multiple of {show_duration(step)} apart"
        report.fault("time_step", text, hours=values[1:][steps % step != zero])
    return times


def check_grid(dataset: xr.Dataset, grid: Grid, report: Report) -> None:
    """Orientation, ranges, and latitude and longitude against the projection."""
    if grid.latitude is None:
        report.note("no_latlon", "no latitude and longitude: training goes without the sun's height")
        return
    latitude, longitude = grid.latitude, grid.longitude
    if abs(latitude).max() > 90:
        report.fault("latlon_range", f"latitudes {latitude.min():.1f}..{latitude.max():.1f} are out of range")
        return
    if latitude[0].mean() > latitude[-1].mean():
        report.note("north_to_south", "rows run from north to south")
    raw = next((dataset[n].values for n in ("longitude", "lon") if n in dataset.variables), longitude)
    if np.nanmax(raw) > 180:
        report.note("longitude_360", "longitudes run from 0 to 360; they are read as -180 to 180")
    about = grid.projection
    parallels = {round(float(p), 6) for p in np.atleast_1d(about.get("standard_parallel", []))}
    lambert = about.get("grid_mapping_name") == "lambert_conformal_conic"
    if lambert and len(parallels) == 1 and grid.x is not None:
        centre = float(about["longitude_of_central_meridian"])
        rows, columns = (np.unique(np.linspace(0, n - 1, 200).astype(int)) for n in latitude.shape)  # enough to tell
        some = np.ix_(rows, columns)
        expected = lambert_latlon(grid.x[None, columns], grid.y[rows, None], parallels.pop(), centre)
        east = (expected[1] - longitude[some] + 180) % 360 - 180
        apart = max(abs(expected[0] - latitude[some]).max(), abs(east).max())
        if apart > 0.01:
            report.fault("latlon_projection", f"latitude/longitude and projection differ by up to {apart:.2f} degrees")


def check_kinds(dataset: xr.Dataset, report: Report) -> None:
    """Analyses (f00) and 1-hour forecasts (f01) are not interchangeable."""
    if "forecast_hour" in dataset.variables:
        kinds, counts = np.unique(dataset["forecast_hour"].values, return_counts=True)
        if len(kinds) > 1:
            text = ", ".join(f"{n} of f{int(k):02d}" for k, n in zip(kinds, counts, strict=True))
            report.fault("f00_f01_mix", f"analyses and forecasts are mixed: {text}", count=counts.min())


def check_layout(dataset: xr.Dataset, group: zarr.Group, names: list[str], path: str, report: Report) -> None:
    """Chunks that make reading one full field slow, and units that are not the table's."""
    for name in names:
        chunks = group[name].chunks
        tiles = int(np.prod([-(-s // c) for s, c in zip(group[name].shape[1:], chunks[1:], strict=True)]))
        if chunks[0] > 1 or tiles > 4:
            report.note(
                "chunks", f"chunks {chunks} are unfit for training, which reads one hour at a time; rewrite with "
                f"`.venv/bin/python -m data.build_hrrr --source zarr --path {path} --out NEW.zarr`", name, count=tiles,
            )  # fmt: skip
        table, found = lookup(name), str(dataset[name].attrs.get("units", ""))
        if table.units and found and conversion(found, table.units) != (1, 0):
            report.fault("units", f"units {found!r}, expected {table.units!r}", name)


# --- fields ---


def look_at(name: str, values: np.ndarray) -> dict:
    """The figures of one (y, x) field."""
    low, high, table = float(values.min()), float(values.max()), lookup(name)
    out, good = {}, values
    # A NaN anywhere makes both extremes NaN: sound fields, nearly all there are, take no further pass.
    if not (np.isfinite(low) and np.isfinite(high)):
        out = {"nan": int(np.isnan(values).sum()), "infinite": int(np.isinf(values).sum())}
        good = values[np.isfinite(values)]
        if not good.size:
            return out | {"low": np.nan, "high": np.nan, "mean": np.nan}
        low, high = float(good.min()), float(good.max())
    # by rows in single precision, then in double: as exact as needed, and twice as fast
    mean = float(np.atleast_2d(good).mean(axis=-1).mean(dtype=np.float64))
    lowest = min(table.lower, -40.0) if table.name == "REFC" else table.lower  # no echo is below the bound
    beyond = low < lowest or high > table.upper
    outside = int(((good < lowest) | (good > table.upper)).sum()) if beyond else 0
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
    if fill in floors:
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
    known, outside = np.isfinite(seen["mean"]), seen["outside"] > 0
    mean = float(seen["mean"][known].mean()) if known.any() else np.nan
    if table.name in TEMPERATURES and -90 < mean < 60:
        report.fault("celsius", f"mean {mean:.1f}: degrees Celsius where kelvin is expected", name, count=len(seen))
    elif table.name == "CIN" and mean > 0:
        report.fault("cin_sign", f"mean {mean:.1f}: positive where CIN <= 0 is expected", name, count=len(seen))
    elif name.lower() in PRESSURES and 300 < mean < 1200:
        report.fault("hectopascal", f"mean {mean:.0f}: hPa where Pa is expected", name, count=len(seen))
    elif outside.any():
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
