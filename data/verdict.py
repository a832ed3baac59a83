"""What can be wrong with a training store: faults and notes, one function per kind.

A fault is wrong or unreadable data; a note is something worth knowing that training can live with.
"""

from dataclasses import asdict, dataclass, field

import numpy as np
import xarray as xr
import zarr

from data.checks import WARMER_DEW, HourValues
from data.grid import Grid, lambert_latlon
from data.metadata import conversion
from data.times import show, show_duration
from data.variables import lookup

TEMPERATURES = ("T2M", "D2M")
FLOORED = {"REFC": (-10.0, 0.0), "CAPE": (0.0,), "CIN": (0.0,)}  # values that a calm hour has in every cell
PRESSURES = ("sp", "msl", "mslma", "prmsl", "pres", "press", "pressure_surface", "surface_pressure")


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

    def fault(self, code: str, message: str, variable: str = "", hours=(), count: int = 0, bad: bool = False) -> None:
        """A fault; `hours` are the times it concerns (the first is named), left out of training where `bad`."""
        self._add(self.faults, code, message, variable, hours, count)
        if bad:
            self.bad_hours |= {h for h in hours if not np.isnat(h)}

    def note(self, code: str, message: str, variable: str = "", hours=(), count: int = 0) -> None:
        self._add(self.notes, code, message, variable, hours, count)

    @staticmethod
    def _add(findings: list, code: str, message: str, variable: str, hours, count: int) -> None:
        hours = list(hours)
        time = show(min(hours)) if hours and not np.isnat(hours[0]) else ""
        findings.append(Finding(code, message, variable, time, int(count or len(hours))))

    def as_dict(self) -> dict:
        return {
            "sound": not self.faults,
            "faults": [asdict(f) for f in self.faults],
            "notes": [asdict(f) for f in self.notes],
        }


def check_times(dataset: xr.Dataset, report: Report) -> np.ndarray:
    """Decodable, sorted, unique, evenly spaced but for gaps; returns the times, empty where they are no use."""
    time = dataset["time"]
    if not np.issubdtype(time.dtype, np.datetime64):
        units = time.attrs.get("units", "no units attribute")
        report.fault("time_units", f"time cannot be decoded: dtype {time.dtype} with {units!r}; set CF units")
        return np.array([], "datetime64[ns]")
    times = time.values.astype("datetime64[ns]")
    if np.isnat(times).any():
        report.fault("time_missing", "some times are missing (NaT)", count=np.isnat(times).sum())
        return np.array([], "datetime64[ns]")
    steps = np.diff(times)
    back = np.flatnonzero(steps < np.timedelta64(0, "ns"))
    if len(back):
        report.fault("time_order", "time is not sorted", hours=times[back + 1])
    values, counts = np.unique(times, return_counts=True)
    if (counts > 1).any():
        report.fault("time_duplicate", "a time occurs more than once", hours=values[counts > 1])
    steps = np.diff(values)
    if len(steps):
        step = np.median(steps.astype("int64")).astype("timedelta64[ns]")
        gaps = np.flatnonzero(steps > step)
        if len(gaps):
            lost = round(float((steps[gaps] / step - 1).sum()))
            text = f"{len(gaps)} gaps, {lost} steps of {show_duration(step)} missing"
            report.note("gaps", text, hours=values[gaps] + step, count=lost)
        odd = np.flatnonzero(steps % step != np.timedelta64(0, "ns"))
        if len(odd):
            text = f"times are not a multiple of {show_duration(step)} apart"
            report.fault("time_step", text, hours=values[odd + 1])
    return times


