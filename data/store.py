"""The training store: a zarr directory of hourly fields. This docstring is the format.

    <STORE>.zarr                   zarr v2 or v3, read through xarray; local path or fsspec URL
      time           (time,)       datetime64, UTC, sorted, unique, gaps allowed; its CF units decide
      REFC ... CIN   (time, y, x)  float32 in the units of data/variables.py, one chunk per hour and variable,
                                   with a checksum in new stores; attributes units, long_name, standard_name,
                                   grid_mapping
      latitude, longitude (y, x)   degrees north, degrees east (-180..180); or the 1-D coordinates of a regular grid
      y, x           (y,), (x,)    m in the projection plane
      spatial_ref    ()            CF grid mapping attributes
      orography, land_sea_mask (y, x)   m, 0-1
      forecast_hour  (time,)       0 where the hour is an analysis (f00), 1 where it is a 1-hour forecast (f01)
      attributes     source, history, Conventions; a synthetic store names its generator's version

Required: `time` and at least one (time, y, x) array; the dimensions may carry any names
(time, latitude, longitude say). Everything else is used where present and noted where absent.
NaN means: in every hour, a mask (outside radar coverage); in some hours, a fault that is refused.
Rows may run south to north (ours) or north to south; a forecast keeps the order of its store.
"""

import itertools
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from zarr.core.sync import sync

from data.command import fault, nearest
from data.grid import read_grid
from data.metadata import KIND, TIME_UNITS, conversion, read_sidecar
from data.opening import open_zarr, parts_of, refuse_leads, refuse_odd
from data.times import show
from data.variables import TABLE, identify, known, lookup


