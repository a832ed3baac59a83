"""Open a zarr store, a NetCDF file or a folder of them, and say what their times and dimensions mean.

CF attributes count first, names only without them. Nothing is guessed: a refusal names what is unclear.

    valid time   standard_name time; valid_time, time, Times, XTIME; or initial time + lead time
    initial time forecast_reference_time; init_time, or `time` beside a lead time that is a dimension
    lead time    forecast_period; step, lead_time, prediction_timedelta. Analyses (0) and 1-hour forecasts are used
"""

import contextlib
import itertools
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

from data.command import fault
from data.grid import axis_of, horizontal, letters
from data.metadata import KIND
from data.times import CALENDARS, LEAD, from_text, kinds_of, spread, with_times

VALID = ("time", "validtime", "times", "xtime", "datetime", "date")  # letters of a name, the best first
RUN = ("inittime", "forecastreferencetime", "referencetime", "initializationtime", "initialtime", "runtime", "basetime",
       "analysistime", "cycletime", "init", "cycle")  # fmt: skip
HOUR = np.timedelta64(1, "h").astype("m8[ns]")
ZERO = 0 * HOUR
MARKERS = ("zarr.json", ".zgroup", ".zmetadata")
PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "az": "adlfs", "abfs": "adlfs",
            "http": "aiohttp requests", "https": "aiohttp requests"}  # fmt: skip
STARTS = {  # the first bytes of a file: what it is, and what to do with it
    b"GRIB": ("a GRIB file", "--source grib"), b"\x1f\x8b": ("a gzip file", "gunzip it first"),
    b"BZh": ("a bzip2 file", "bunzip2 it first"), b"\xfd7zXZ": ("an xz file", "unxz it first"),
    b"<": ("a page of HTML or XML, perhaps an error message of the server", "download the file again"),
    b"CDF": ("NetCDF", "--source zarr"), b"\x89HDF": ("NetCDF", "--source zarr"),
}  # fmt: skip


# --- opening ---


