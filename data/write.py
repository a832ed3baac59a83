"""Write stores so that a reader never sees half of one. Everything is prepared in a folder beside the store:

    <path>.partial/hours       a zarr group whose arrays are longer than any record: an hour lies at the second of its
                               valid time, so hours may come in any order and from any process
    <path>.partial/progress    what is being built, then a line for every hour that is complete and synced
    <path>.partial/store       a new store, without its hours
    <path>.partial/commit      written when all hours are there: their times and where they belong

Then the hours are renamed to their numbers in the record: in the new store, or behind the last hour of `path`, which
its metadata does not reach yet. One rename makes them visible: of the whole store, or of the zarr.json with the
consolidated metadata. Whoever opens the store for writing completes a commit that was interrupted.
"""

import fcntl
import hashlib
import json
import os
import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

from data.command import fault
from data.grid import Grid, read_grid, same_grid
from data.metadata import (
    CODECS,
    KIND,
    TIME_UNITS,
    attributes_of,
    beside,
    coordinate_names,
    coordinates_of,
    create_array,
    refuse_foreign,
    replace,
    sync,
    write_template,
)
from data.store import open_zarr, standard
from data.times import FIRST, show
from data.variables import STATIC, TABLE, lookup

LENGTH = 2**35  # seconds, a thousand years: the length of the first axis of <path>.partial/hours
TIME_CHUNK = 8784  # entries: time grows inside one chunk for a year of hours
ALONG_TIME = (
    ("time", "int64", {"standard_name": "time", "long_name": "valid time, UTC", "units": TIME_UNITS,
                       "calendar": "proleptic_gregorian"}),
    ("forecast_hour", "int8", {"long_name": "0: analysis (f00), 1: forecast of one hour (f01)", "units": "1"}),
)  # fmt: skip
KIND_OF = "forecast_hour"  # attribute of a variable whose hours are of another kind (0: f00, 1: f01) than the others
WIND = "wind_reference"  # attribute of winds: "grid" if they point along its x and y, "earth" if east and north


class Writer:
    """What the writers of training and forecast stores share: a lock, the folder <path>.partial, one publication.

    A context manager that calls `_begin(*arguments)` when it is made and `_finish()` when the block ends well. After an
    exception `path` is as it was. ValueError if `path` holds something else or another process is writing it."""

    kind = ""  # of stores
    keep = False  # whether <path>.partial holds hours for a later run

    def __init__(self, path: str | Path, *arguments):
        self.path, self.partial = Path(path), beside(Path(path), "partial")
        self.new = self.partial / "store"
        refuse_foreign(self.path, self.kind)
        self.lock = lock(self.path)
        try:
            self._begin(*arguments)
        except BaseException as error:
            self._leave(error)
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if error is None:
                self._finish()
        except BaseException as failure:
            error = failure
            raise
        finally:
            self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        """Release the lock. An OSError without a file name gets that of the store."""
        if isinstance(error, OSError) and not error.filename:
            error.filename = str(self.path)
        try:
            restore(self.path)
            if not self.keep:
                shutil.rmtree(self.partial, ignore_errors=True)
        finally:
            os.close(self.lock)


class Staging:
    """The folder <path>.partial/hours, into which any process may write hours. Can be pickled."""

    def __init__(self, folder: Path, names: list[str], durable: bool):
        self.folder, self.names, self.durable = folder.absolute(), names, durable
        self.arrays: dict[str, zarr.Array] = {}

    def __getstate__(self) -> dict:
        return {**vars(self), "arrays": {}}

    def write(self, time: np.datetime64, fields: dict[str, np.ndarray]) -> None:
        """Write one hour; `fields` has a (y, x) array in table units for every name."""
        if not self.arrays:
            group = zarr.open_group(self.folder, mode="r+", use_consolidated=False)
            self.arrays = {n: group[n].with_config({"write_empty_chunks": True}) for n in self.names}
        for name, array in self.arrays.items():
            array[place_of(time)] = np.asarray(fields[name], np.float32)
            if self.durable:
                sync(self.folder / name / "c" / str(place_of(time)) / "0" / "0")

    def has(self, time: np.datetime64) -> bool:
        """Whether all fields of an hour exist."""
        return all((self.folder / n / "c" / str(place_of(time)) / "0" / "0").exists() for n in self.names)


