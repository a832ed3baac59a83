"""What training and forecast stores have in common: metadata, units, compression, and how they appear on disk."""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from data.command import fault, refuse_file_above
from data.grid import Grid
from data.times import show
from data.variables import Variable

COMPRESSION = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle")  # lossless: values are rounded at the source
CODECS = (COMPRESSION, Crc32cCodec())  # with a checksum a chunk: a flipped bit is an error, never weather
KIND = "hourcast_kind"  # attribute that tells our own stores from other people's: "training" or "forecast"
TIME_UNITS = "seconds since 1970-01-01"


def coordinates_of(grid: Grid, variables: Sequence[Variable] = ()) -> dict:
    """The xarray coordinates that describe a grid, in its own dimension names, and the heights of variables."""
    out: dict = {}
    if grid.y is not None and grid.x is not None:
        for dim, axis, values in zip(grid.dims, "yx", (grid.y, grid.x), strict=True):
            about = {"units": "m", "standard_name": f"projection_{axis}_coordinate", "axis": axis.upper()}
            out[dim] = ((dim,), values, about, without_fill(values))
    if grid.latitude is not None:
        fields = {"latitude": (grid.latitude, "degrees_north"), "longitude": (grid.longitude, "degrees_east")}
        for name, (values, units) in fields.items():
            dims, about = grid.dims, {"units": units, "standard_name": name}
            if name in dims:  # a regular grid: one value a row, or a column
                dims, values = (name,), values[:, 0] if dims.index(name) == 0 else values[0]
                about["axis"] = "YX"[name == "longitude"]
            out[name] = (dims, values, about, without_fill(values))
    if grid.projection:
        out["spatial_ref"] = ((), np.int32(0), {"long_name": "map projection of the grid"} | grid.projection)
    for height in sorted({h for v in variables if (h := height_of(v))}):
        about = {"units": "m", "standard_name": "height", "positive": "up"}
        out[f"height_{height:g}m"] = ((), height, about, {"_FillValue": None})
    return out


def height_of(variable: Variable) -> float | None:
    """Height above ground in m of a variable that has one."""
    return variable.grib[2] if variable.grib and variable.grib[1] == "height above ground" else None


def without_fill(values: np.ndarray) -> dict:
    """The encoding of a coordinate, for which CF allows no fill value.

    xarray gives every float array in a NetCDF file a fill value. It gives none to whole numbers with a scale and an
    offset, so evenly spaced values become such numbers if that reproduces each value bit for bit.
    """
    if values.ndim == 1:
        n, offset = len(values), float(values[0])
        mean, first = (float(values[-1]) - offset) / max(n - 1, 1), float(values[min(1, n - 1)]) - offset
        for step in (mean, first, round(mean, 9)):
            if np.array_equal(np.arange(n) * step + offset, values):
                return {"dtype": "int32", "scale_factor": step or 1.0, "add_offset": offset}
    return {"_FillValue": None}


def attributes_of(variable: Variable, grid: Grid) -> dict:
    """The CF attributes of a variable's array."""
    out = {"units": variable.units, "long_name": variable.long_name, "standard_name": variable.standard_name}
    if variable.name in ("U10", "V10") and grid.winds:
        out["wind_reference"] = grid.winds
        if grid.winds == "earth":
            towards = "eastward" if variable.name == "U10" else "northward"
            out |= {"long_name": f"10 m {towards} wind", "standard_name": f"{towards}_wind"}
    out["grid_mapping"] = "spatial_ref" if grid.projection else ""
    out["units_metadata"] = "temperature: on_scale" if variable.units == "K" else ""
    return {k: v for k, v in out.items() if v}


def coordinate_names(variable: Variable, grid: Grid, more: str = "") -> dict:
    """The attribute that names the coordinates of a variable which are not dimensions; `more` comes first."""
    places = [n for n in ("latitude", "longitude") if grid.latitude is not None and n not in grid.dims]
    height = f"height_{height_of(variable):g}m" if height_of(variable) else ""
    names = " ".join(n for n in (more, *places, height) if n)
    return {"coordinates": names} if names else {}


def write_template(dataset: xr.Dataset, path: Path) -> zarr.Group:
    """Begin a store with a small dataset (coordinates, static fields), with checksums, without consolidating it."""
    for v in dataset.variables.values():
        if v.ndim:
            v.encoding["compressors"] = CODECS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.to_zarr(path, mode="w", zarr_format=3, consolidated=False)
    return zarr.open_group(path, mode="r+")


def create_array(group: zarr.Group, name: str, shape: tuple, dims: tuple, attributes: dict) -> zarr.Array:
    """An array of fields: float32, NaN where nothing is written, one chunk a field (y, x)."""
    return group.create_array(
        name, shape=shape, chunks=(1,) * (len(shape) - 2) + shape[-2:], dtype="float32", fill_value=np.nan,
        compressors=CODECS, dimension_names=dims, attributes=attributes,
    )  # fmt: skip


# --- units as sources write them ---