def open_zarr(path: str | Path, blanked: bool = False) -> xr.Dataset:
    """Open a zarr store lazily; ValueError in one line if that fails. `blanked`: the caller itself looks for chunks
    that were never written."""
    text = str(path)
    if "://" not in text and not Path(text).exists():
        raise ValueError(f"{path}: no such store, expected a zarr directory. Fix: check the path, or build one with "
                         "`.venv/bin/python -m data.build_hrrr --source grib --path FOLDER` or "
                         "`.venv/bin/python -m data.synthetic_storms` (a demo)")  # fmt: skip
    if "://" not in text and not any((Path(text) / n).exists() for n in MARKERS):
        found, fix = what_instead(Path(text))
        raise ValueError(f"{path}: not a zarr store{found}, expected a directory with zarr.json or .zgroup. Fix: {fix}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about consolidated metadata: a store that still grows has none
        try:
            dataset = with_times(with_zeros(text, xr.open_zarr(text, chunks=None, decode_times=False), blanked))
            group = zarr.open_group(text, mode="r", use_consolidated="://" in text and None)
            groups = () if dataset.variables else [n for n, _ in group.groups()]
            held = {} if "://" in text or KIND in dataset.attrs else dict(group.arrays())  # ours may grow meanwhile
        except Exception as error:  # zarr, xarray and fsspec each raise their own kinds here
            where, got = f"{path}: cannot be opened as zarr", f"{type(error).__name__}: {error}"
            expected, fix = "a complete store", "check the path and that the store is complete"
            if isinstance(error, ImportError):
                package = PACKAGES.get(text.split("://")[0], error.name or "fsspec")
                expected, fix = "the package for such addresses", f".venv/bin/python -m pip install {package}"
            elif unnamed := arrays_without_dimensions(text):
                got, expected = f"arrays without dimension names ({', '.join(unnamed[:5])})", "named dimensions"
                fix = ('name them: in zarr v2 the attribute _ARRAY_DIMENSIONS = ["time", "y", "x"] of each array, in '
                       "zarr v3 dimension_names")  # fmt: skip
            raise fault(where, got, expected, fix) from error
    if groups:
        raise fault(path, f"groups ({', '.join(groups[:5])})", "arrays", f"name one, such as {text}/{groups[0]}")
    shapes = {n: dataset[n].shape for n in held if n in dataset.variables}
    if stale := [n for n, shape in shapes.items() if held[n].shape[: len(shape)] != shape]:
        got = f"consolidated metadata with {shapes[stale[0]]} for {stale[0]}, whose own say {held[stale[0]].shape}"
        raise fault(path, got, "the same", f"zarr.consolidate_metadata({text!r})")
    return dataset


def arrays_without_dimensions(path: str) -> list[str]:
    with contextlib.suppress(Exception):
        arrays = zarr.open_group(path, mode="r").arrays()
        return [n for n, a in arrays if a.ndim and not (getattr(a.metadata, "dimension_names", None)
                                                        or "_ARRAY_DIMENSIONS" in a.attrs)]  # fmt: skip
    return []


def open_netcdf(file: Path) -> xr.Dataset:
    """Open a NetCDF file lazily; ValueError that says what the file is if that fails."""
    what, fix = what_is(file)
    if what != "NetCDF":
        raise fault(f"{file}: cannot be opened", what, "a NetCDF file", fix)
    try:
        dataset = with_times(xr.open_dataset(file, decode_times=False))
        groups = () if dataset.variables else [n for n in xr.open_groups(file) if n != "/"]
    except Exception as error:  # each engine of xarray raises its own kinds
        got = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason'}"
        fix = "fetch or write it again"
        if isinstance(error, ImportError | ValueError):  # no engine
            fix = "install netCDF4 (.venv/bin/python -m pip install netCDF4)"
        raise fault(f"{file}: cannot be opened", got, "a NetCDF file", fix) from error
    if groups:
        fix = f"write one as a file: xarray.open_dataset({str(file)!r}, group={groups[0]!r}).to_netcdf('NEW.nc')"
        raise fault(file, f"groups ({', '.join(groups[:5])})", "arrays outside of groups", fix)
    return dataset


def open_parts(path: str) -> tuple[list[tuple[str, xr.Dataset]], list[str]]:
    """(path, dataset) of the store, the file or every NetCDF file of the folder, whatever its ending, and notes;
    ValueError if there is none that opens."""
    place, notes = Path(path), []
    if "://" in path or any((place / n).exists() for n in MARKERS):
        return [(path, open_zarr(path, blanked="://" not in path))], notes
    if stores := [p for p in sorted(place.glob("*")) if any((p / n).exists() for n in MARKERS)]:
        return [(str(p), open_zarr(p, blanked=True)) for p in stores], notes
    files = [place] if place.is_file() else sorted(f for f in place.rglob("*") if f.is_file())
    if hidden := [f.name for f in files if f.name.startswith(".") and f != place]:  # a Mac's ._NAME and .DS_Store
        notes.append(f"passed over {len(hidden)} hidden files ({hidden[0]})")
    files = [f for f in files if not f.name.startswith(".") or f == place]
    readable = [f for f in files if f == place or f.suffix in (".nc", ".nc4", ".cdf") or what_is(f)[0] == "NetCDF"]
    if not readable:
        what, fix = what_is(files[0]) if files else ("nothing", "--path")
        raise fault("path", f"{path}, which holds {what}", "a zarr store, a NetCDF file or a folder of them", fix)
    return [(str(f), open_netcdf(f)) for f in readable], notes


def what_is(file: Path) -> tuple[str, str]:
    """What a file is by its first bytes, and what to do with it."""
    if zipfile.is_zipfile(file):
        return "a zip file", f"unzip it (unzip {file}) and name the folder"
    with file.open("rb") as opened:
        start = opened.read(8)
    found = next((about for first, about in STARTS.items() if start.lstrip().startswith(first)), None)
    return found or (f"a file that begins with {start!r}" if start else "an empty file", "download it again")


def what_instead(path: Path) -> tuple[str, str]:
    """What a path that is no zarr store holds, where that is known, and what to do with it."""
    if path.suffix == ".pt":
        return " but a checkpoint", "name the store, a folder such as data/hrrr.zarr"
    if stores := sorted(map(str, path.glob("*.zarr"))):
        return f" but a folder that holds {len(stores)}", f"name one: {', '.join(stores[:3])}"
    places = itertools.chain([path], path.glob("*"), path.glob("*/*"))  # downloads often have a folder a day
    if any(p.suffix in (".grib2", ".grb2") for p in places):
        return " but GRIB files", f"`python -m data.build_hrrr --source grib --path {path} --out STORE.zarr`"
    return "", f"NetCDF becomes zarr with `python -m data.build_hrrr --source zarr --path {path} --out STORE.zarr`"


def with_zeros(path: str, dataset: xr.Dataset, blanked: bool) -> xr.Dataset:
    """Zeros read as zeros: xarray takes the fill value of a zarr v2 array, 0 where nobody chose one, for missing,
    and with it the first of "hours since ..." and every cell without CAPE. Chunks that were never written would
    read as 0 too, so a field keeps NaN for zero unless all its chunks are there or the caller blanks the others."""
    packed = {"scale_factor", "add_offset", "missing_value"}
    zeros = {n for n, v in dataset.variables.items() if np.all(v.encoding.get("_FillValue", 1) == 0)}
    zeros -= {n for n in zeros if packed & set(dataset[n].encoding)}
    if not zeros:
        return dataset
    group = zarr.open_group(path, mode="r")
    fields = {n for n in zeros if dataset[n].ndim >= 3 and not blanked}
    zeros -= {n for n in fields if group[n].nchunks_initialized < group[n].nchunks}
    plain = xr.open_zarr(path, chunks=None, decode_times=False, mask_and_scale=False)
    held = {n: plain.variables[n] for n in zeros}
    for v in held.values():
        v.attrs.pop("_FillValue", None)
    coordinates = {n: v for n, v in held.items() if n in dataset.coords}
    return dataset.assign_coords(coordinates).assign({n: v for n, v in held.items() if n not in coordinates})


# --- what times and dimensions mean ---


@dataclass
class Part:
    """One opened dataset: its fields over time and the meaning of their times."""

    path: str
    dataset: xr.Dataset
    time: str | None  # name of the time dimension, None if there is one time without a dimension
    times: np.ndarray  # valid times, datetime64[ns], in the file's order
    kinds: np.ndarray | None = None  # lead in hours of each, 0 or 1 (others: -1); None if no attribute says it
    notes: list[str] = field(default_factory=list)
    dims: dict[str, tuple] = field(default_factory=dict)  # field -> names of its (y, x)
    odd: dict[str, list] = field(default_factory=dict)  # array that is no field -> its dimensions beside time

    def __post_init__(self):
        for name, v in self.dataset.variables.items():
            if v.dtype.kind not in "fiu" or (self.time or name) not in (*v.dims, name) or name in v.dims:
                continue
            long = [d for d in v.dims if d != self.time and v.sizes[d] > 1]
            places = [d for d in v.dims if d != self.time and axis_of(self.dataset, d)]
            pair = horizontal(self.dataset, long if len(long) == 2 else places)
            others = [d for d in long if pair is None or d not in pair]
            if pair and not others and name not in self.dataset.coords:
                self.dims[str(name)] = pair
            elif len(long) > 1:
                self.odd[str(name)] = others or long

    def field(self, name: str) -> xr.DataArray:
        """An array, still lazy, as (time, y, x); (y, x) if the dataset has one time without a dimension."""
        array, kept = self.dataset[name], (*([self.time] if self.time else []), *self.dims[name])
        array = array.isel({d: 0 for d in array.dims if d not in kept})
        return array.transpose(*kept)

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Fields (n, y, x) float32 of some times, NaN where attributes declare a value as missing: xarray passes over
        valid_range, and over a missing_value in double precision beside values in single."""
        field = self.field(name)
        values = (field[start:stop].values if self.time else field.values[None]).astype(np.float32, copy=False)
        about = field.encoding | field.attrs
        factor, offset = about.get("scale_factor", 1.0), about.get("add_offset", 0.0)
        low, high = about.get("valid_range", (-np.inf, np.inf))
        low, high = (v * factor + offset for v in (about.get("valid_min", low), about.get("valid_max", high)))
        fill = np.float32(about.get("missing_value", np.nan))
        if np.isfinite((low, high)).any() or not np.isnan(fill):
            low, high = np.nextafter(np.float32((low, high)), np.float32((-np.inf, np.inf)))  # packing rounds
            values = np.where((values == fill) | (values < low) | (values > high), np.nan, values)
        return values

    @property
    def first_hour(self) -> bool:
        """Whether it has forecasts of one hour, whose sums since the start of the run are those of the hour."""
        return self.kinds is not None and bool((self.kinds == 1).any())


def parts_of(path: str, dataset: xr.Dataset) -> list[Part]:
    """What a dataset holds, by kind if it has every initial time with several leads; ValueError if the time is missing
    or cannot be decoded, or if fields have several times."""
    valid, run, lead = find_times(path, dataset)
    notes = [f"{v.name}: times up to {v.attrs['rounded']} beside the step (float32); rounded to what they mean"
             for v in (valid, run) if v is not None and "rounded" in v.attrs]  # fmt: skip
    if valid is None:
        valid = run + lead
    elif valid.attrs.get("standard_name") == "forecast_reference_time":
        notes.append(f"{valid.name} is the time of the run and there is no other; taken as the time of the fields")
    if lead is None and run is not None and run.name != valid.name:
        lead = valid - run
    if lead is not None:
        valid, lead = xr.broadcast(valid.reset_coords(drop=True), lead.reset_coords(drop=True))
    long = [d for d in valid.dims if valid.sizes[d] > 1] or list(valid.dims)[:1]
    single = {d: 0 for d in valid.dims if d not in long}
    if single:
        dataset, valid = (x.isel(single, missing_dims="ignore") for x in (dataset, valid))
        lead = None if lead is None else lead.isel(single)
    if len(long) < 2:
        kinds = None if lead is None else kinds_of(lead.values)
        if kinds is not None and (others := int((kinds < 0).sum())):
            notes.append(f"left out: {others} times with other leads than 0 and 1 h ({spread(lead.values)})")
        return [Part(path, dataset, long[0] if long else None, np.atleast_1d(valid.values), kinds, notes)]
    along = [d for d in long if (np.ptp(lead.values.astype("int64"), axis=lead.dims.index(d)) > 0).any()]
    if len(long) > 2 or len(along) != 1:
        got = f"times along {', '.join(map(str, long))}"
        raise fault(path, got, "one valid time for each field", f"select one of {long[-1]} with xarray's isel")
    other = next(d for d in long if d != along[0])
    leads = kinds_of(lead.isel({other: 0}).values)
    notes.append(f"left out: {(leads < 0).sum()} leads other than 0 and 1 h along {along[0]} ({spread(lead.values)})")
    out = []
    for i in np.flatnonzero(leads >= 0) if (leads >= 0).any() else [0]:
        one = {along[0]: int(i)}
        kinds = kinds_of(lead.isel(one).values)
        out.append(Part(path, dataset.isel(one), other, valid.isel(one).values, kinds, notes if not out else []))
    return out


def refuse_leads(parts: list[Part]) -> None:
    """ValueError if no part has an analysis or a 1-hour forecast."""
    if parts and all(p.kinds is not None and p.kinds.size and (p.kinds < 0).all() for p in parts):
        got = f"forecasts ({parts[0].notes[-1]})"
        expected = "analyses or 1-hour forecasts (lead_time 0 or 1 h)"
        raise fault(parts[0].path, got, expected, "a source that has them")


def find_times(path: str, dataset: xr.Dataset) -> tuple:
    """(valid time, initial time, lead time) as DataArrays; None for what the dataset does not have."""
    found: dict[str, list] = {"valid": [], "run": [], "lead": []}
    for name, v in dataset.variables.items():
        standard, short = str(v.attrs.get("standard_name", "")), letters(name)
        short = "xtime" if name == "XTIME" else short
        if standard == "forecast_period" or (LEAD.fullmatch(short) and not standard):
            found["lead"].append((short == "forecasthour", name))
        elif standard == "forecast_reference_time" or (short in RUN and not standard):
            found["run"].append((RUN.index(short) if short in RUN else 0, name))
        elif standard == "time" or short in VALID:
            rank = 0.5 if short == "validtime" else VALID.index(short) + 1 if short in VALID else 9
            found["valid"].append((rank - 1 if standard == "time" else rank, name))
    names = {role: [n for _, n in sorted(some, key=lambda x: x[0])] for role, some in found.items()}
    valid, run, lead = (next(iter(names[role]), None) for role in ("valid", "run", "lead"))
    if len(names["valid"]) > 1 and run is None and letters(valid) == "validtime":
        run = next((n for n in names["valid"] if letters(n) == "time"), None)
    if lead and not run and letters(valid) == "time" and dataset[valid].attrs.get("standard_name") != "time":
        along = set(dataset[lead].dims)
        if along - set(dataset[valid].dims) or (not along and letters(lead) != "forecasthour"):
            valid, run = None, valid  # WeatherBench's `time` is the initial time
    if valid is None and lead is None:
        valid = run  # cfgrib's `time` of analyses that were saved without their step
    if valid is None and run is None:
        held = ", ".join(map(str, dataset.variables)) or "nothing"
        raise fault(path, f"no time coordinate (found {held})", "`time` or `valid_time` with CF units",
                    'set the units attribute of time, e.g. "hours since 2024-01-01"')  # fmt: skip
    return tuple(None if n is None else decoded(path, dataset[n], n == lead) for n in (valid, run, lead))


def decoded(path: str, time: xr.DataArray, lead: bool) -> xr.DataArray:
    """A time as datetime64[ns] or a lead as timedelta64[ns]; ValueError if it cannot be."""
    kind, units = time.dtype.kind, time.attrs.get("units", "no units attribute")
    if lead and kind in "iuf" and letters(time.name) == "forecasthour":  # our stores: 0 or 1
        return (time.astype("float64") * 3.6e12).astype("timedelta64[ns]")
    if not lead and kind in "SUO" and time.size:
        with contextlib.suppress(ValueError):
            values = from_text(time.values)
            return time.isel({d: 0 for d in time.dims[values.ndim :]}).copy(data=values)
    if kind != ("m" if lead else "M"):
        where = f"{path}: {time.name} cannot be decoded"
        fix = 'write it as a number with CF units in UTC, e.g. "hours since 2024-01-01"'
        calendar = str(time.attrs.get("calendar", time.encoding.get("calendar", "")))
        if calendar.lower() not in CALENDARS:
            raise fault(where, f"the calendar {calendar!r}", "the standard calendar, whose days real weather has",
                        "a source of real hours")  # fmt: skip
        if lead:
            fix = 'set its units attribute, e.g. "hours"'
        elif np.dtype(time.encoding.get("dtype", time.dtype)) == np.float32 and " since " in str(units):
            fix = "write it as integers or float64: float32 is minutes beside the step that is meant"
        raise fault(where, f"{time.dtype} with {units!r}", "a duration" if lead else "CF time", fix)
    if np.isnat(time.values).any():
        raise fault(f"{path}: {time.name}", "missing times (NaT)", "a time for each field", "remove these fields")
    return time.astype("timedelta64[ns]" if lead else "datetime64[ns]")


def describe_odd(part: Part, names: list[str] | None = None) -> str:
    """Which arrays are no maps and why, for a message."""
    odd = {n: d for n, d in part.odd.items() if names is None or n in names}
    return "; ".join(f"{n} has the dimensions {', '.join(map(str, d))}" for n, d in itertools.islice(odd.items(), 4))


def refuse_odd(part: Part) -> None:
    """ValueError that names what is in the way of fields."""
    if part.odd:
        dims = sorted({str(d) for some in part.odd.values() for d in some})
        expected = "(time, y, x) arrays: two horizontal dimensions beside time"
        got = f"no (time, y, x) array: {describe_odd(part)}"
        fix = f"select or merge along {', '.join(dims)} (ds.isel({dims[0]}=0), say), or name rows and columns y and x"
        raise fault(part.path, got, expected, fix)
    held = ", ".join(map(str, part.dataset.variables)) or "nothing"
    fix = "name a store with fields over time; dimensions of maps are y and x, or latitude and longitude"
    raise fault(part.path, f"no (time, y, x) array (found {held})", "at least one", fix)