class Store:
    """A training store opened for reading; `load` gives one hour as a float32 array.

    Attributes: path, dataset (xarray, lazy), names (every (time, y, x) array), times (datetime64[ns],
    without the hours that the store check found faulty), grid, notes (lines to print).
    Raises ValueError for a path that is missing, is not zarr, or has no decodable time.
    """

    def __init__(self, path: str | Path):
        self.path, self.dataset = str(path), open_zarr(path)
        self.notes: list[str] = []
        if self.dataset.attrs.get(KIND) == "forecast":
            raise fault(path, "a forecast store", "a training store", "name the one that it was started from")
        self.dataset, self.names = standard(self.path, self.dataset)
        units = str(self.dataset["time"].encoding.get("units", ""))
        near = len(units) == len(TIME_UNITS) and sum(map(str.__ne__, units, TIME_UNITS)) == 1
        if self.dataset.attrs.get(KIND) and near:  # it would move the hours by years
            fix = "build it again"
            raise fault(f"{path}: time", f"the units {units!r}, a flipped bit away from ours", repr(TIME_UNITS), fix)
        times = self.dataset["time"].values.astype("datetime64[ns]")
        if len(times) == 0:
            raise fault(path, "a store without a single hour", "some", "build it again; it was not completed")
        values, counts = np.unique(times, return_counts=True)
        if counts.max() > 1:
            twice = f"time {show(values[counts > 1][0])} {counts.max()} times"
            raise fault(path, twice, "each time once", "remove the duplicates")
        # Hours that the store check listed count as absent, for training, forecasts and scores alike.
        faulty, note = read_sidecar(self.path)
        sound = ~np.isin(times, faulty)
        self.times = times[sound]
        self._index = dict(zip(self.times.astype("int64").tolist(), np.flatnonzero(sound).tolist(), strict=True))
        self.notes += [note] if note else []
        if len(self.times) == 0:
            raise fault(path, f"a fault in every hour ({note})", "sound ones", "build it again")
        first = self.dataset[self.names[0]]
        self.grid = read_grid(self.dataset, first.dims[1:], {**first.encoding, **first.attrs})
        if self.grid.latitude is None:
            self.notes.append("no latitude/longitude: trained without the sun's height and the Coriolis parameter")
        if absent := [n for n in ("orography", "land_sea_mask") if n not in self.grid.static]:
            self.notes.append(f"no static field {', '.join(absent)}: trained without")

    def choose(self, variables: list[str], fix: str = "name a store that has it") -> list[str]:
        """The store's names of the wanted variables: exact names or aliases; all known ones when the list is empty.

        Raises ValueError, with the nearest names and `fix`, for one that the store does not have.
        """
        by_table: dict[str, str] = {}  # the table's name -> the store's
        for name in self.names:
            if known(name) and (lookup(name).name not in by_table or name == lookup(name).name):
                by_table[lookup(name).name] = name
        chosen = [name if name in self.names else by_table.get(lookup(name).name) for name in variables]
        if None in chosen:
            name = variables[chosen.index(None)]
            expected = f"one of its arrays. Nearest: {nearest(name, self.names)}"
            raise fault(self.path, f"no variable {name!r}", expected, fix)
        if len(set(chosen)) != len(chosen):
            twice = [v for v, name in zip(variables, chosen, strict=True) if chosen.count(name) > 1]
            raise fault("variables", f"{' and '.join(twice)}, which name one array", "each once", "leave one out")
        chosen = chosen or [by_table[v.name] for v in TABLE if v.name in by_table] or list(self.names)
        for name in chosen:
            if self.dataset[name].shape[1:] != self.grid.shape:
                raise fault(self.path, f"the grid {self.dataset[name].shape[1:]} for {name}", f"{self.grid.shape} "
                            "as for the first variable", "choose variables on one grid with --variables")  # fmt: skip
            self._refuse_unlike(name)
            if not known(name):
                self.notes.append(f"{name} is not in the variables table: no bounds, no transform, even mirror parity")
        return chosen

    def _refuse_unlike(self, name: str) -> None:
        """ValueError for an array that is not the table's variable in the table's unit, as its attributes say. Whoever
        trains, forecasts, scores or takes boundary data comes through here."""
        if not known(name):
            return
        about = self.dataset[name].attrs
        if why := identify(name, about)[1]:
            raise fault(f"{self.path}: {name}", f"another level ({why})", lookup(name).long_name, "leave it out")
        found, wanted = str(about.get("units", "")), lookup(name).units
        if found and conversion(found, wanted) != (1, 0):
            convert = conversion(found, wanted) is not None
            fix = f"{rebuild(self.path)}: it converts it" if convert else "correct its units attribute, or leave it out"
            raise fault(f"{self.path}: {name}", f"units {found!r}", repr(wanted), fix)

    def facts(self) -> dict:
        """What a model and the store of its forecasts must have in common: the order of the rows, the spacing (m) and
        what winds follow; plain types, for checkpoints."""
        spacing = self.grid.spacing
        return {"north_first": self.grid.north_first, "winds": self.grid.winds,
                "spacing": None if spacing is None else list(spacing)}  # fmt: skip

    def refuse_other(self, facts: dict, whose: str) -> None:
        """ValueError if the store differs from the facts of another one, as far as both know them."""
        here = self.facts()
        words = {True: "rows from north to south", False: "rows from south to north",
                 "grid": "winds along the grid", "earth": "winds to east and north"}  # fmt: skip
        fixes = {"north_first": rebuild(self.path), "winds": "turn the winds, or name another store"}
        for key, fix in fixes.items():
            if facts.get(key) in words and here[key] in words and facts[key] != here[key]:
                raise fault(self.path, words[here[key]], f"{words[facts[key]]}, as {whose}", fix)
        for a, b in zip(facts.get("spacing") or (), here["spacing"] or (), strict=False):
            if not 0.8 < b / a < 1.25:
                fix = "name a store with cells of that size"
                raise fault(self.path, f"cells of {b / 1000:.2f} km", f"{a / 1000:.2f} km, as {whose}", fix)

    def has(self, time: np.datetime64) -> bool:
        """Whether the store holds this time."""
        return self.position(time) is not None

    def position(self, time: np.datetime64) -> int | None:
        """The index of this time in the arrays, None where the store does not hold it."""
        return self._index.get(int(time.astype("datetime64[ns]").astype("int64")))

    def load(self, time: np.datetime64, names: list[str]) -> np.ndarray:
        """The fields of one time: (C, y, x) float32 in the store's units, NaN where the store has NaN.

        Raises ValueError for a time that the store does not hold or a chunk that cannot be read.
        """
        index = self.position(time)
        if index is None:
            near = self.nearest_times(time)
            raise fault(self.path, f"no hour {show(time)}", f"one of {near}", "choose a time that the store holds")
        out = np.empty((len(names), *self.grid.shape), np.float32)
        for c, name in enumerate(names):
            try:
                out[c] = self.dataset.variables[name][index].values  # without the coordinates, which cost as much again
            except (OSError, RuntimeError, ValueError) as error:
                raise ValueError(
                    f"{self.path}: {name} at {show(time)} cannot be read ({error}), expected a field. "
                    "Fix: write this hour again"
                ) from error
        return out

    def nearest_times(self, time: np.datetime64, count: int = 3) -> str:
        """The times nearest to `time`, as text for an error message."""
        distance = np.abs((self.times - time.astype("datetime64[ns]")).astype("int64"))
        return ", ".join(show(t) for t in np.sort(self.times[np.argsort(distance)[:count]]))


