"""Where the cells are: coordinates, projection, static fields and spacing of a (y, x) grid."""

from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from data.command import fault

EARTH_RADIUS = 6_371_229.0  # m, the sphere of NOAA's models


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

    @property
    def spacing(self) -> tuple[float, float] | None:
        """Mean distance between rows and between columns in m, or None where no coordinate tells it."""
        if self.y is not None and self.x is not None:
            return abs(float(np.diff(self.y).mean())), abs(float(np.diff(self.x).mean()))
        if self.latitude is not None:
            rows = np.radians(np.abs(np.diff(self.latitude, axis=0)).mean())
            columns = np.radians(np.abs(np.diff(self.longitude, axis=1)).mean())
            shrink = np.cos(np.radians(self.latitude)).mean()
            return float(EARTH_RADIUS * rows), float(EARTH_RADIUS * columns * shrink)
        return None


def read_grid(dataset: xr.Dataset, dims: tuple[str, str]) -> Grid:
    """The grid of an opened store whose fields have the trailing dimensions `dims`.

    Latitude and longitude may be (y, x) fields or the two 1-D coordinates of a regular grid; x and y
    count as metres only where they are coordinates that are not degrees.
    """
    grid = Grid((dataset.sizes[dims[0]], dataset.sizes[dims[1]]), dims)
    names = {str(n).lower(): n for n in dataset.variables}

    def numbers(name: str, values: np.ndarray) -> np.ndarray:
        if not np.isfinite(values).all():
            raise fault(name, "missing values", "a number in every cell", "write it again, or remove it")
        return values

    found = [dataset[names[n]] for pair in (("latitude", "lat"), ("longitude", "lon")) for n in pair if n in names]
    if [v.dims for v in found] in ([dims[:1], dims[1:]], [dims, dims]):
        latitude, longitude = (numbers(v.name, v.values.astype(np.float64)) for v in found)
        if latitude.ndim == 1:
            latitude, longitude = np.meshgrid(latitude, longitude, indexing="ij")
        grid.latitude, grid.longitude = latitude, (longitude + 180.0) % 360.0 - 180.0
    for axis, dim in zip(("y", "x"), dims, strict=True):
        degrees = dim in dataset.coords and str(dataset[dim].attrs.get("units", "m")).startswith("deg")
        if dim in dataset.coords and not degrees and dim.lower() not in ("latitude", "lat", "longitude", "lon"):
            setattr(grid, axis, dataset[dim].values.astype(np.float64))
    if "spatial_ref" in dataset.variables:
        grid.projection = dict(dataset["spatial_ref"].attrs)
    for name in ("orography", "land_sea_mask"):
        if name in dataset.variables and dataset[name].dims == dims:
            grid.static[name] = numbers(name, dataset[name].values.astype(np.float32))
    return grid


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
