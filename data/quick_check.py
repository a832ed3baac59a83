"""What the metadata of a store tell, without reading a field: faults, notes, and the header of a training.

A fault is wrong or unreadable data; a note is something worth knowing that training can live with.
"""

import numpy as np
import xarray as xr
import zarr

from data.dataset import Split
from data.grid import Grid, lambert_latlon
from data.metadata import conversion
from data.store import Store, Written, chunk_places
from data.times import show, show_duration
from data.variables import lookup

# values that a calm hour has in every cell
FLOORED = {"REFC": (-10.0, 0.0), "CAPE": (0.0,), "CIN": (0.0,), "RAIN": (0.0,)}
HARMLESS = {"time_order", "time_step"}  # faults that training can live with: it finds pairs by their timestamps
# notes that opening the store or computing statistics prints already
SAID = {"no_latlon", "north_to_south", "gaps", "no_checksum", "unwritten_mask", "unwritten_floor"}


class Report:
    """Findings {code, variable, time, count, message}, and the hours that training has to leave out."""

    def __init__(self):
        self.faults: list[dict] = []
        self.notes: list[dict] = []
        self.bad_hours: set[np.datetime64] = set()

    def fault(self, code: str, message: str, variable="", hours=None, count: int = 0, bad: bool = False) -> None:
        """A fault; `hours` are the times it concerns (the first is named; none: no fault), left out of training if
        `bad`."""
        self.note(code, message, variable, hours, count, self.faults)
        self.bad_hours |= {h for h in hours if not np.isnat(h)} if bad else set()

    def note(self, code: str, message: str, variable="", hours=None, count: int = 0, findings=None) -> None:
        if hours is None or len(hours):
            time = "" if hours is None or np.isnat(hours[0]) else show(min(hours))
            count = int(count or (0 if hours is None else len(hours)))
            finding = {"code": code, "variable": variable, "time": time, "count": count, "message": message}
            (self.notes if findings is None else findings).append(finding)


def check_metadata(
    report: Report, dataset: xr.Dataset, grid: Grid, group: zarr.Group, names: list[str], path: str
) -> np.ndarray:
    """Times, grid, kinds of hours, layout; returns the times, empty if they are no use."""
    times = check_times(dataset, report)
    check_grid(grid, report)
    if "forecast_hour" in dataset.variables:
        kinds, counts = np.unique(dataset["forecast_hour"].values, return_counts=True)
        if len(kinds) > 1:  # analyses and 1-hour forecasts are not interchangeable
            text = ", ".join(f"{n} of f{int(k):02d}" for k, n in zip(kinds, counts, strict=True))
            report.fault("f00_f01_mix", f"analyses and forecasts are mixed: {text}", count=counts.min())
    check_layout(dataset, group, names, path, report)
    return times


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


def check_grid(grid: Grid, report: Report) -> None:
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


def check_layout(dataset: xr.Dataset, group: zarr.Group, names: list[str], path: str, report: Report) -> None:
    """Chunks that make reading one full field slow, and units that are not the table's."""
    unsafe: list[str] = []
    for name in names:
        chunks = group[name].chunks
        tiles = int(np.prod([-(-s // c) for s, c in zip(group[name].shape[1:], chunks[1:], strict=True)]))
        if chunks[0] > 1 or tiles > 4:
            report.note(
                "chunks", f"chunks {chunks} are unfit for training, which reads one hour at a time; rewrite with "
                f"`.venv/bin/python -m data.build_hrrr --source zarr --path {path} --out NEW.zarr`", name, count=tiles,
            )  # fmt: skip
        codecs = [str(getattr(c, "to_dict", lambda: {})().get("name")) for c in group[name].compressors]
        if not any(c in ("crc32c", "sharding_indexed") for c in codecs) and not group[name].shards:
            unsafe.append(name)
        table, found = lookup(name), str(dataset[name].attrs.get("units", ""))
        if table.units and found and conversion(found, table.units) != (1, 0):
            report.fault("units", f"units {found!r}, expected {table.units!r}", name)
    if unsafe:
        report.note("no_checksum", f"no checksum in the chunks of {' '.join(unsafe)}: a flipped bit would be read as "
                    "weather; a store of data.build_hrrr has them")  # fmt: skip


def judge_written(report: Report, array: zarr.Array, name: str, times: np.ndarray, missing: np.ndarray,
                  stored: bool = False) -> None:  # fmt: skip
    """Chunks that every hour lacks, and those that some lack. `stored`: fields of nothing but the fill value are."""
    tiles, fill = int(np.prod([len(places) for places in chunk_places(array)[1:]])), array.fill_value
    usual = int(missing.min(initial=tiles))
    usual = usual if np.isnan(fill) and usual < tiles else 0
    if usual:  # xarray leaves such chunks out on purpose
        report.note("unwritten_mask", f"{usual} chunks are absent in every hour and read as NaN: a mask", name)
    if fill in FLOORED.get(lookup(name).name, ()) and not stored:
        text = f"chunks without a file, read as {fill:g}, which is this variable's floor"
        report.note("unwritten_floor", text, name, times[missing > usual])
    else:
        text = f"chunks were never written; zarr returns {fill} for them"
        report.fault("unwritten", text, name, times[missing > usual], bad=True)


def quick_check(store: Store, names: list[str]) -> list[str]:
    """Lines to print about the named variables of a store; ValueError for a fault that spoils training: hours of
    different kinds, wrong units, coordinates that contradict each other, chunks that were never written (zarr returns
    fill values for them). Hours that the full check has listed as faulty are left out already. A remote store's chunks
    are not listed: that may take minutes."""
    report, group = Report(), zarr.open_group(store.path, mode="r")
    times = check_metadata(report, store.dataset, store.grid, group, names, store.path)
    if "://" not in store.path:
        written, used = Written(group, names), np.flatnonzero(np.isin(times, store.times))
        for name in (n for n in names if not written.complete(n)):
            missing = np.array([written.missing(name, i) for i in used])
            if np.isnan(group[name].fill_value) and missing.min() == missing.max():
                continue  # a mask, or a variable without data, which training tells
            judge_written(report, group[name], name, times[used], missing)
    for fault in report.faults:
        if fault["code"] not in HARMLESS:
            where = "".join(f"{x}: " for x in (fault["variable"], fault["time"]) if x)
            raise ValueError(
                f"{store.path}: {where}got {fault['message']} ({fault['count']}), expected a sound "
                f"store. Fix: .venv/bin/python -m data.check_store {store.path} tells the rest"
            )
    findings = [*report.faults, *(n for n in report.notes if n["code"] not in SAID)]
    chunks = [n for n in findings if n["code"] == "chunks"]  # one line, not one for every variable
    return [": ".join(x for x in (f["variable"], f["message"]) if x) for f in findings if f not in chunks[1:]]


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
