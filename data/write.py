"""Write zarr stores, training and forecast alike, so that a reader never sees half of one.

Everything goes to `<path>.partial`; `finish` renames it to `path`. A store that was there before
stays until that moment.
"""

import shutil
import warnings
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec

from data.command import refuse_file_above
from data.grid import Grid
from data.variables import STATIC, Variable, lookup

# Measured on full-CONUS fields: 9.7 MB an hour for seven variables, read in 29 ms.
COMPRESSION = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle")
KIND = "hourcast_kind"  # attribute that tells our own stores from other people's: "training" or "forecast"


class StoreWriter:
    """Writes a training store hour by hour, in the order of the calls; a context manager.

        with StoreWriter(path, ["T2M"], grid, {"source": "..."}) as store:
            store.write(np.datetime64("2024-01-01T00"), {"T2M": field}, forecast_hour=0)

    Leaving the block by an exception removes the partial store and leaves `path` as it was.
    Raises ValueError where `path` holds something that is not a training store of ours.
    """

    def __init__(self, path: str | Path, names: list[str], grid: Grid, attributes: dict):
        self.path, self.names, self.grid = Path(path), names, grid
        self.partial = start(self.path, "training")
        static = {
            v.name: (grid.dims, grid.static[v.name].astype(np.float32), attributes_of(v, grid))
            for v in STATIC
            if v.name in grid.static
        }
        self.attributes = {"Conventions": "CF-1.10", **attributes, KIND: "training"}
        write_template(xr.Dataset(static, coordinates_of(grid), self.attributes), self.partial)
        self.times: list[np.datetime64] = []
        self.forecast_hours: list[int] = []
        self.group = zarr.open_group(self.partial, mode="r+")
        for name in names:
            self.group.create_array(
                name, shape=(0, *grid.shape), chunks=(1, *grid.shape), dtype="float32",
                fill_value=np.nan, compressors=COMPRESSION, dimension_names=("time", *grid.dims),
                attributes=attributes_of(lookup(name), grid),
            )  # fmt: skip

    def write(self, time: np.datetime64, fields: dict[str, np.ndarray], forecast_hour: int = 0) -> None:
        """Append one hour; `fields` has a (y, x) array in table units for every name."""
        assert not self.times or time > self.times[-1], "hours are written in order"
        for name in self.names:
            array = self.group[name]
            array.resize((len(self.times) + 1, *self.grid.shape))
            array[len(self.times)] = np.asarray(fields[name], np.float32)
        self.times.append(time)
        self.forecast_hours.append(forecast_hour)

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None:
            discard(self.partial)
            return
        hours = np.asarray(self.forecast_hours, np.int8)
        described = {"long_name": "0: analysis (f00), 1: forecast of one hour (f01)", "units": "1"}
        time = xr.Dataset(
            {"forecast_hour": (("time",), hours, described)},
            {"time": np.asarray(self.times, "datetime64[ns]")},
            self.attributes,
        )
        time["time"].attrs = {"standard_name": "time", "long_name": "valid time, UTC"}
        time["time"].encoding = {
            "units": "seconds since 1970-01-01",
            "dtype": "int64",
            "chunks": (max(len(self.times), 1),),
        }
        write_template(time, self.partial, mode="a")
        finish(self.partial, self.path)


def start(path: Path, kind: str) -> Path:
    """An empty `<path>.partial`; ValueError where `path` holds something other than our store of this kind."""
    if path.exists():
        found = None
        if path.is_dir():
            try:
                found = zarr.open_group(path, mode="r").attrs.get(KIND)
            except Exception:  # not zarr at all
                found = None
        if found != kind:
            what = f"a {found} store" if found else "something else"
            raise ValueError(
                f"{path}: holds {what}, expected a free path or a {kind} store to replace. Fix: choose another path"
            )
    refuse_file_above(path.parent, "out")
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    return partial


def discard(partial: Path) -> None:
    """Remove a store that was not completed."""
    shutil.rmtree(partial, ignore_errors=True)


def finish(partial: Path, path: Path) -> None:
    """Consolidate the metadata of a complete store and move it to its place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr says that consolidation is not yet in the v3 specification
        zarr.consolidate_metadata(partial)
    old = path.with_name(path.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    partial.rename(path)
    shutil.rmtree(old, ignore_errors=True)


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