class StoreWriter(Writer):
    """Writes a training store hour by hour, in any order; a context manager.

        with StoreWriter(path, ["T2M"], grid, {"source": "..."}) as store:
            store.write(np.datetime64("2024-01-01T00"), {"T2M": field})

    `described`: further attributes of variables, such as wind_reference. `forecast_hour`: 0 for analyses, 1 for 1-hour
    forecasts. With `wanted`, the sorted times that the store is to hold, work goes on where it was interrupted, an
    exception keeps the hours that are complete, and a finished store is extended (with `replace_old`, replaced). `todo`
    has the times that are left to write. Other processes may write hours through `staging`; then `add` records them
    here. ValueError also for a store that cannot be extended (`left_to_write`).
    """

    kind = "training"

    def __init__(self, path: str | Path, names: list[str], grid: Grid, attributes: dict, described: dict | None = None,
                 wanted: list | None = None, forecast_hour: int = 0, replace_old: bool = False):  # fmt: skip
        self.names, self.grid, self.attributes, self.described = names, grid, attributes, described or {}
        self.forecast_hour, self.durable, self.todo = forecast_hour, wanted is not None, list(wanted or [])
        self.hours: set[np.datetime64] = set()  # complete so far
        self.first: int | None = None  # hours of the finished store that is extended
        super().__init__(path, self.durable and not replace_old)

    def _begin(self, extend: bool) -> None:
        self.progress = self.partial / "progress"
        self.staging = Staging(self.partial / "hours", self.names, self.durable)
        complete(self.path)
        if extend and self.path.exists():
            self.first = zarr.open_group(self.path, mode="r")["time"].shape[0]
            self.todo = left_to_write(self.path, self.names, self.grid, self.described, self.forecast_hour, self.todo)
            if not self.todo:
                return
        # whatever has to be equal for two builds to be one
        grid = hashlib.sha256(pickle.dumps(self.grid)).hexdigest()
        about = {"names": self.names, "grid": grid, "extends": self.first, "described": self.described,
                 "source": str(self.attributes.get("source", "")), "forecast_hour": self.forecast_hour}  # fmt: skip
        self._resume(json.dumps(about))
        if self.hours:
            return
        empty(self.partial)
        if self.first is None:
            self._create()
        group = zarr.open_group(self.staging.folder, mode="w")
        for name in self.names:
            create_array(group, name, (LENGTH, *self.grid.shape), ("time", *self.grid.dims), {})
        replace(self.progress, json.dumps(about) + "\n")

    def _resume(self, about: str) -> None:
        """Take over the complete hours of an interrupted build of the same store."""
        first, *lines = self.progress.read_text().split("\n") if self.durable and self.progress.exists() else [""]
        if first == about:
            # A power cut may leave the line of an hour without its chunks, which were synced and their folders not.
            recorded = {np.datetime64(line, "ns") for line in lines[:-1]}  # behind the last newline: half a line
            self.hours = {t for t in recorded.intersection(self.todo) if self.staging.has(t)}
            self.todo = [t for t in self.todo if t not in self.hours]
            replace(self.progress, "\n".join([first, *map(str, sorted(self.hours)), ""]))

    def _create(self) -> None:
        """A new store without hours."""
        grid = self.grid
        fields = {v: grid.static[v.name].astype(np.float32) for v in STATIC if v.name in grid.static}
        static = {v.name: (grid.dims, x, attributes_of(v, grid), coordinate_names(v, grid)) for v, x in fields.items()}
        attributes = {"Conventions": "CF-1.11", "title": "hourcast training store", **self.attributes, KIND: self.kind}
        coordinates = coordinates_of(grid, [lookup(n) for n in self.names])
        group = write_template(xr.Dataset(static, coordinates, attributes), self.new)
        for name in self.names:
            entry = lookup(name)
            about = attributes_of(entry, grid) | coordinate_names(entry, grid) | self.described.get(name, {})
            create_array(group, name, (0, *grid.shape), ("time", *grid.dims), about)
        for name, dtype, about in ALONG_TIME:
            group.create_array(name, shape=(0,), chunks=(TIME_CHUNK,), dtype=dtype, compressors=CODECS,
                               dimension_names=("time",), attributes=about)  # fmt: skip

    def write(self, time: np.datetime64, fields: dict[str, np.ndarray]) -> None:
        """Write one hour; `fields` has a (y, x) array in table units for every name."""
        self.staging.write(time, fields)
        self.add(time)

    def add(self, time: np.datetime64) -> None:
        """Record an hour that was written through `staging`, whole."""
        time = time.astype("datetime64[ns]")
        assert time not in self.hours, "an hour is written once"
        self.hours.add(time)
        if self.durable:
            with self.progress.open("a") as file:
                file.write(f"{time}\n")
                file.flush()
                os.fsync(file.fileno())

    def _finish(self) -> None:
        if not self.hours:
            return
        seconds = [int(t.astype("datetime64[s]").astype("int64")) for t in sorted(self.hours)]
        before = "" if self.first is None else zarr.open_group(self.path, mode="r").attrs.get("history", "")
        history = "\n".join(x for x in (before, self.attributes.get("history", "")) if x)
        commit = {"names": self.names, "first": self.first, "kind": self.forecast_hour, "seconds": seconds,
                  "history": history, "durable": self.durable}  # fmt: skip
        replace(self.partial / "commit", json.dumps(commit))
        complete(self.path)

    @property
    def keep(self) -> bool:
        return self.durable and self.progress.exists() and self.progress.read_text().count("\n") > 1

    def _leave(self, error: BaseException | None) -> None:
        if error is not None and self.keep and self.hours:
            print(f"{len(self.hours)} complete hours are kept in {self.partial}; the same command goes on")
        super()._leave(error)


