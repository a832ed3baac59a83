"""The metadata of our stores, training and forecast alike: coordinates, attributes, packing."""

import warnings
from pathlib import Path

import numpy as np
import xarray as xr
from zarr.codecs import BloscCodec

from data.grid import Grid
from data.variables import Variable

# Lossless, because source values are rounded already: docs/data.md.
COMPRESSION = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle")
KIND = "hourcast_kind"  # attribute that tells our own stores from other people's: "training" or "forecast"
TIME_CHUNK = 8784  # entries: time grows inside one chunk for a year of hours
TIME_UNITS = "seconds since 1970-01-01"


def write_template(dataset: xr.Dataset, path: Path, mode: str = "w") -> None:
    """Write a small dataset (coordinates, static fields) without consolidating it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.to_zarr(path, mode=mode, zarr_format=3, consolidated=False)


def coordinates_of(grid: Grid) -> dict:
    """The xarray coordinates that describe a grid, in its own dimension names."""
    out: dict = {}
    if grid.y is not None and grid.x is not None:
        for axis, values in ((0, grid.y), (1, grid.x)):
            name = "yx"[axis]
            attributes = {"units": "m", "standard_name": f"projection_{name}_coordinate"}
            out[grid.dims[axis]] = ((grid.dims[axis],), values, attributes)
    if grid.latitude is not None:
        for name, values, units in (
            ("latitude", grid.latitude, "degrees_north"),
            ("longitude", grid.longitude, "degrees_east"),
        ):
            attributes = {"units": units, "standard_name": name}
            if name in grid.dims:
                axis = grid.dims.index(name)
                out[name] = ((name,), values[:, 0] if axis == 0 else values[0], attributes)
            else:
                out[name] = (grid.dims, values, attributes)
    if grid.projection:
        out["spatial_ref"] = ((), np.int32(0), grid.projection)
    return out


def attributes_of(variable: Variable, grid: Grid) -> dict:
    """The CF attributes of a variable's array."""
    out = {"units": variable.units, "long_name": variable.long_name, "standard_name": variable.standard_name}
    if grid.projection:
        out["grid_mapping"] = "spatial_ref"
    return {k: v for k, v in out.items() if v}


def time_template(times: list[np.datetime64], forecast_hours: list[int], attributes: dict) -> xr.Dataset:
    """The time coordinate and the kind of every hour."""
    described = {"long_name": "0: analysis (f00), 1: forecast of one hour (f01)", "units": "1"}
    kinds = (("time",), np.asarray(forecast_hours, np.int8), described)
    out = xr.Dataset({"forecast_hour": kinds}, {"time": np.asarray(times, "datetime64[ns]")}, attributes)
    out["time"].attrs = {"standard_name": "time", "long_name": "valid time, UTC"}
    out["time"].encoding = {"units": TIME_UNITS, "dtype": "int64", "chunks": (TIME_CHUNK,)}
    out["forecast_hour"].encoding = {"chunks": (TIME_CHUNK,)}
    return out
