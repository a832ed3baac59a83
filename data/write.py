"""Write zarr stores, training and forecast alike, so that a reader never sees half of one.

Everything goes to `<path>.partial`; `finish` renames it to `path`. A store that was there before
stays until that moment.

A training store can be built with interruptions and extended. `<path>.progress` lists the hours that lie complete
and synced in `<path>.partial`; the next writer keeps them. Hours that extend a finished store are gathered there
too, and only then moved behind the last hour of `path`, where its metadata does not reach yet. What makes them
visible is one rename, of the zarr.json that holds the consolidated metadata: before it readers see the old hours,
after it all of them.
"""

import fcntl
import hashlib
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
from data.grid import Grid, read_grid, same_grid
from data.times import show
from data.variables import STATIC, TABLE, Variable, lookup

# Measured on full-CONUS fields: 9.7 MB an hour for seven variables, read in 29 ms.
COMPRESSION = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle")
KIND = "hourcast_kind"  # attribute that tells our own stores from other people's: "training" or "forecast"


TIME_CHUNK = 8784  # entries: time grows inside one chunk for a year of hours
TIME_UNITS = "seconds since 1970-01-01"
MOVING = "moving"  # line of the progress file after which every hour is complete and is being put in place


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


def beside(path: Path, ending: str) -> Path:
    """`<path>.<ending>`"""
    return path.with_name(f"{path.name}.{ending}")


def discard(partial: Path) -> None:
    """Remove a store that was not completed."""
    shutil.rmtree(partial, ignore_errors=True)


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


def read_progress(progress: Path) -> tuple[dict, list[tuple[np.datetime64, int]]]:
    """What is being built, and the hours that are complete; empty where there is no such file."""
    if not progress.exists():
        return {}, []
    lines = [line for line in progress.read_text().splitlines(keepends=True) if line.endswith("\n")]
    hours = [line.split() for line in lines[1:] if line.strip() != MOVING]
    return (json.loads(lines[0]) if lines else {}), [(np.datetime64(t, "ns"), int(k)) for t, k in hours]


def left_to_write(path: Path, names, grid: Grid, forecast_hour: int, wanted: list) -> list[np.datetime64]:
    """The wanted times after the last one of the store; ValueError where they do not fit into it."""
    fix = "Fix: another --out, or remove the store to build it anew"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = xr.open_zarr(path, chunks=None, decode_timedelta=False)
    held = [str(n) for n, v in dataset.data_vars.items() if v.ndim == 3]
    if set(held) != set(names):
        held.sort(key=lambda n: [*(v.name for v in TABLE), n].index(n))
        raise ValueError(f"{path}: holds {' '.join(held)}, got {' '.join(names)} to add, expected the same. {fix}")
    there = read_grid(dataset, dataset[held[0]].dims[1:])
    axes = [(a, b) for a, b in ((there.y, grid.y), (there.x, grid.x)) if a is not None and b is not None]
    if not same_grid(there, grid) or not all(np.allclose(a, b, atol=1) for a, b in axes):
        raise ValueError(f"{path}: holds another grid, {there.shape} cells, got {grid.shape}, expected the same. {fix}")
    kinds = sorted(set(dataset["forecast_hour"].values.tolist())) if "forecast_hour" in dataset else [forecast_hour]
    if kinds != [forecast_hour]:
        raise ValueError(f"{path}: holds hours of f{kinds[0]:02d}, got f{forecast_hour:02d}, expected the same. {fix}")
    times = dataset["time"].values.astype("datetime64[ns]")
    early = [t for t in wanted if t <= times[-1] and t not in times]
    if early:
        raise ValueError(f"{path}: ends at {show(times[-1])} and lacks {len(early)} of the wanted hours before that, "
                         f"the first {show(early[0])}; expected hours after its end. {fix}")  # fmt: skip
    return [t for t in wanted if t > times[-1]]


def complete_move(path: Path) -> None:
    """Put the gathered hours behind the last one of the store, where they were complete; else do nothing."""
    partial, progress = beside(path, "partial"), beside(path, "progress")
    old = beside(path, "old")
    if old.exists() and not path.exists():  # stopped between the two renames of `finish`
        old.rename(path)
    if not progress.exists() or not progress.read_text().endswith(f"\n{MOVING}\n"):
        return
    about, hours = read_progress(progress)
    first, last = about["extends"], about["extends"] + len(hours)
    for name in about["names"]:
        for index in range(len(hours)):
            if (chunk := partial / name / "c" / str(index)).exists():
                chunk.rename(path / name / "c" / str(first + index))
    root = json.loads((path / "zarr.json").read_text())
    metadata = root["consolidated_metadata"]["metadata"]
    for name in (*about["names"], "forecast_hour", "time"):
        metadata[name]["shape"][0] = last
        replace(path / name / "zarr.json", json.dumps(metadata[name]))
    seconds = [int(t.astype("datetime64[s]").astype("int64")) for t, _ in hours]
    zarr.open_array(path / "time", mode="r+")[first:last] = np.asarray(seconds, np.int64)
    zarr.open_array(path / "forecast_hour", mode="r+")[first:last] = np.asarray([k for _, k in hours], np.int8)
    added = json.loads((partial / "zarr.json").read_text())["attributes"].get("history", "")
    root["attributes"]["history"] = "\n".join(x for x in (root["attributes"].get("history", ""), added) if x)
    replace(path / "zarr.json", json.dumps(root))  # now the hours are visible
    discard(partial)
    progress.unlink()


def remove_hours_from(path: Path, names: list[str], first: int) -> None:
    """Remove chunks behind the last hour of a store, that nothing refers to."""
    for name in names:
        for chunk in (path / name / "c").iterdir():
            if chunk.name.isdigit() and int(chunk.name) >= first:
                shutil.rmtree(chunk)


def count_hours(path: Path) -> int:
    """The visible hours of a store of ours."""
    return int(json.loads((path / "zarr.json").read_text())["consolidated_metadata"]["metadata"]["time"]["shape"][0])


def grid_hash(grid: Grid) -> str:
    """A hash over everything that describes a grid."""
    digest = hashlib.sha256(repr((grid.shape, grid.dims, sorted(grid.projection.items()))).encode())
    for name, values in sorted({**vars(grid), **grid.static}.items()):
        if isinstance(values, np.ndarray):
            digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def lock(path: Path) -> int:
    """A lock on building `path`, held until the returned file is closed; ValueError where another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path if path.exists() else beside(path, "partial")
    folder.mkdir(exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ValueError(f"{path}: another process is building it, expected one at a time. Fix: wait for it") from None
    except OSError:  # a file system without locks
        pass
    return handle


def replace(path: Path, text: str) -> None:
    """Write a text file in one step: a reader sees the old one or the new one."""
    temporary = beside(path, "tmp")
    temporary.write_text(text)
    sync(temporary)
    os.replace(temporary, path)


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