# Unit of the table -> {unit of a source, as `plain_unit` writes it: (factor, offset)}.
CONVERSIONS: dict[str, dict[str, tuple[float, float]]] = {
    "K": {"k": (1, 0), "c": (1, 273.15), "f": (5 / 9, 459.67 * 5 / 9)},
    "m s-1": {"m s-1": (1, 0), "ms-1": (1, 0), "cm s-1": (0.01, 0), "kt": (1852 / 3600, 0), "km h-1": (1 / 3.6, 0),
              "kmh": (1 / 3.6, 0), "mi h-1": (0.44704, 0)},
    "dBZ": {"dbz": (1, 0), "db": (1, 0)},
    "mm": dict.fromkeys(("mm", "kg m-2", "mm h-1", "kg m-2 h-1"), (1, 0))  # in an hour
    | {"m": (1000, 0), "cm": (10, 0), "in": (25.4, 0), "in h-1": (25.4, 0)}
    | dict.fromkeys(("kg m-2 s-1", "mm s-1"), (3600, 0)),  # the mean rate of the hour
    "J kg-1": {"j kg-1": (1, 0), "jkg-1": (1, 0), "m2 s-2": (1, 0), "kj kg-1": (1000, 0)},
}  # fmt: skip
WORDS = (  # pattern in a unit in lower case -> what stands for it
    (r"[*^{}\[\]()]", ""), (r"[._\u00b7]", " "), ("\u2103", "c"), ("[\u00b0\u00ba]", "deg"), ("of water.*", ""),
    (r"\b(degrees?|degs?)? *(celsius|celcius|c)\b", "c"), (r"\b(degrees?|degs?)? *(kelvins?|k)\b", "k"),
    (r"\b(degrees?|degs?)? *(fahrenheit|f)\b", "f"), (r"\bmet(er|re)s?\b", "m"), (r"\b(seconds?|sec)\b", "s"),
    (r"\b(hours?|hrs?)\b", "h"), (r"\bmiles?\b", "mi"), (r"\b(knots?|kts|kn)\b", "kt"), (r"\bjoules?\b", "j"),
    (r"\b(inch|inches)\b", "in"), (r"\bdecibels?\b", "db"), (r"\bmph\b", "mi h-1"), (r"\bkph\b", "kmh"),
    (r"( per |/) ?", "/"), (r"/([a-z]+)(\d?)", lambda found: f" {found[1]}-{found[2] or 1}"),
)  # fmt: skip


def plain_unit(unit: str) -> str:
    """A unit as sources write it, in one spelling: "m s-1" for m/s, meter per second or m s**-1."""
    text = unit.lower().translate(str.maketrans("\u207b\u00b9\u00b2\u00b3", "-123"))
    for pattern, word in WORDS:
        text = re.sub(pattern, word, text)
    return " ".join(text.split())


def conversion(found: str, wanted: str) -> tuple[float, float] | None:
    """(factor, offset) that turn values in the unit `found` into `wanted`, a unit of the variables table:
    x * factor + offset. None for a unit that is not known."""
    return CONVERSIONS[wanted].get(plain_unit(found))


# --- files and folders that change in one step ---


def beside(path: Path, ending: str) -> Path:
    """`<path>.<ending>`"""
    return path.with_name(f"{path.name}.{ending}")


def replace(path: Path, content: str | bytes) -> None:
    """Write a file in one step: a reader sees the old one or the new one."""
    temporary = beside(path, "tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    sync(temporary)
    os.replace(temporary, path)


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refuse_foreign(path: Path, kind: str) -> None:
    """ValueError if `path` holds something other than our store of this kind, or cannot become a folder."""
    if path.exists():
        try:
            found = zarr.open_group(path, mode="r").attrs.get(KIND)
        except Exception:  # not zarr at all
            found = None
        if found != kind:
            what = f"a {found} store" if found else "something else"
            raise fault(path, what, f"a free path or a {kind} store to replace", "choose another path")
    refuse_file_above(path.parent, "out")


# --- the sidecar: hours that check_store found faulty, so that training leaves them out ---
#
#     STORE.zarr.check.json    {"fingerprint": "...", "bad_hours": ["2018-07-22T05:00", ...]}
#
# The fingerprint covers the name, size and time of change of every file of a local store: once the store has been
# written to, the list no longer counts.


def fingerprint(store: str) -> str:
    """A hash over the files of a local store: their names, sizes and times of change."""
    rows = []
    for folder, _, files in os.walk(store):
        for name in files:
            status = os.stat(os.path.join(folder, name))
            rows.append(f"{os.path.relpath(folder, store)}/{name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def write_sidecar(store: str, bad_hours: set[np.datetime64]) -> Path | None:
    """List faulty hours beside a local store, or remove an older list if there are none. Returns the path of what was
    written."""
    if "://" in store:
        return None
    path = Path(store.rstrip("/") + ".check.json")
    if not bad_hours:
        path.unlink(missing_ok=True)
        return None
    hours = [show(t) for t in sorted(bad_hours)]
    replace(path, json.dumps({"fingerprint": fingerprint(store), "bad_hours": hours}, indent=1))
    return path


def read_sidecar(store: str | Path) -> tuple[np.ndarray, str]:
    """The faulty hours as datetime64[ns], and a line to print ("" if there is no sidecar)."""
    path, none = Path(str(store).rstrip("/") + ".check.json"), np.array([], "datetime64[ns]")
    if "://" in str(store) or not path.exists():
        return none, ""
    again = f"`.venv/bin/python -m data.check_store {store}` again"
    try:
        content = json.loads(path.read_text())
        hours = np.array([np.datetime64(t, "ns") for t in content["bad_hours"]], "datetime64[ns]")
        current = content["fingerprint"] == fingerprint(store)
    except (ValueError, KeyError, TypeError):
        return none, f"{path} cannot be read and is ignored; run {again}"
    if not current:
        return none, f"{path} is older than the store and is ignored; run {again}"
    return hours, f"{len(hours)} faulty hours listed in {path} are left out"
