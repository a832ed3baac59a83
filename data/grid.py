"""Where the cells are: coordinates, projection, static fields and spacing of a (y, x) grid.

Coordinates and axes are found by their CF attributes (standard_name, axis, units), by names only without these.
"""

import re
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from data.command import fault
from data.variables import lookup

EARTH_RADIUS = 6_371_229.0  # m, the sphere of NOAA's models
STANDARD = {  # standard_name -> axis
    "latitude": "Y", "grid_latitude": "Y", "projection_y_coordinate": "Y",
    "longitude": "X", "grid_longitude": "X", "projection_x_coordinate": "X",
}  # fmt: skip
# letters of the names of degrees and of dimensions without attributes
DEGREES = {"latitude": re.compile("(x|nav|grid|g|t)?lat(itude)?s?(m|d)?"),
           "longitude": re.compile("(x|nav|grid|g|t)?(lon|lng|long|longitude)s?(m|d)?")}  # fmt: skip
ROWS = re.compile(f"{DEGREES['latitude'].pattern}|y|rlat|gridlatitude|southnorth|northsouth|projectionycoordinate|yc|"
                  "ygrid|nj|j|rows?|nlat|ny|northing")  # fmt: skip
COLUMNS = re.compile(f"{DEGREES['longitude'].pattern}|x|rlon|gridlongitude|westeast|eastwest|projectionxcoordinate|xc|"
                     "xgrid|ni|i|cols?|columns?|nlon|nx|easting")  # fmt: skip
METRES = dict.fromkeys(("", "m", "metre", "meter", "metres", "meters"), 1.0) | dict.fromkeys(
    ("km", "kilometre", "kilometer", "kilometres", "kilometers"), 1000.0
)
FRACTIONS = {"%": 0.01, "percent": 0.01}
STATIC_NAMES = {  # standard_name or letters of a name -> our name
    **dict.fromkeys(("surface_altitude", "orography", "orog", "hgtsurface", "hgt", "surfacealtitude"), "orography"),
    **dict.fromkeys(("land_binary_mask", "land_area_fraction", "landseamask", "lsm", "landmask", "landsurface"),
                    "land_sea_mask"),
}  # fmt: skip


@dataclass
class Grid:
    """A (y, x) grid. Everything but the shape is optional and None or empty where it is not known."""

    shape: tuple[int, int]
    dims: tuple[str, str] = ("y", "x")  # names of the two dimensions in the store
    latitude: np.ndarray | None = None  # (y, x) degrees north
    longitude: np.ndarray | None = None  # (y, x) degrees east, -180..180
    y: np.ndarray | None = None  # (y,) m in the projection plane
    x: np.ndarray | None = None  # (x,) m
    projection: dict = field(default_factory=dict)  # CF grid mapping attributes
    static: dict[str, np.ndarray] = field(default_factory=dict)  # "orography" m, "land_sea_mask" 0-1: (y, x)
    winds: str = ""  # what components follow: "grid", "earth" (east and north); "" or "unknown": no attribute says it

    @property
    def spacing(self) -> tuple[float, float] | None:
        """Mean distance between rows and between columns in m, or None without coordinates."""
        if self.y is not None and self.x is not None:
            return abs(float(np.diff(self.y).mean())), abs(float(np.diff(self.x).mean()))
        return None if self.latitude is None else tuple(float(d.mean()) for d in self._distances())

    def _distances(self) -> list[np.ndarray]:
        """Distances on the sphere (m) between neighbours along y and along x."""
        phi, lam = np.radians(self.latitude), np.radians(self.longitude)
        points = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)])
        chords = [np.linalg.norm(np.diff(points, axis=axis), axis=0) for axis in (1, 2)]
        return [2 * EARTH_RADIUS * np.arcsin(np.minimum(c / 2, 1)) for c in chords]

    @property
    def north_first(self) -> bool | None:
        """Whether the first row is the northernmost; None without coordinates."""
        if self.latitude is not None:
            return bool(self.latitude[0].mean() > self.latitude[-1].mean())
        return None if self.y is None else bool(self.y[0] > self.y[-1])

    @property
    def regular(self) -> bool:
        """Whether rows follow parallels and columns meridians: winds along the grid then go east and north."""
        pair = self.latitude, self.longitude
        return pair[0] is not None and bool(np.ptp(pair[0], axis=1).max() == 0 and np.ptp(pair[1], axis=0).max() == 0)

    @property
    def x_direction(self) -> np.ndarray:
        """Where the x axis points in each cell, complex (y, x) of modulus 1: 1 is east, 1j north."""
        phi, lam = self.latitude, np.unwrap(self.longitude, period=360, axis=1)
        axis = np.gradient(lam, axis=1) * np.cos(np.radians(phi)) + 1j * np.gradient(phi, axis=1)
        return axis / np.abs(axis) * (-1 if self.x is not None and self.x[0] > self.x[-1] else 1)

    def turn_winds(self, u, v, to: str, cell=...) -> tuple:
        """Wind components over the grid, or in the `cell`, along the grid (to "grid") or to east and north ("earth");
        as they are if they are so already or if nothing says what they follow."""
        if self.latitude is None or {self.winds, to} != {"grid", "earth"}:
            return u, v
        axis = self.x_direction[cell]
        wind = (u + 1j * v) * (axis if to == "earth" else axis.conj())
        return wind.real, wind.imag


