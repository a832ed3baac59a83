"""Write training stores so that a reader never sees half of one.

    <path>.partial     a zarr group whose arrays are longer than any record: an hour lies at the second of its valid
                       time, so hours may come in any order and from any process
    <path>.progress    what is being built, then a line for every hour that is complete and synced

When all hours are there, they are renamed to their numbers in the record: within the partial store if it is new, else
behind the last hour of `path`, which its metadata does not reach yet. One rename makes them visible: of the whole
store, or of the zarr.json with the consolidated metadata. A line of the progress file says that this has begun, and
whoever opens the store for writing completes it.
"""

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

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
    empty,
    lock,
    publish,
    refuse_foreign,
    replace,
    sync,
    write_template,
)
from data.store import field_names, open_zarr
from data.times import FIRST, show
from data.variables import STATIC, TABLE, lookup

LENGTH = 2**35  # seconds, a thousand years: the length of the partial store's first axis
TIME_CHUNK = 8784  # entries: time grows inside one chunk for a year of hours
ALONG_TIME = (
    ("time", "int64", {"standard_name": "time", "long_name": "valid time, UTC", "units": TIME_UNITS,
                       "calendar": "proleptic_gregorian"}),
    ("forecast_hour", "int8", {"long_name": "0: analysis (f00), 1: forecast of one hour (f01)", "units": "1"}),
)  # fmt: skip
TOGETHER = 2  # variables that are compressed at the same time
WIND = "wind_reference"  # attribute of winds: "grid" if they point along its x and y, "earth" if east and north
MOVING = "moving"  # line of the progress file: every hour is complete and is being put in place


class Staging:
    """The partial store at <path>.partial, into which any process may write hours. Can be pickled."""

    def __init__(self, path: Path, names: list[str], durable: bool):
        self.partial, self.names, self.durable = beside(path.absolute(), "partial"), names, durable
        self.arrays: dict[str, zarr.Array] = {}

    def __getstate__(self) -> dict:
        return {**vars(self), "arrays": {}}

    def write(self, time: np.datetime64, fields: dict[str, np.ndarray]) -> None:
        """Write one hour; `fields` has a (y, x) array in table units for every name."""
        if not self.arrays:
            group = zarr.open_group(self.partial, mode="r+", use_consolidated=False)
            self.arrays = {n: group[n].with_config({"write_empty_chunks": True}) for n in self.names}

        def put(name: str) -> None:
            self.arrays[name][place_of(time)] = np.asarray(fields[name], np.float32)
            if self.durable:
                sync(self.chunk(name, time) / "0" / "0")

        with ThreadPoolExecutor(TOGETHER) as pool:
            list(pool.map(put, self.names))

    def chunk(self, name: str, time: np.datetime64) -> Path:
        """The folder of one field."""
        return self.partial / name / "c" / str(place_of(time))


