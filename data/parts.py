"""Open the stores and files that data/source_zarr.py reads: zarr v2 or v3, NetCDF, a folder of NetCDF."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from data.source_grib import refuse_missing_path
from data.store import open_zarr, with_exact_times

UNREADABLE = (OSError, RuntimeError, ValueError)  # what a broken chunk raises, by codec
TIMES = ("time", "valid_time")
EAST = ("x", "lon", "longitude")  # a first dimension of such a name means that the array is stored transposed


@dataclass
class Part:
    """One opened file or store: its dataset, the name of its time dimension and its times in the file's order."""

    path: str
    dataset: xr.Dataset
    time: str
    times: np.ndarray  # datetime64[ns]


def open_parts(path: str) -> list[Part]:
    """The store, the file or every NetCDF file of the folder; ValueError where there is none that opens."""
    refuse_missing_path(path, "a zarr store, a NetCDF file or a folder of NetCDF files")
    place = Path(path)
    if "://" in path or any((place / n).exists() for n in ("zarr.json", ".zgroup", ".zmetadata")):
        return [as_part(path, open_zarr(path))]
    files = [place] if place.is_file() else sorted(f for f in place.rglob("*") if f.suffix in (".nc", ".nc4", ".cdf"))
    if not files:
        raise ValueError(f"path: got {path} without zarr.json, .zgroup or a NetCDF file (.nc) in it, expected a zarr "
                         "store, a NetCDF file or a folder of them. Fix: --path")  # fmt: skip
    parts = []
    for file in files:
        try:
            dataset = with_exact_times(xr.open_dataset(file, decode_timedelta=False))
        except Exception as error:  # each engine of xarray raises its own kinds
            raise ValueError(f"{file}: cannot be opened ({type(error).__name__}: {str(error).splitlines()[0]}), "
                             "expected a NetCDF file with decodable time. Fix: check the file, and that netCDF4 is "
                             "installed (.venv/bin/python -m pip install netCDF4)") from error  # fmt: skip
        parts.append(as_part(str(file), dataset))
    return parts


def as_part(path: str, dataset: xr.Dataset) -> Part:
    """The dataset with its time dimension; ValueError where time is missing or was not decoded."""
    found = [n for n in TIMES if n in dataset.variables and dataset[n].ndim == 1]
    if not found:
        raise ValueError(f"{path}: got no time coordinate (found {', '.join(map(str, dataset.variables))}), "
                         "expected `time` or `valid_time` along a dimension. Fix: add one with CF units")  # fmt: skip
    time = dataset[found[0]]
    if not np.issubdtype(time.dtype, np.datetime64):
        raise ValueError(f"{path}: {found[0]} cannot be decoded, got {time.dtype} with units "
                         f"{time.attrs.get('units', 'missing')!r}, expected CF time in the standard calendar. "
                         'Fix: set its units attribute, e.g. "hours since 2024-01-01"')  # fmt: skip
    times = time.values.astype("datetime64[ns]")
    if np.isnat(times).any():
        raise ValueError(f"{path}: {found[0]} has missing entries, expected a time for every field. "
                         "Fix: write the time coordinate again")  # fmt: skip
    return Part(path, dataset, str(time.dims[0]), times)


def fields_of(part: Part) -> list[str]:
    """The names of the arrays over time and two further dimensions, not counting dimensions of length one."""
    out = []
    for name, array in part.dataset.data_vars.items():
        long = [d for d in array.dims if d != part.time and array.sizes[d] > 1]
        if part.time in array.dims and len(long) == 2 and array.dtype.kind in "fiu":
            out.append(str(name))
    return out


def as_field(array: xr.DataArray, time: str) -> xr.DataArray:
    """The array, still lazy, as (time, y, x)."""
    array = array.squeeze([d for d in array.dims if d != time and array.sizes[d] == 1], drop=True)
    y, x = (d for d in array.dims if d != time)
    return array.transpose(time, *((x, y) if str(y).lower() in EAST else (y, x)))


def read(field: xr.DataArray, path: str, name: str) -> np.ndarray:
    """Decoded values as float32; ValueError where a chunk cannot be read."""
    try:
        return field.values.astype(np.float32, copy=False)
    except UNREADABLE as error:
        raise unreadable(path, name, error) from error


def unreadable(path: str, name: str, error: Exception) -> ValueError:
    return ValueError(f"{path}: {name} cannot be read ({error}), expected whole chunks. "
                      "Fix: fetch or write the source again")  # fmt: skip