def letters(name) -> str:
    return re.sub(r"[^a-z]", "", str(name).lower())


def meaning(name, variable) -> str:
    """latitude, longitude, another standard_name that names an axis, or ""."""
    about = variable.attrs
    standard, units = str(about.get("standard_name", "")), str(about.get("units", "")).lower()
    if standard in STANDARD:
        return standard
    if match := re.fullmatch(r"degrees?_?(n|north|e|east)", units):
        return "latitude" if match[1][0] == "n" else "longitude"
    found = (degrees for degrees, names in DEGREES.items() if names.fullmatch(letters(name)))
    return next(found, "") if not standard else ""


def axis_of(dataset: xr.Dataset, dim) -> str:
    """ "Y" or "X" where a dimension runs along rows' or columns' axis; "" for any other."""
    along = {n: v for n, v in dataset.variables.items() if v.dims == (dim,)}
    found = {STANDARD[m] for n, v in along.items() if (m := meaning(n, v)) in STANDARD}
    if len(found) == 2:  # a list of places, each with its latitude and longitude
        return ""
    axis = str(along[dim].attrs.get("axis", "")).upper() if dim in along else ""
    named = next((a for a, names in (("Y", ROWS), ("X", COLUMNS)) if names.fullmatch(letters(dim))), "")
    return next(iter(found), axis or named)


def horizontal(dataset: xr.Dataset, dims: list) -> tuple | None:
    """(y, x), the names of a field's two dimensions in our order; None if they do not span a map."""
    axes = {axis_of(dataset, d): d for d in dims}
    if len(dims) == 2 and set(axes) == {"Y", "X"}:
        return axes["Y"], axes["X"]
    for name, v in dataset.variables.items():  # names say nothing, but a latitude lies on both of them
        if len(dims) == 2 and set(v.dims) == set(dims) and meaning(name, v) == "latitude":
            values = v.transpose(*dims).values
            first = np.abs(np.diff(values, axis=0)).mean() > np.abs(np.diff(values, axis=1)).mean()
            return tuple(dims if first else dims[::-1])
    return None