def check_grid(dataset: xr.Dataset, grid: Grid, report: Report) -> None:
    """Orientation, ranges, and latitude and longitude against the projection."""
    if grid.latitude is None:
        report.note("no_latlon", "no latitude and longitude: training goes without the sun's height")
        return
    latitude, longitude = grid.latitude, grid.longitude
    if abs(latitude).max() > 90 or abs(longitude).max() > 180:
        report.fault("latlon_range", f"latitudes {latitude.min():.1f}..{latitude.max():.1f} or longitudes out of range")
        return
    if latitude[0].mean() > latitude[-1].mean():
        report.note("north_to_south", "rows run from north to south")
    raw = next((dataset[n].values for n in ("longitude", "lon") if n in dataset.variables), longitude)
    if np.nanmax(raw) > 180:
        report.note("longitude_360", "longitudes run from 0 to 360; they are read as -180 to 180")
    parallel = grid.projection.get("standard_parallel")
    parallels = {round(float(p), 6) for p in np.atleast_1d(parallel)} if parallel is not None else set()
    if (
        grid.projection.get("grid_mapping_name") == "lambert_conformal_conic"
        and len(parallels) == 1
        and grid.x is not None
    ):
        centre = float(grid.projection["longitude_of_central_meridian"])
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
        array = group[name]
        tiles = int(np.prod([-(-s // c) for s, c in zip(array.shape[1:], array.chunks[1:], strict=True)]))
        if array.chunks[0] > 1 or tiles > 4:
            report.note(
                "chunks", f"chunks {array.chunks} are unfit for training, which reads one hour at a time; rewrite with "
                f"`.venv/bin/python -m data.build_hrrr --source zarr --path {path} --out NEW.zarr`", name, count=tiles,
            )  # fmt: skip
        table, found = lookup(name), str(dataset[name].attrs.get("units", ""))
        if table.units and found and conversion(found, table.units) != (1, 0):
            report.fault("units", f"units {found!r}, expected {table.units!r}", name)


def judge_variable(
    report: Report, dataset: xr.Dataset, group: zarr.Group, name: str, times: np.ndarray, values: list[HourValues],
    always: np.ndarray | None,
) -> None:  # fmt: skip
    """Turn what the pass saw of one variable into findings. `always`: cells that are NaN in every hour, a mask."""
    table = lookup(name)
    floors = FLOORED.get(table.name, ())
    masked = int(always.sum()) if always is not None else 0
    cells = int(np.prod(dataset[name].shape[1:]))

    def hours(test) -> list[np.datetime64]:
        return [t for t, v in zip(times, values, strict=True) if test(v)]

    fill = group[name].fill_value
    outer = group[name].shards or group[name].chunks
    tiles = int(np.prod([-(-s // c) for s, c in zip(dataset[name].shape[1:], outer[1:], strict=True)]))
    usual = min((v.missing_chunks for v in values), default=0)
    if not (np.isnan(fill) and usual < tiles):
        usual = 0
    if usual:  # xarray leaves such chunks out on purpose
        report.note("unwritten_mask", f"{usual} chunks are absent in every hour and read as NaN: a mask", name)
    lost = hours(lambda v: v.missing_chunks > usual)
    if lost and fill in floors:
        report.note(
            "unwritten_floor", f"chunks without a file, read as {fill:g}, which is this variable's floor", name, lost
        )
    elif lost:
        report.fault("unwritten", f"chunks were never written; zarr returns {fill} for them", name, lost, bad=True)
    if broken := hours(lambda v: v.unreadable):
        reason = next(v.unreadable for v in values if v.unreadable)
        report.fault("unreadable", f"chunks cannot be read ({reason[:80]})", name, broken, bad=True)
    if masked == cells:
        report.fault("empty", "NaN in every cell of every hour: no data at all", name, count=len(values))
        return
    if masked:
        report.note("mask", f"{masked / cells:.1%} of the cells are NaN in every hour: a mask", name, count=masked)
    if gone := hours(lambda v: v.nan > masked and not v.missing_chunks):
        total = sum(v.nan - masked for v in values if v.nan > masked and not v.missing_chunks)
        field = (
            dataset[name].variable[int(np.flatnonzero(times == min(gone))[0]) if not np.isnat(gone[0]) else 0].values
        )
        y, x = np.argwhere(np.isnan(field) & ~(always if masked else np.zeros_like(field, bool)))[0]
        report.fault("nan", f"NaN that is no mask, first in cell y={y}, x={x}", name, gone, total, bad=True)
    if endless := hours(lambda v: v.infinite):
        report.fault("infinite", "infinite values", name, endless, sum(v.infinite for v in values), bad=True)
    mean = float(np.nanmean([v.mean for v in values])) if any(np.isfinite(v.mean) for v in values) else np.nan
    if table.name in TEMPERATURES and -90 < mean < 60:
        report.fault("celsius", f"mean {mean:.1f}: degrees Celsius where kelvin is expected", name, count=len(values))
    elif table.name == "CIN" and mean > 0:
        report.fault("cin_sign", f"mean {mean:.1f}: positive where CIN <= 0 is expected", name, count=len(values))
    elif name.lower() in PRESSURES and 300 < mean < 1200:
        report.fault("hectopascal", f"mean {mean:.0f}: hPa where Pa is expected", name, count=len(values))
    elif outside := hours(lambda v: v.outside):
        low, high = min(v.low for v in values if v.outside), max(v.high for v in values if v.outside)
        text = f"values {low:.4g}..{high:.4g} beyond {table.lower:g}..{table.upper:g} {table.units}"
        report.fault("bounds", text, name, outside, sum(v.outside for v in values), bad=True)
    judge_changes(report, name, floors, times, values, hours)


def judge_changes(report: Report, name: str, floors: tuple, times, values: list[HourValues], hours) -> None:
    """Constant and repeated hours, and the value that means no echo."""
    table = lookup(name)
    calm = hours(lambda v: v.low == v.high and (v.low in floors or (not table.standard_name and v.low == 0)))
    if calm:
        report.note("constant_floor", "hours constant at the variable's floor", name, calm)
    if dead := hours(lambda v: v.low == v.high and not v.missing_chunks and v.low not in floors
                     and (table.standard_name or v.low != 0)):  # fmt: skip
        report.fault("constant", "hours with one value in every cell", name, dead, bad=True)
    if again := hours(lambda v: v.same_as_before and v.low < v.high):
        text = "hours equal to the hour before in every cell"
        if table.standard_name:
            report.fault("repeated", text, name, again, bad=True)
        else:  # rain that a source spread over several hours, say
            report.note("repeated", text, name, again)
    if table.name == "REFC":
        lows = {v.low for v in values if v.low <= 0}
        if {-10.0, 0.0} <= lows:
            other = hours(lambda v: v.low == 0.0)
            report.fault(
                "refc_floor", "no echo is -10 dBZ in some hours and 0 in others: two sources mixed", name, other
            )


def judge_across(report: Report, times: np.ndarray, across: dict[str, list[tuple[int, int]]]) -> None:
    """Findings that need two variables."""
    texts = {
        "dew_above_temperature": f"D2M more than {WARMER_DEW} K above T2M",
        "u_equals_v": "U10 and V10 are the same field",
        "broken_dew_points": "D2M of exactly -81.03 C, HRRR's broken pixels; a new build repairs them",
    }
    for key, counts in across.items():
        if found := [(times[i], n) for i, n in counts if n]:
            report.fault(key, texts[key], "", [t for t, _ in found], sum(n for _, n in found), bad=True)