class StoreWriter:
    """Writes a training store hour by hour, in any order; a context manager.

        with StoreWriter(path, ["T2M"], grid, {"source": "..."}) as store:
            store.write(np.datetime64("2024-01-01T00"), {"T2M": field}, forecast_hour=0)

    Leaving the block by an exception removes the partial store and leaves `path` as it was. `described`: further
    attributes of variables, such as wind_reference.

    With `wanted`, the sorted times that the store is to hold, work goes on where it was interrupted, an exception keeps
    the hours that are complete, and a finished store is extended (with `replace_old`, replaced). `todo` has the times
    that are left to write. Other processes may write hours through `staging`; then `add` records them here.
    ValueError if `path` holds something else, or a store that cannot be extended (`left_to_write`).
    """

    def __init__(self, path: str | Path, names: list[str], grid: Grid, attributes: dict, described: dict | None = None,
                 wanted: list | None = None, forecast_hour: int = 0, replace_old: bool = False):  # fmt: skip
        self.path, self.names, self.grid = Path(path), names, grid
        self.resumable = wanted is not None
        self.todo = list(wanted or [])
        self.staging = Staging(self.path, names, self.resumable)
        self.progress = beside(self.path, "progress")
        self.hours: dict[np.datetime64, int] = {}  # complete so far: kind of each
        refuse_foreign(self.path, "training")
        self.lock = lock(self.path)
        try:
            complete_move(self.path)
            extends = None  # hours of the finished store that is extended
            if self.resumable and self.path.exists() and not replace_old:
                extends = count_hours(self.path)
                self.todo = left_to_write(self.path, names, grid, described or {}, forecast_hour, self.todo)
            self.idle = extends is not None and not self.todo
            # Whatever has to be equal for two builds to be one.
            about = {"names": names, "grid": grid_hash(grid), "extends": extends, "described": described or {},
                     "source": str(attributes.get("source", "")), "forecast_hour": forecast_hour}  # fmt: skip
            if not self.idle and not (self.resumable and self._resume(about)):
                self._begin(about, described or {}, attributes)
        except BaseException:
            self._leave()
            raise

    def _begin(self, about: dict, described: dict, attributes: dict) -> None:
        """An empty partial store."""
        grid, partial = self.grid, self.staging.partial
        self.progress.unlink(missing_ok=True)
        partial.mkdir(exist_ok=True)
        empty(partial)
        fields = {v: grid.static[v.name].astype(np.float32) for v in STATIC if v.name in grid.static}
        static = {v.name: (grid.dims, x, attributes_of(v, grid), coordinate_names(v, grid)) for v, x in fields.items()}
        attributes = {"Conventions": "CF-1.11", "title": "hourcast training store", **attributes, KIND: "training"}
        write_template(xr.Dataset(static, coordinates_of(grid, [lookup(n) for n in self.names]), attributes), partial)
        group = zarr.open_group(partial, mode="r+")
        for name in self.names:
            entry = lookup(name)
            about_it = attributes_of(entry, grid) | coordinate_names(entry, grid) | described.get(name, {})
            create_array(group, name, (LENGTH, *grid.shape), ("time", *grid.dims), about_it)
        for name, dtype, about_it in ALONG_TIME:
            group.create_array(name, shape=(0,), chunks=(TIME_CHUNK,), dtype=dtype, compressors=CODECS,
                               dimension_names=("time",), attributes=about_it)  # fmt: skip
        replace(self.progress, json.dumps(about) + "\n")

    def _resume(self, about: dict) -> bool:
        """Take over the complete hours of an interrupted build of the same store; False if there are none."""
        recorded, hours = read_progress(self.progress)
        if recorded != about:
            return False
        for time in sorted(set(self.todo) & hours.keys()):
            # A power cut may leave the line of an hour without its chunks, which were synced and their folders not.
            if all((self.staging.chunk(name, time) / "0" / "0").exists() for name in self.names):
                self.hours[time] = hours[time]
        if not self.hours:
            return False
        for left in self.staging.partial.rglob("*.partial"):  # what zarr was writing when it was stopped
            left.unlink(missing_ok=True)
        lines = [f"{np.datetime_as_string(t)} {k}\n" for t, k in self.hours.items()]
        replace(self.progress, json.dumps(about) + "\n" + "".join(lines))
        self.todo = [t for t in self.todo if t not in self.hours]
        return True

    def write(self, time: np.datetime64, fields: dict[str, np.ndarray], forecast_hour: int = 0) -> None:
        """Write one hour; `fields` has a (y, x) array in table units for every name."""
        self.staging.write(time, fields)
        self.add(time, forecast_hour)

    def add(self, time: np.datetime64, forecast_hour: int = 0) -> None:
        """Record an hour that was written through `staging`, whole."""
        assert time not in self.hours, "an hour is written once"
        self.hours[time] = forecast_hour
        self._note(f"{np.datetime_as_string(time.astype('datetime64[ns]'))} {forecast_hour}")

    def _note(self, line: str) -> None:
        with self.progress.open("a") as file:
            file.write(line + "\n")
            if self.resumable:
                file.flush()
                os.fsync(file.fileno())

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if self.idle:
                return
            if kind is None:
                kept = {str(place_of(t)) for t in self.hours}
                for name in self.names:  # hours of an earlier, longer build
                    for chunk in (self.staging.partial / name / "c").glob("*"):
                        if chunk.name not in kept:
                            shutil.rmtree(chunk)
                self._note(MOVING)
                complete_move(self.path)
            elif self.resumable and self.hours:
                print(f"{len(self.hours)} complete hours are kept in {beside(self.path, 'partial')}; "
                      "the same command goes on")  # fmt: skip
            else:
                self.progress.unlink(missing_ok=True)
        finally:
            self._leave()

    def _leave(self) -> None:
        """Give the lock back, and remove the partial store unless a later build may go on with it."""
        try:
            if not self.progress.exists():
                shutil.rmtree(self.staging.partial, ignore_errors=True)
        finally:
            os.close(self.lock)