def read_grid(dataset: xr.Dataset, dims: tuple[str, str], field_attrs: dict | None = None) -> Grid:
    """The grid of an opened dataset whose fields have the dimensions `dims`, (y, x).

    Latitude and longitude may be fields or the two 1-D coordinates of a regular grid. Without them they follow from
    x, y and the grid mapping (pyproj). x and y count as metres if their units say so; counters do not. ValueError for
    missing values, a unit of x or y that is not known, and a projection that needs pyproj where that is absent.
    """
    grid = Grid((dataset.sizes[dims[0]], dataset.sizes[dims[1]]), dims)

    def plane(name: str, variable) -> np.ndarray | None:
        """The values (y, x) of an array over the grid, perhaps repeated in time; None if it is another one."""
        others = [d for d in variable.dims if d not in dims]
        first = numbers(name, variable.isel(dict.fromkeys(others, 0)).transpose(*dims))
        if others and not np.array_equal(
            first, numbers(name, variable.isel(dict.fromkeys(others, -1)).transpose(*dims))
        ):
            raise fault(name, f"other values along {', '.join(map(str, others))}", "one grid, the same at all times",
                        "a file for each grid (a nest that moves has one each time)")  # fmt: skip
        return first

    grid.projection = projection_of(dataset, field_attrs or {})
    kind = grid.projection.get("grid_mapping_name")
    plain, rotated = kind == "latitude_longitude", kind == "rotated_latitude_longitude"
    for name, v in dataset.variables.items():
        what = meaning(name, v)
        if what in ("latitude", "longitude") and v.dtype.kind in "fiu" and getattr(grid, what) is None:
            if v.dims == (dims[what == "longitude"],) and not rotated:  # else they are those of the rotated pole
                values = numbers(name, v)[(slice(None), None) if what == "latitude" else None]
                setattr(grid, what, np.broadcast_to(values, grid.shape).copy())
            elif {*dims} <= {*v.dims}:
                setattr(grid, what, plane(str(name), v))
        known = STATIC_NAMES.get(str(v.attrs.get("standard_name")), STATIC_NAMES.get(letters(name)))
        if known and known not in grid.static and {*dims} <= {*v.dims} and v.dtype.kind in "fiub":
            factor = (METRES | {"gpm": 1.0} if known == "orography" else FRACTIONS).get(str(v.attrs.get("units", "m")))
            if factor or known != "orography":
                grid.static[known] = (plane(str(name), v) * (factor or 1.0)).astype(np.float32)
    if grid.latitude is None or grid.longitude is None:
        grid.latitude = grid.longitude = None
    along = [axis_values(dataset, dim) for dim in dims]
    units = {unit for _, unit in along}
    lengths, angles = "" in units and not plain, "degrees" in units and not (plain or rotated)
    if grid.latitude is None and (lengths or angles):
        got = "degrees that may be those of any pole" if "degrees" in units else "numbers without units"
        fix = "set their units attributes: m or km, or degrees_north and degrees_east"
        raise fault(f"{dims[0]} and {dims[1]}", got, "units, or latitude and longitude", fix)
    if grid.latitude is None and grid.projection and None not in units:
        grid.latitude, grid.longitude = from_projection(grid.projection, *along)
    if grid.longitude is not None:
        refuse_jumps(grid)
        grid.longitude = (grid.longitude + 180.0) % 360.0 - 180.0
    metres = [values * METRES[unit] for values, unit in along if unit in METRES]
    if len(metres) == 2 and grid.latitude is not None:
        far = [float(d.mean()) for d in grid._distances()]
        near = [abs(float(np.diff(m).mean())) for m in metres]
        if not all(0.5 < a / b < 2 for a, b in zip(near, far, strict=True)):
            metres = []  # numbers of cells, whatever their units say
    if len(metres) == 2:
        grid.y, grid.x = metres
    winds = [str(n) for n in dataset.data_vars if lookup(str(n)).name in ("U10", "V10")]
    kinds = {wind_reference(dataset, n, grid) for n in winds} - {""}
    if len(kinds) > 1:
        raise fault(" and ".join(sorted(winds)), "winds that follow the grid and others that follow the earth",
                    "one kind", "correct their wind_reference attributes")  # fmt: skip
    grid.winds = next(iter(kinds), "")
    return grid


def refuse_jumps(grid: Grid) -> None:
    """ValueError for latitudes and longitudes that turn back or repeat from cell to cell."""
    fix = "correct latitude and longitude, and sort rows and columns so that each place occurs once (xarray's sortby)"
    some = [slice(None, None, max(1, n // 32)) for n in grid.shape]
    for axis, part in ((0, (slice(None), some[1])), (1, (some[0], slice(None)))):
        phi, lam = (np.moveaxis(np.radians(v[part]), axis, 0) for v in (grid.latitude, grid.longitude))
        steps = np.diff(np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)]), axis=1)
        ahead = np.median((steps[:, 1:] * steps[:, :-1]).sum(0), axis=1)  # below 0 if a step goes back
        again = axis == 1 and grid.regular and np.ptp(np.unwrap(grid.longitude[0], period=360)) > 359.99
        if again or (ahead <= 0).any():
            got = f"{('rows', 'columns')[axis]} that repeat or turn back"
            raise fault("latitude and longitude", got, "cells side by side", fix)


