"""Write training stores so that a reader never sees half of one.

Hours are gathered beside the store and become visible all at once when the last one is there (data/staging.py). A
store that was there before stays until that moment.
"""

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

from data.command import refuse_file_above
from data.files import beside, discard, lock, replace
from data.grid import Grid, read_grid, same_grid
from data.metadata import COMPRESSION, KIND, attributes_of, coordinates_of, write_template
from data.staging import LENGTH, Staging, complete_move, count_hours, read_progress
from data.times import show
from data.variables import STATIC, TABLE, lookup


class StoreWriter:
    """Writes a training store hour by hour, in any order; a context manager.

        with StoreWriter(path, ["T2M"], grid, {"source": "..."}) as store:
            store.write(np.datetime64("2024-01-01T00"), {"T2M": field}, forecast_hour=0)

    Leaving the block by an exception removes the partial store and leaves `path` as it was. `described` has attributes
    of variables that the table does not know.

    With `wanted`, the sorted times that the store is to hold, work goes on where it was interrupted and a store that is
    there is extended (with `replace_old`, replaced when the new one is complete): `todo` has the times that are left to
    write, and an exception keeps the hours that are complete. Other processes may write hours through `staging`, which
    the one that made the writer then names with `add`.
    Raises ValueError where `path` holds something that is not a training store of ours, or one that cannot be extended
    to the wanted times, on another grid, of other variables or of another `forecast_hour`.
    """

    def __init__(self, path: str | Path, names: list[str], grid: Grid, attributes: dict, described: dict | None = None,
                 wanted: list[np.datetime64] | None = None, forecast_hour: int = 0,
                 replace_old: bool = False):  # fmt: skip
        self.path, self.names, self.grid = Path(path), names, grid
        self.attributes = {"Conventions": "CF-1.10", **attributes, KIND: "training"}
        self.resumable = wanted is not None
        self.staging = Staging(self.path, names, durable=self.resumable)
        self.todo = list(wanted or [])
        self.hours: dict[np.datetime64, int] = {}  # complete so far: kind of each
        refuse_foreign(self.path, "training")
        self.lock = lock(self.path) if self.resumable else None
        try:
            self._prepare(described or {}, attributes, forecast_hour, replace_old)
        except BaseException:
            self._unlock()
            if not self.staging.progress.exists():
                discard(self.staging.partial)
            raise

    def _prepare(self, described: dict, attributes: dict, forecast_hour: int, replace_old: bool) -> None:
        """Find out what there is already, and go on with it or begin."""
        extends = None  # hours of the finished store that is extended
        if self.resumable:
            complete_move(self.path)
            if self.path.exists() and not replace_old:
                extends = count_hours(self.path)
                self.todo = left_to_write(self.path, self.names, self.grid, forecast_hour, self.todo)
        self.idle = extends is not None and not self.todo  # nothing to do: nothing is touched
        # Whatever has to be equal for two builds to be one.
        about = {"names": self.names, "grid": grid_hash(self.grid), "extends": extends,
                 "source": str(attributes.get("source", "")), "forecast_hour": forecast_hour}  # fmt: skip
        if not self.idle and not (self.resumable and self._resume(about)):
            self._begin(described, about)

    def _begin(self, described: dict, about: dict) -> None:
        """An empty partial store."""
        grid = self.grid
        self.staging.progress.unlink(missing_ok=True)
        partial = start(self.path, "training")
        static = {
            v.name: (grid.dims, grid.static[v.name].astype(np.float32), attributes_of(v, grid))
            for v in STATIC
            if v.name in grid.static
        }
        write_template(xr.Dataset(static, coordinates_of(grid), self.attributes), partial, mode="a")
        group = zarr.open_group(partial, mode="r+")
        for name in self.names:
            group.create_array(
                name, shape=(LENGTH, *grid.shape), chunks=(1, *grid.shape), dtype="float32",
                fill_value=np.nan, compressors=COMPRESSION, dimension_names=("time", *grid.dims),
                attributes=attributes_of(lookup(name), grid) | described.get(name, {}),
            )  # fmt: skip
        replace(self.staging.progress, json.dumps(about) + "\n")

    def _resume(self, about: dict) -> bool:
        """Take over the complete hours of an interrupted build of the same store; False where there are none."""
        staging, wanted = self.staging, set(self.todo)
        recorded, hours = read_progress(staging.progress)
        if recorded != about or not staging.partial.exists():
            return False
        # A power cut may leave the line of an hour without its chunks, which were synced and their folders not.
        self.hours = {t: k for t, k in hours.items() if t in wanted and staging.holds(t)}
        if not self.hours:
            return False
        for left in staging.partial.rglob("*.partial"):  # what zarr was writing when it was stopped
            left.unlink(missing_ok=True)
        staging.keep_only(self.hours)
        lines = [f"{np.datetime_as_string(t)} {k}\n" for t, k in self.hours.items()]
        replace(staging.progress, json.dumps(about) + "\n" + "".join(lines))
        self.todo = [t for t in self.todo if t not in self.hours]
        return True

    def write(self, time: np.datetime64, fields: dict[str, np.ndarray], forecast_hour: int = 0) -> None:
        """Write one hour; `fields` has a (y, x) array in table units for every name."""
        self.staging.write(time, fields)
        self.add(time, forecast_hour)

    def add(self, time: np.datetime64, forecast_hour: int = 0) -> None:
        """An hour was written through `staging`, whole."""
        assert time not in self.hours, "an hour is written once"
        self.hours[time] = forecast_hour
        self.staging.record(time, forecast_hour)

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if self.idle:
                return
            if kind is None:
                self.staging.complete()
            elif self.resumable and self.hours:
                print(f"{len(self.hours)} complete hours are kept in {beside(self.path, 'partial')}; "
                      "the same command goes on")  # fmt: skip
            else:
                self.staging.progress.unlink(missing_ok=True)
                discard(self.staging.partial)
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


def grid_hash(grid: Grid) -> str:
    """A hash over everything that describes a grid."""
    digest = hashlib.sha256(repr((grid.shape, grid.dims, sorted(grid.projection.items()))).encode())
    for name, values in sorted({**vars(grid), **grid.static}.items()):
        if isinstance(values, np.ndarray):
            digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