def rebuild(path: str) -> str:
    return f"`python -m data.build_hrrr --source zarr --path {path} --out NEW.zarr`, then use NEW.zarr"


def standard(path: str, dataset: xr.Dataset) -> tuple[xr.Dataset, list[str]]:
    """The dataset with its valid times as `time`, and the names of its (time, y, x) arrays; ValueError for a layout
    that only the builder reads: several leads, one hour without a dimension, columns before rows."""
    refuse_leads(parts := parts_of(path, dataset))
    part = parts[0]
    if part.time is None or (part.kinds is not None and (part.kinds < 0).any()) or part.dataset is not dataset:
        got = "; ".join(part.notes) or "fields without a dimension of time"
        raise fault(path, got, "one hour after the other", rebuild(path))
    names = [n for n in part.dims if dataset[n].ndim == 3 and dataset[n].dims[0] == part.time]
    turned = [n for n in names if dataset[n].dims[1:] != part.dims[n]]
    if turned or (part.dims and not names):
        odd = (turned or [*part.dims])[0]
        got = f"{odd} with the order of dimensions {', '.join(map(str, dataset[odd].dims))}"
        raise fault(path, got, "(time, y, x), rows before columns", f"{rebuild(path)}: it transposes them")
    if not names:
        refuse_odd(part)
    if part.time != "time" or dataset["time"].dtype.kind != "M" or not np.array_equal(dataset["time"], part.times):
        dataset = dataset.drop_vars("time", errors="ignore").rename({part.time: "time"} if part.time != "time" else {})
        dataset = dataset.assign_coords(time=("time", part.times))
    if part.kinds is not None:
        dataset = dataset.assign(forecast_hour=("time", part.kinds.astype(np.int8)))
    return dataset, names


# --- which chunks exist ---


class Written:
    """Which chunks of a store exist. zarr returns its fill value for one that was never written, without a word."""

    def __init__(self, group: zarr.Group, names: list[str]):
        self.arrays = {n: group[n] for n in names}
        self.keys = {n: set(sync(self._list(a))) for n, a in self.arrays.items()}

    async def _list(self, array: zarr.Array) -> list[str]:
        place = array.store_path
        prefix = place.path + "/" if place.path else ""
        return [key.removeprefix(prefix) async for key in place.store.list_prefix(prefix)]

    def complete(self, name: str) -> bool:
        """Whether an array has as many chunks as it should: quicker than asking for every time."""
        expected = np.prod([len(places) for places in chunk_places(self.arrays[name])])
        return sum(key[-1:].isdigit() for key in self.keys[name]) == expected

    def missing(self, name: str, index: int) -> int:
        """Chunks of one time that do not exist."""
        return sum(key not in self.keys[name] for key in chunk_keys(self.arrays[name], index))

    def blank(self, name: str, index: int, field: np.ndarray) -> None:
        """Set NaN in the chunks of a field (y, x) of a (time, y, x) array that do not exist."""
        array = self.arrays[name]
        _, height, width = array.shards or array.chunks
        places = itertools.product(*chunk_places(array)[1:])
        for (row, column), key in zip(places, chunk_keys(array, index), strict=True):
            if key not in self.keys[name]:
                field[row * height : (row + 1) * height, column * width : (column + 1) * width] = np.nan


def chunk_keys(array: zarr.Array, index: int) -> list[str]:
    """The names of the chunks (or shards) of one time of a (time, y, x) array."""
    first = index // (array.shards or array.chunks)[0]
    return [array.metadata.encode_chunk_key((first, *place)) for place in itertools.product(*chunk_places(array)[1:])]


def chunk_places(array: zarr.Array) -> list[range]:
    """The places of an array's files along each dimension."""
    return [range(-(-s // c)) for s, c in zip(array.shape, array.shards or array.chunks, strict=True)]