def numbers(name, variable) -> np.ndarray:
    """The values of a coordinate or a static field, float64; ValueError if they cannot be read or some are missing."""
    try:
        values = np.asarray(variable.values, np.float64)
    except (OSError, RuntimeError, ValueError) as error:  # what a broken chunk raises, by codec
        raise fault(f"{name} cannot be read", str(error), "whole chunks", "fetch or write it again") from error
    if not np.isfinite(values).all():
        raise fault(name, "missing values", "a number in every cell", "write it again, or remove it")
    return np.degrees(values) if str(variable.attrs.get("units", "")).lower().startswith("rad") else values


def axis_values(dataset: xr.Dataset, dim) -> tuple[np.ndarray | None, str | None]:
    """The values along a dimension and their unit: a key of METRES, or "degrees"; (None, None) for counters and for
    what has no numbers."""
    same = [n for n, v in dataset.variables.items() if v.dims == (dim,) and n != dim and meaning(n, v) in STANDARD]
    name = dim if dim in dataset.variables else next(iter(same), None)
    if name is None or dataset[name].dtype.kind not in "fiu" or dataset.sizes[dim] < 2:
        return None, None
    values = numbers(name, dataset[name])
    units = str(dataset[name].attrs.get("units", "")).strip().lower()
    if units.startswith(("deg", "rad")) or meaning(name, dataset[name]).removeprefix("grid_") in (
        "latitude",
        "longitude",
    ):
        return values, "degrees"
    if units in METRES:
        return values, units
    if units in ("", "1") and not np.allclose(np.abs(np.diff(values)), 1.0):
        return values, ""  # metres, perhaps: latitude and longitude tell
    if units not in ("", "1") and axis_of(dataset, dim):
        raise fault(name, f"the unit {units!r}", "m or km", f"convert {name} to m and set its units attribute")
    return None, None


def projection_of(dataset: xr.Dataset, field_attrs: dict) -> dict:
    """The CF grid mapping: the one that the field names, or the only one of the dataset."""
    named = str(field_attrs.get("grid_mapping", "")).split(":")[0].strip()
    mappings = {str(n): dict(v.attrs) for n, v in dataset.variables.items() if v.ndim == 0}
    found = {n: about for n, about in mappings.items() if {"grid_mapping_name", "crs_wkt", "spatial_ref"} & {*about}}
    if named not in found and len(found) != 1:
        return {}
    return found[named] if named in found else next(iter(found.values()))


