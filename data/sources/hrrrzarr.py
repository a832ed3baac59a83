"""The hours of a local copy of hrrrzarr (University of Utah, zarr v2), for data/build_hrrr.py.

    sfc/YYYYMMDD/YYYYMMDD_HHz_anl.zarr/<LEVEL>/<VAR>/            time and projection coordinates
    sfc/YYYYMMDD/YYYYMMDD_HHz_anl.zarr/<LEVEL>/<VAR>/<LEVEL>/<VAR>   (y, x) float16: the analysis, f00
    sfc/YYYYMMDD/YYYYMMDD_HHz_fcst.zarr/...                      (time, y, x) from f01; only f01 is read

Valid times come from the stores, never from their names. zarr returns 0, the fill value, for a chunk that was not
fetched: such cells become NaN here. Latitude and longitude are computed: the stores have none.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

from data.command import fault
from data.grid import LAMBERT_HRRR, Grid, lambert_latlon
from data.sources import HOUR, Source, outside, refuse_missing_path, refuse_unknown
from data.store import Written
from data.times import show

PLACES = {
    "REFC": ("entire_atmosphere", "REFC"), "T2M": ("2m_above_ground", "TMP"), "D2M": ("2m_above_ground", "DPT"),
    "U10": ("10m_above_ground", "UGRD"), "V10": ("10m_above_ground", "VGRD"), "CAPE": ("surface", "CAPE"),
    "CIN": ("surface", "CIN"), "orography": ("surface", "HGT"), "land_sea_mask": ("surface", "LAND"),
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """One field of one hour: the folder that holds its coordinates, and its place in a forecast's time."""

    folder: Path
    index: int | None  # None: an analysis, without a time dimension


class UtahHours(Source):
    """The hours that a folder of hrrrzarr stores holds; `load` gives one. ValueError for a folder without usable hours,
    a store that cannot be read, or more than one grid."""

    source = "HRRR, hrrrzarr of the University of Utah"

    def __init__(self, cfg, first: np.datetime64 | None, last: np.datetime64 | None):
        refuse_missing_path(cfg.path, "a folder with sfc/YYYYMMDD/YYYYMMDD_HHz_anl.zarr inside")
        refuse_unknown(cfg.variables)
        self.notes: list[str] = []
        fields = self._index(cfg.path, first, last)
        if not any(fields.values()):
            there = {"/".join(p.parts[-2:]) for p in Path(cfg.path).rglob("*_*z_*.zarr/*/*") if p.is_dir()}
            got = f"no hour of f00 or f01 in {cfg.path}, which has {', '.join(sorted(there)) or 'none'}"
            expected = f"one or more of {', '.join('/'.join(p) for p in PLACES.values())}"
            raise fault("path", got, expected, "fetch one of these, or --path, --start and --end that are there")
        self.choose(fields, cfg)
        self.grid = self._grid()
        winds = {n: {"wind_reference": "grid"} for n in ("U10", "V10") if n in self.names}
        self.described = self.described | winds

    def _index(self, path: str, first: np.datetime64 | None, last: np.datetime64 | None) -> dict:
        """What every store holds, by kind, valid time and variable."""
        fields: dict[int, dict[np.datetime64, dict[str, Place]]] = {0: {}, 1: {}}
        for store in sorted(p for kind in ("anl", "fcst") for p in Path(path).rglob(f"*_*z_{kind}.zarr")):
            for name, (level, variable) in PLACES.items():
                folder = store / level / variable
                if not (folder / level / variable / ".zarray").exists():
                    continue
                reference, times = (read_times(folder / n) for n in ("forecast_reference_time", "time"))
                kind, lead = (1, HOUR) if times.ndim else (0, 0 * HOUR)
                for index in np.flatnonzero(times == reference + lead):
                    time = times.ravel()[index]
                    if not outside(time, first, last):
                        fields[kind].setdefault(time, {})[name] = Place(folder, int(index) if kind else None)
        return fields

    def _grid(self) -> Grid:
        """Coordinates and static fields of the first hour; ValueError where a later one differs."""
        places = [self.hours[t][self.names[0]] for t in self.times]
        y, x = coordinates(places[0])
        for place in places[1:]:
            here, first = np.concatenate(coordinates(place)), np.concatenate((y, x))
            if here.shape != first.shape or not np.allclose(here, first, atol=1):
                raise fault(place.folder, f"another grid than {show(self.times[0])}", "one", "a folder for each")
        self.north_first = bool(y[0] > y[-1])
        self.notes += ["turned: rows ran from north to south"] * self.north_first
        y = y[::-1] if self.north_first else y
        latitude, longitude = lambert_latlon(x[None, :], y[:, None])
        grid = Grid((len(y), len(x)), ("y", "x"), latitude, longitude, y, x, dict(LAMBERT_HRRR))
        for name in ("orography", "land_sea_mask"):
            place = next((self.hours[t][name] for t in self.times if name in self.hours[t]), None)
            if place is not None and np.isfinite(values := self._read(place, grid.shape)).all():
                grid.static[name] = values
        return grid

    def _read(self, place: Place, shape: tuple[int, int]) -> np.ndarray:
        """One field (y, x) float32, NaN where a chunk does not exist."""
        level, variable = place.folder.parts[-2:]
        with readable(place.folder / level / variable, "whole chunks"):
            array = zarr.open_array(place.folder / level / variable, mode="r")
            written = Written({variable: array}, [variable])
            field = (array[...] if place.index is None else array[place.index]).astype(np.float32)
        if field.shape != shape:
            raise fault(place.folder, f"{field.shape} cells", f"{shape}", "fetch this store again")
        height, width = array.chunks[-2:]
        lead = () if place.index is None else (place.index // array.chunks[0],)
        for row, column in np.ndindex(-(-shape[0] // height), -(-shape[1] // width)):
            if array.metadata.encode_chunk_key((*lead, row, column)) not in written.keys[variable]:
                field[row * height : (row + 1) * height, column * width : (column + 1) * width] = np.nan
        return field[::-1] if self.north_first else field

    def load(self, time: np.datetime64) -> dict[str, np.ndarray]:
        return {name: self._read(self.hours[time][name], self.grid.shape) for name in self.names}


def read_times(path: Path) -> np.ndarray:
    """A time coordinate, decoded by its units, datetime64[ns]."""
    with readable(path, "CF time"):
        array = zarr.open_array(path, mode="r")
        attributes = {k: array.attrs[k] for k in ("units", "calendar") if k in array.attrs}
        dataset = xr.Dataset({"t": (("n",) * array.ndim, array[...], attributes)})
        return xr.decode_cf(dataset)["t"].values.astype("datetime64[ns]")


def coordinates(place: Place) -> tuple[np.ndarray, np.ndarray]:
    """y and x, m."""
    with readable(place.folder, "projection coordinates beside the field"):
        arrays = [zarr.open_array(place.folder / f"projection_{a}_coordinate", mode="r")[:] for a in "yx"]
        return arrays[0].astype(np.float64), arrays[1].astype(np.float64)


@contextmanager
def readable(path: Path, expected: str) -> Iterator[None]:
    """ValueError that names `path` if what is done meanwhile fails."""
    try:
        yield
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        got = f"{type(error).__name__}: {error}"
        raise fault(f"{path}: cannot be read", got, expected, "fetch this store again") from error
