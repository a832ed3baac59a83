"""Write zarr stores, training and forecast alike, so that a reader never sees half of one.

Everything goes to `<path>.partial`; `finish` renames it to `path`. A store that was there before
stays until that moment.

How a build goes on after an interruption, and how a finished store grows, is in data/extend.py.
"""

import json
import os
import shutil
import warnings
from itertools import takewhile
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec

from data.command import refuse_file_above
from data.extend import (
    MOVING,
    complete_move,
    count_hours,
    grid_hash,
    left_to_write,
    read_progress,
    remove_hours_from,
)
from data.files import beside, discard, lock, replace, sync
from data.grid import Grid
from data.variables import STATIC, Variable, lookup

# Measured on full-CONUS fields: 9.7 MB an hour for seven variables, read in 29 ms.
COMPRESSION = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle")
KIND = "hourcast_kind"  # attribute that tells our own stores from other people's: "training" or "forecast"
TIME_CHUNK = 8784  # entries: time grows inside one chunk for a year of hours
TIME_UNITS = "seconds since 1970-01-01"


class StoreWriter:
    """Writes a training store hour by hour, in the order of the calls; a context manager.

        with StoreWriter(path, ["T2M"], grid, {"source": "..."}) as store:
            store.write(np.datetime64("2024-01-01T00"), {"T2M": field}, forecast_hour=0)

    Leaving the block by an exception removes the partial store and leaves `path` as it was. `described` has attributes
    of variables that the table does not know.

    With `wanted`, the sorted times that the store is to hold, work goes on where it was interrupted and a store that is
    there is extended (with `replace_old`, replaced when the new one is complete): `todo` has the times that are left to
    write, and an exception keeps the hours that are complete.
    Raises ValueError where `path` holds something that is not a training store of ours, or one that cannot be extended
    to the wanted times, on another grid, of other variables or of another `forecast_hour`.
    """

    def __init__(self, path: str | Path, names: list[str], grid: Grid, attributes: dict, described: dict | None = None,
                 wanted: list[np.datetime64] | None = None, forecast_hour: int = 0,
                 replace_old: bool = False):  # fmt: skip
        self.path, self.names, self.grid = Path(path), names, grid
        self.partial, self.progress = beside(self.path, "partial"), beside(self.path, "progress")
        self.attributes = {"Conventions": "CF-1.10", **attributes, KIND: "training"}
        self.resumable = wanted is not None
        self.todo = list(wanted or [])
        self.times: list[np.datetime64] = []
        self.forecast_hours: list[int] = []
        refuse_foreign(self.path, "training")
        self.lock = lock(self.path) if self.resumable else None
        try:
            self._prepare(described or {}, attributes, forecast_hour, replace_old)
        except BaseException:
            self._unlock()
            if not self.progress.exists():
                discard(self.partial)
            raise

    def _prepare(self, described: dict, attributes: dict, forecast_hour: int, replace_old: bool) -> None:
        """Find out what there is already, and go on with it or begin."""
        self.extends = None  # hours of the finished store that is extended
        if self.resumable:
            complete_move(self.path)
            if self.path.exists() and not replace_old:
                self.extends = count_hours(self.path)
                self.todo = left_to_write(self.path, self.names, self.grid, forecast_hour, self.todo)
        self.idle = self.extends is not None and not self.todo  # nothing to do: nothing is touched
        # Whatever has to be equal for two builds to be one.
        about = {"names": self.names, "grid": grid_hash(self.grid), "extends": self.extends,
                 "source": str(attributes.get("source", "")), "forecast_hour": forecast_hour}  # fmt: skip
        if not self.idle and not (self.resumable and self._resume(about)):
            self._begin(described, about)

    def _begin(self, described: dict, about: dict) -> None:
        """An empty partial store."""
        grid = self.grid
        self.progress.unlink(missing_ok=True)
        start(self.path, "training")
        static = {
            v.name: (grid.dims, grid.static[v.name].astype(np.float32), attributes_of(v, grid))
            for v in STATIC
            if v.name in grid.static
        }
        write_template(xr.Dataset(static, coordinates_of(grid), self.attributes), self.partial, mode="a")
        self.group = zarr.open_group(self.partial, mode="r+")
        for name in self.names:
            self.group.create_array(
                name, shape=(0, *grid.shape), chunks=(1, *grid.shape), dtype="float32",
                fill_value=np.nan, compressors=COMPRESSION, dimension_names=("time", *grid.dims),
                attributes=attributes_of(lookup(name), grid) | described.get(name, {}),
                config={"write_empty_chunks": True},
            )  # fmt: skip
        if self.resumable:
            replace(self.progress, json.dumps(about) + "\n")

    def _resume(self, about: dict) -> bool:
        """Take over the complete hours of an interrupted build of the same store; False where there are none."""
        recorded, hours = read_progress(self.progress)
        if recorded != about or not self.partial.exists():
            return False
        pairs = takewhile(lambda pair: pair[0][0] == pair[1], zip(hours, self.todo, strict=False))
        kept = [hour for hour, _ in pairs]
        if not kept:
            return False
        for left in self.partial.rglob("*.partial"):  # what zarr was writing when it was stopped
            left.unlink()
        self.group = zarr.open_group(self.partial, mode="r+", use_consolidated=False)
        self.times, self.forecast_hours = [t for t, _ in kept], [k for _, k in kept]
        for name in self.names:
            self.group[name].resize((len(kept), *self.grid.shape))
        lines = [f"{np.datetime_as_string(t)} {k}\n" for t, k in kept]
        replace(self.progress, json.dumps(about) + "\n" + "".join(lines))
        self.todo = self.todo[len(kept) :]
        return True

    def write(self, time: np.datetime64, fields: dict[str, np.ndarray], forecast_hour: int = 0) -> None:
        """Append one hour; `fields` has a (y, x) array in table units for every name."""
        assert not self.times or time > self.times[-1], "hours are written in order"
        index = len(self.times)
        for name in self.names:
            array = self.group[name].with_config({"write_empty_chunks": True})
            array.resize((index + 1, *self.grid.shape))
            array[index] = np.asarray(fields[name], np.float32)
        self.times.append(time)
        self.forecast_hours.append(forecast_hour)
        if self.resumable:
            for name in self.names:
                sync(self.partial / name / "c" / str(index) / "0" / "0")
            with self.progress.open("a") as file:
                file.write(f"{np.datetime_as_string(time.astype('datetime64[ns]'))} {forecast_hour}\n")
                file.flush()
                os.fsync(file.fileno())

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if self.idle:
                return
            if kind is not None:
                if self.resumable and self.times:
                    print(f"{len(self.times)} complete hours are kept in {self.partial}; the same command goes on")
                else:
                    discard(self.partial)
                    self.progress.unlink(missing_ok=True)
                return
            write_template(time_template(self.times, self.forecast_hours, self.attributes), self.partial, mode="a")
            if self.extends is None:
                finish(self.partial, self.path)
                self.progress.unlink(missing_ok=True)
                return
            # From this line on the move is completed by whoever opens the store for writing next.
            remove_hours_from(self.path, self.names, self.extends)
            with self.progress.open("a") as file:
                file.write(MOVING + "\n")
            complete_move(self.path)
        finally:
            self._unlock()

    def _unlock(self) -> None:
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None