def from_projection(projection: dict, y: tuple, x: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Latitude and longitude (y, x) in degrees of the values and units along both axes; ValueError without pyproj."""
    try:
        from pyproj import CRS, Transformer
        from pyproj.exceptions import ProjError
    except ImportError:
        fix = ".venv/bin/python -m pip install pyproj"
        kind = projection.get("grid_mapping_name", "another projection")
        raise fault("latitude", f"none, on the grid mapping {kind}", "it, or pyproj to compute it", fix) from None
    try:
        crs = CRS.from_cf(projection)
        to_degrees = Transformer.from_crs(crs, crs.source_crs or crs.geodetic_crs, always_xy=True)  # on its own sphere
    except (ProjError, KeyError, ValueError, TypeError) as error:
        fix = "correct its attributes, or add latitude and longitude"
        raise fault(
            "grid mapping", f"{projection}, which pyproj refuses ({error})", "a CF grid mapping", fix
        ) from error
    (y, y_unit), (x, x_unit) = y, x
    longitude, latitude = to_degrees.transform(*np.meshgrid(x * METRES.get(x_unit, 1.0), y * METRES.get(y_unit, 1.0)))
    return latitude, longitude


def wind_reference(dataset: xr.Dataset, array: str, grid: Grid) -> str:
    """What a wind component follows, for Grid.winds. On a regular grid both are the same, "earth"."""
    about = {**dataset[array].attrs}
    if grid.regular:
        return "earth"
    if "wind_reference" in about:
        return str(about["wind_reference"])
    if "GRIB_uvRelativeToGrid" in about:  # cfgrib's standard_name says eastward of all winds
        return "grid" if int(about["GRIB_uvRelativeToGrid"]) else "earth"
    title = " ".join(str(dataset.attrs.get(k, "")) for k in ("title", "TITLE", "source", "name", "dataset_id")).lower()
    if "hrrr" in title or "wrf" in title:  # their winds follow the grid, whatever standard_name says
        return "grid"
    standard = str(about.get("standard_name", ""))
    if standard in ("x_wind", "y_wind", "grid_eastward_wind", "grid_northward_wind"):
        return "grid"
    return "earth" if standard in ("eastward_wind", "northward_wind") else ""


def same_grid(a: Grid, b: Grid, tolerance: float = 1e-3) -> bool:
    """Whether two grids have the same shape and, where both know them, the same latitudes and longitudes
    (tolerance in degrees)."""
    if a.shape != b.shape or a.latitude is None or b.latitude is None:
        return a.shape == b.shape
    pairs = (a.latitude, b.latitude), (a.longitude, b.longitude)
    return all(np.allclose(one, other, rtol=0, atol=tolerance) for one, other in pairs)


def lambert_latlon(x: np.ndarray, y: np.ndarray, latitude_0=38.5, longitude_0=262.5) -> tuple[np.ndarray, np.ndarray]:
    """Latitude and longitude (degrees) of x, y (m) on the spherical Lambert conformal conic that touches
    the Earth at latitude_0: HRRR's projection by default. x and y broadcast; pass x[None, :], y[:, None].

    Source: Snyder, Map Projections: A Working Manual (USGS PP 1395), eqs. 14-1 to 15-11, one parallel.
    """
    phi_0 = np.radians(latitude_0)
    n = np.sin(phi_0)
    rho_0 = EARTH_RADIUS / np.tan(phi_0)
    rho = np.hypot(x, rho_0 - y)
    latitude = 2 * np.arctan((rho_0 / rho) ** (1 / n) * np.tan(np.pi / 4 + phi_0 / 2)) - np.pi / 2
    longitude = longitude_0 + np.degrees(np.arctan2(x, rho_0 - y) / n)
    return np.degrees(latitude), (longitude + 180.0) % 360.0 - 180.0


def lambert_xy(latitude, longitude, lat_0, lat_1, lat_2, lon_0, R) -> tuple[float, float]:
    """x and y (m) of a point (degrees) on a spherical Lambert conformal conic.

    Source: Snyder, Map Projections: A Working Manual (USGS PP 1395), eqs. 14-1 to 15-3.
    """
    phi_1, phi_2 = np.radians(lat_1), np.radians(lat_2)
    t, t_0, t_1, t_2 = (np.tan(np.pi / 4 + np.radians(v) / 2) for v in (latitude, lat_0, lat_1, lat_2))
    n = np.sin(phi_1) if lat_1 == lat_2 else np.log(np.cos(phi_1) / np.cos(phi_2)) / np.log(t_2 / t_1)
    scale = R * np.cos(phi_1) * t_1**n / n
    theta = n * np.radians((longitude - lon_0 + 180) % 360 - 180)
    return scale / t**n * np.sin(theta), scale / t_0**n - scale / t**n * np.cos(theta)


HRRR_X0, HRRR_Y0, HRRR_SPACING = -2697520.142522, -1587306.152557, 3000.0  # m, lower left cell of HRRR CONUS
LAMBERT_HRRR = {
    "grid_mapping_name": "lambert_conformal_conic",
    "standard_parallel": 38.5,
    "latitude_of_projection_origin": 38.5,
    "longitude_of_central_meridian": 262.5,
    "earth_radius": EARTH_RADIUS,
}