def place_of(time: np.datetime64) -> int:
    """Where an hour lies along the first axis of <path>.partial/hours."""
    return int((time.astype("datetime64[s]") - FIRST).astype("int64"))


def complete(path: Path) -> None:
    """Make the hours visible if all were complete; else do nothing. May be interrupted and repeated."""
    partial = beside(path, "partial")
    if not (partial / "commit").exists():
        return
    commit = json.loads((partial / "commit").read_text())
    first, seconds = commit["first"] or 0, commit["seconds"]
    into = partial / "store" if commit["first"] is None else path
    if into.exists():  # else the last rename was done already
        for name in commit["names"]:
            (into / name / "c").mkdir(exist_ok=True)
            for index, second in enumerate(seconds, first):
                chunk = partial / "hours" / name / "c" / str(place_of(np.datetime64(second, "s")))
                if chunk.exists():
                    chunk.rename(into / name / "c" / str(index))
        group = zarr.open_group(into, mode="r+", use_consolidated=False)
        for name in (*commit["names"], "time", "forecast_hour"):
            group[name].resize((first + len(seconds), *group[name].shape[1:]))
        group["time"][first:], group["forecast_hour"][first:] = seconds, commit["kind"]
        if commit["history"]:
            zarr.open_group(into, mode="r+").update_attributes({"history": commit["history"]})
        if commit["durable"]:
            os.sync()
        if into == path:
            consolidate(path)
        else:
            publish(into, path)
    (partial / "progress").unlink(missing_ok=True)
    empty(partial)


def left_to_write(path: Path, names, grid: Grid, described: dict, forecast_hour: int, wanted: list) -> list:
    """The wanted times after the last one of the store; ValueError if they do not fit into it."""
    dataset, held = standard(str(path), open_zarr(path))
    held.sort(key=lambda n: [*(v.name for v in TABLE), n].index(n))
    there = read_grid(dataset, dataset[held[0]].dims[1:])
    axes = [(a, b) for a, b in ((there.y, grid.y), (there.x, grid.x)) if a is not None and b is not None]
    kinds = sorted(set(dataset["forecast_hour"].values.tolist()))
    times = dataset["time"].values.astype("datetime64[ns]")
    early = [t for t in wanted if t <= times[-1] and t not in times]
    if set(held) != set(names):
        wrong = f"holds {' '.join(held)}, got {' '.join(names)} to add, expected the same"
    elif not same_grid(there, grid) or not all(np.allclose(a, b, atol=1) for a, b in axes):
        wrong = f"holds another grid, {there.shape} cells, got {grid.shape}, expected the same"
    elif winds := [n for n in held if dataset[n].attrs.get(WIND, default := described.get(n, {}).get(WIND)) != default]:
        wrong = f"holds {winds[0]} along the {dataset[winds[0]].attrs[WIND]}, got others, expected the same"
    elif other := [n for n in held if dataset[n].attrs.get(KIND_OF, "") != described.get(n, {}).get(KIND_OF, "")]:
        wrong = f"holds {other[0]} of another kind of hours (f00, f01) than that to add, expected the same"
    elif kinds != [forecast_hour]:
        wrong = f"holds hours of f{kinds[0]:02d}, got f{forecast_hour:02d}, expected the same"
    elif early:
        wrong = (f"ends at {show(times[-1])} and lacks {len(early)} of the wanted hours before that, the first "
                 f"{show(early[0])}; expected hours after its end")  # fmt: skip
    else:
        return [t for t in wanted if t > times[-1]]
    raise ValueError(f"{path}: {wrong}. Fix: another --out, or remove the store to build it anew")


# --- folders that change in one step ---


def lock(path: Path) -> int:
    """A lock on writing the store `path`, held until the returned handle is closed: on the folder <path>.partial.
    ValueError if another process has it."""
    partial = beside(path, "partial")
    partial.mkdir(parents=True, exist_ok=True)
    handle = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise fault(path, "another process that is building it", "one at a time", "wait for it") from None
    except OSError:  # a file system without locks
        pass
    restore(path)
    return handle


def empty(folder: Path) -> None:
    """Remove what a folder holds; the folder itself stays, as a lock is on it."""
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def consolidate(path: Path) -> None:
    """Write the metadata of all arrays into one file, which readers of a finished store take."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr says that consolidation is not yet in the v3 specification
        zarr.consolidate_metadata(path)


def publish(new: Path, path: Path) -> None:
    """Move a complete store to its place."""
    consolidate(new)
    old = beside(path, "old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def restore(path: Path) -> None:
    """Put the store back that was replaced when `publish` was interrupted between its two renames."""
    old = beside(path, "old")
    if old.exists() and not path.exists():
        old.rename(path)
