"""The hours of a local copy of hrrrzarr (University of Utah, zarr v2), for data/build_hrrr.py.

    sfc/YYYYMMDD/YYYYMMDD_HHz_anl.zarr/<LEVEL>/<VAR>/            time and projection coordinates
    sfc/YYYYMMDD/YYYYMMDD_HHz_anl.zarr/<LEVEL>/<VAR>/<LEVEL>/<VAR>   (y, x) float16: the analysis, f00
    sfc/YYYYMMDD/YYYYMMDD_HHz_fcst.zarr/...                      (time, y, x) from f01; only f01 is read

Valid times come from the stores, never from their names. zarr returns 0, the fill value, for a chunk that was not
fetched: such cells become NaN here. Latitude and longitude are computed: the stores have none.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

from data.checks import Written
from data.grid import LAMBERT_HRRR, Grid, lambert_latlon
from data.source_grib import KINDS, listed, refuse_missing_path, refuse_unknown
from data.times import show
from data.variables import TABLE, lookup

PLACES = {
    "REFC": ("entire_atmosphere", "REFC"), "T2M": ("2m_above_ground", "TMP"), "D2M": ("2m_above_ground", "DPT"),
    "U10": ("10m_above_ground", "UGRD"), "V10": ("10m_above_ground", "VGRD"), "CAPE": ("surface", "CAPE"),
    "CIN": ("surface", "CIN"), "orography": ("surface", "HGT"), "land_sea_mask": ("surface", "LAND"),
}  # fmt: skip
HOUR = np.timedelta64(1, "h")


@dataclass(frozen=True)
class Place:
    """One field of one hour: the folder that holds its coordinates, and its place in a forecast's time."""

    folder: Path
    index: int | None  # None: an analysis, without a time dimension