def start(path: Path, kind: str) -> Path:
    """An empty `<path>.partial`; ValueError where `path` holds something other than our store of this kind."""
    refuse_foreign(path, kind)
    partial = beside(path, "partial")
    partial.mkdir(parents=True, exist_ok=True)
    for left in partial.iterdir():  # the folder itself stays: the lock is on it
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    return partial


def refuse_foreign(path: Path, kind: str) -> None:
    """ValueError where `path` holds something other than our store of this kind, or cannot become a folder."""
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


def finish(partial: Path, path: Path) -> None:
    """Consolidate the metadata of a complete store and move it to its place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr says that consolidation is not yet in the v3 specification
        zarr.consolidate_metadata(partial)
    old = beside(path, "old")
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


def time_template(times: list[np.datetime64], forecast_hours: list[int], attributes: dict) -> xr.Dataset:
    """The time coordinate and the kind of every hour."""
    described = {"long_name": "0: analysis (f00), 1: forecast of one hour (f01)", "units": "1"}
    kinds = (("time",), np.asarray(forecast_hours, np.int8), described)
    out = xr.Dataset({"forecast_hour": kinds}, {"time": np.asarray(times, "datetime64[ns]")}, attributes)
    out["time"].attrs = {"standard_name": "time", "long_name": "valid time, UTC"}
    out["time"].encoding = {"units": TIME_UNITS, "dtype": "int64", "chunks": (TIME_CHUNK,)}
    out["forecast_hour"].encoding = {"chunks": (TIME_CHUNK,)}
    return out