def place_of(time: np.datetime64) -> int:
    """Where an hour lies along the partial store's first axis."""
    return int((time.astype("datetime64[s]") - FIRST).astype("int64"))


def read_progress(progress: Path) -> tuple[dict, dict[np.datetime64, int]]:
    """What is being built, and {time: kind} of the hours that are complete, sorted; empty if there is no file."""
    text = progress.read_text() if progress.exists() else ""
    lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    hours = [line.split() for line in lines[1:] if line.strip() != MOVING]
    return (json.loads(lines[0]) if lines else {}), {np.datetime64(t, "ns"): int(k) for t, k in sorted(hours)}


def complete_move(path: Path) -> None:
    """Make the hours visible if all were complete; else do nothing. May be interrupted and repeated."""
    partial, progress = beside(path, "partial"), beside(path, "progress")
    if not progress.exists() or not progress.read_text().endswith(f"\n{MOVING}\n"):
        return
    about, hours = read_progress(progress)
    names, new, first = about["names"], about["extends"] is None, about["extends"] or 0
    if (partial / "zarr.json").exists():  # else the last rename was done already
        into = partial if new else path
        for name in names:
            for index, time in enumerate(hours):
                if (chunk := partial / name / "c" / str(place_of(time))).exists():
                    chunk.rename(into / name / "c" / str(first + index))
        if new or count_hours(path) < first + len(hours):
            set_hours(into, partial, names, first, hours)
        if new:
            publish(partial, path)
    shutil.rmtree(partial, ignore_errors=True)
    progress.unlink()


def set_hours(folder: Path, partial: Path, names: list[str], first: int, hours: dict[np.datetime64, int]) -> None:
    """Let the arrays of a store reach over the hours that lie behind its first ones, and write their times and kinds.
    Readers of a finished store see them with the last step, which consolidates its metadata."""
    root, added = (json.loads((place / "zarr.json").read_text()) for place in (folder, partial))
    visible = root.get("consolidated_metadata")
    for name in (*names, "time", "forecast_hour"):
        metadata = json.loads((folder / name / "zarr.json").read_text())
        metadata["shape"][0] = first + len(hours)
        replace(folder / name / "zarr.json", json.dumps(metadata))
        if visible:
            visible["metadata"][name]["shape"][0] = first + len(hours)
    seconds = [t.astype("datetime64[s]").astype("int64") for t in hours]
    for name, values in (("time", seconds), ("forecast_hour", list(hours.values()))):
        zarr.open_array(folder / name, mode="r+")[first : first + len(hours)] = values
    if visible:
        lines = [d["attributes"].get("history", "") for d in (root, added)]
        root["attributes"]["history"] = "\n".join(x for x in lines if x)
        replace(folder / "zarr.json", json.dumps(root))


def count_hours(path: Path) -> int:
    """The visible hours of a store of ours."""
    return int(json.loads((path / "zarr.json").read_text())["consolidated_metadata"]["metadata"]["time"]["shape"][0])


def left_to_write(
    path: Path, names, grid: Grid, described: dict, forecast_hour: int, wanted: list
) -> list[np.datetime64]:
    """The wanted times after the last one of the store; ValueError if they do not fit into it."""
    dataset = open_zarr(path)
    held = field_names(dataset)
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
    elif kinds != [forecast_hour]:
        wrong = f"holds hours of f{kinds[0]:02d}, got f{forecast_hour:02d}, expected the same"
    elif early:
        wrong = (f"ends at {show(times[-1])} and lacks {len(early)} of the wanted hours before that, the first "
                 f"{show(early[0])}; expected hours after its end")  # fmt: skip
    else:
        return [t for t in wanted if t > times[-1]]
    raise ValueError(f"{path}: {wrong}. Fix: another --out, or remove the store to build it anew")


def grid_hash(grid: Grid) -> str:
    """A hash over everything that describes a grid."""
    digest = hashlib.sha256(repr((grid.shape, grid.dims, sorted(grid.projection.items()))).encode())
    for name, values in sorted({**vars(grid), **grid.static}.items()):
        if isinstance(values, np.ndarray):
            digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