class UtahHours:
    """The hours that a folder of hrrrzarr stores holds; `load` gives one. Attributes as SOURCES asks.

    Raises ValueError for a folder without usable hours, a store that cannot be read, or more than one grid.
    """

    source = "HRRR, hrrrzarr of the University of Utah"

    def __init__(self, cfg, first: np.datetime64 | None, last: np.datetime64 | None):
        refuse_missing_path(cfg.path, "a folder with sfc/YYYYMMDD/YYYYMMDD_HHz_anl.zarr inside")
        refuse_unknown(cfg.variables)
        self.notes: list[str] = []
        self.fields: dict[int, dict[np.datetime64, dict[str, Place]]] = {0: {}, 1: {}}
        self._index(cfg.path)
        kind = 1 if len(self.fields[1]) > len(self.fields[0]) else 0
        self.forecast_hour = kind if cfg.forecast_hour == "auto" else int(cfg.forecast_hour)
        if self.fields[1 - self.forecast_hour]:
            self.notes.append(f"left out: {len(self.fields[1 - self.forecast_hour])} hours of "
                              f"{KINDS[1 - self.forecast_hour]}. The other: "
                              f"--forecast_hour {1 - self.forecast_hour}")  # fmt: skip
        self.hours = self.fields[self.forecast_hour]
        held = [t for t in sorted(self.hours) if (first is None or t >= first) and (last is None or t <= last)]
        count = Counter(n for t in held for n in self.hours[t])
        wanted = {lookup(n).name for n in cfg.variables}
        self.names = [v.name for v in TABLE if (v.name in wanted if wanted else count[v.name] * 2 > len(held))]
        lacking = {t: [n for n in self.names if n not in self.hours[t]] for t in held}
        self.times = [t for t in held if self.names and not lacking[t]]
        if not self.times:
            have = ", ".join(f"{len(h)} hours of {KINDS[k]}" for k, h in self.fields.items())
            names = " ".join(self.names) or "any variable"
            raise ValueError(f"path: got no hour of {KINDS[self.forecast_hour]} with {names} in"
                             f" {cfg.path} ({have}), expected some. Fix: --path, --start, --end, --forecast_hour or "
                             "--variables that are there")  # fmt: skip
        if absent := [v.name for v in TABLE if v.name not in self.names and not wanted]:
            self.notes.append(f"not in most hours, so not stored: {' '.join(absent)}")
        self.notes += listed([f"left out: {show(t)} lacks {' '.join(n)}" for t, n in lacking.items() if n])
        self.grid = self._grid()

    def _index(self, path: str) -> None:
        """Fill `fields`: what every store holds, by kind and valid time."""
        stores = sorted(p for p in Path(path).rglob("*_*z_*.zarr") if p.name.endswith(("_anl.zarr", "_fcst.zarr")))
        for store in stores:
            for name, (level, variable) in PLACES.items():
                folder = store / level / variable
                if not (folder / level / variable / ".zarray").exists():
                    continue
                reference, times = (self._times(folder, n) for n in ("forecast_reference_time", "time"))
                if times.ndim == 0:
                    if times == reference:
                        self.fields[0].setdefault(times[()], {})[name] = Place(folder, None)
                    continue
                for index in np.flatnonzero(times == reference + HOUR):
                    self.fields[1].setdefault(times[index], {})[name] = Place(folder, int(index))

    @staticmethod
    def _times(folder: Path, name: str) -> np.ndarray:
        """One of the time coordinates, decoded by its units, datetime64[ns]."""
        try:
            array = zarr.open_array(folder / name, mode="r")
            attributes = {k: array.attrs[k] for k in ("units", "calendar") if k in array.attrs}
            times = xr.decode_cf(xr.Dataset({"t": (("n",) * array.ndim, array[...], attributes)}))["t"].values
        except (KeyError, OSError, ValueError) as error:
            raise ValueError(f"{folder}: {name} cannot be read ({type(error).__name__}: {error}), expected CF time. "
                             "Fix: fetch this store again") from error  # fmt: skip
        return times.astype("datetime64[ns]")

    def _grid(self) -> Grid:
        """Coordinates and static fields of the first hour; ValueError where a later one differs."""
        y, x = self._coordinates(self.hours[self.times[0]][self.names[0]])
        for time in self.times[1:]:
            place = self.hours[time][self.names[0]]
            other = self._coordinates(place)
            if not all(a.shape == b.shape and np.allclose(a, b, atol=1) for a, b in zip((y, x), other, strict=True)):
                raise ValueError(f"{place.folder}: got another grid than {show(self.times[0])}, expected one. "
                                 "Fix: a folder for each")  # fmt: skip
        self.north_first = bool(y[0] > y[-1])
        y = y[::-1] if self.north_first else y
        latitude, longitude = lambert_latlon(x[None, :], y[:, None])
        grid = Grid((len(y), len(x)), ("y", "x"), latitude, longitude, y, x, dict(LAMBERT_HRRR))
        for name in ("orography", "land_sea_mask"):
            place = next((self.hours[t][name] for t in self.times if name in self.hours[t]), None)
            if place is not None and np.isfinite(values := self._read(place, grid.shape)).all():
                grid.static[name] = values
        return grid

    @staticmethod
    def _coordinates(place: Place) -> tuple[np.ndarray, np.ndarray]:
        try:
            arrays = [zarr.open_array(place.folder / f"projection_{a}_coordinate", mode="r")[:] for a in "yx"]
        except (OSError, ValueError) as error:
            raise ValueError(f"{place.folder}: projection coordinates cannot be read ({type(error).__name__}: "
                             f"{error}), expected them beside the field. "
                             "Fix: fetch this store again") from error  # fmt: skip
        return arrays[0].astype(np.float64), arrays[1].astype(np.float64)

    def _read(self, place: Place, shape: tuple[int, int]) -> np.ndarray:
        """One field (y, x) float32, NaN where a chunk does not exist."""
        level, variable = place.folder.parts[-2:]
        try:
            array = zarr.open_array(place.folder / level / variable, mode="r")
            written = Written({variable: array}, [variable])
            field = (array[...] if place.index is None else array[place.index]).astype(np.float32)
        except (KeyError, OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"{place.folder}: cannot be read ({type(error).__name__}: {error}), expected whole "
                             "chunks. Fix: fetch this store again") from error  # fmt: skip
        if field.shape != shape:
            raise ValueError(f"{place.folder}: got {field.shape} cells, expected {shape}. Fix: fetch this store again")
        height, width = array.chunks[-2:]
        lead = () if place.index is None else (place.index // array.chunks[0],)
        for row in range(0, shape[0], height):
            for column in range(0, shape[1], width):
                key = array.metadata.encode_chunk_key((*lead, row // height, column // width))
                if key not in written.keys[variable]:
                    field[row : row + height, column : column + width] = np.nan
        return field[::-1] if self.north_first else field

    def load(self, time: np.datetime64) -> dict[str, np.ndarray]:
        """One hour: {name: (y, x) in table units}, NaN where the source has no value."""
        return {name: self._read(self.hours[time][name], self.grid.shape) for name in self.names}
