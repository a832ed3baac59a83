"""Coastlines and borders in the plane of any grid, from a file that lies beside this one; nothing is downloaded.

plotting/borders.npz holds, good to a few kilometres, the coasts and countries of Natural Earth 1:50m
(naturalearthdata.com, version 4.1) and the states, coasts and Great Lakes of the cartographic boundary files of the US
Census Bureau (2017), both in the public domain. Its arrays are the first point of each line, the steps from point to
point east and north in 1/QUANTUM degrees, and the number of points and the kind of each line.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from matplotlib.collections import LineCollection

COAST, COUNTRY, STATE = 0, 1, 2  # kinds of line
QUANTUM = 1000  # steps per degree: 111 m
FILE = Path(__file__).with_name("borders.npz")
WIDTHS = {COAST: 0.9, COUNTRY: 0.9, STATE: 0.6}  # points
DEGREE = 7  # of the polynomial that stands for the projection
MARGIN = 1.0  # degrees around the domain in which lines are looked for


@lru_cache(maxsize=1)
def borders() -> list[tuple[int, np.ndarray]]:
    """(kind, (n, 2) longitude and latitude in degrees) of every line."""
    with np.load(FILE, allow_pickle=False) as file:
        firsts, lengths, kinds = file["firsts"], file["lengths"], file["kinds"]
        steps = np.stack([file["east"], file["north"]], axis=1).astype(np.int32)
    cuts = np.cumsum(lengths - 1)[:-1]
    parts = zip(kinds, firsts, np.split(steps, cuts), strict=True)
    return [(int(k), np.cumsum(np.vstack([first, part]), axis=0) / QUANTUM) for k, first, part in parts]


@lru_cache(maxsize=1)
def boxes() -> np.ndarray:
    """(4, lines): middle and half width in longitude, lowest and highest latitude of every line, in degrees."""
    west, south, east, north = np.array([(*line.min(axis=0), *line.max(axis=0)) for _, line in borders()]).T
    return np.stack([(west + east) / 2, (east - west) / 2, south, north])


class Plane:
    """Longitude and latitude to the plane of a grid, fitted to the grid's own coordinates.

    x, y: (H,), (W,) coordinates of the plane; latitude, longitude: (H, W) degrees. x and y are fitted as polynomials of
    the stereographic coordinates about the domain's middle, in which every map projection in use for limited areas is
    smooth; no projection needs to be known. `misfit` is the largest error of the fit for the grid's own cells, in
    cells.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, latitude: np.ndarray, longitude: np.ndarray):
        H, W = latitude.shape
        rows, columns = (np.unique(np.linspace(0, n - 1, min(n, 40)).round().astype(int)) for n in (H, W))
        lat, lon = latitude[np.ix_(rows, columns)], longitude[np.ix_(rows, columns)]
        self.middle = float(latitude[H // 2, W // 2]), float(longitude[H // 2, W // 2])
        self.scale = max(float(np.hypot(*self._stereographic(lon, lat)).max()), 1e-9)
        self.degree = min(DEGREE, len(rows) - 1, len(columns) - 1)
        powers = self._powers(lon.ravel(), lat.ravel())
        target = np.stack(np.broadcast_arrays(x[columns][None, :], y[rows][:, None]), axis=-1).reshape(-1, 2)
        self.weights = np.linalg.lstsq(powers, target, rcond=None)[0]
        cell = [abs(v[-1] - v[0]) / max(len(v) - 1, 1) or 1.0 for v in (x, y)]
        self.misfit = float(np.abs((powers @ self.weights - target) / cell).max())

    def __call__(self, longitude: np.ndarray, latitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x, y of points (n,) near the domain; wrong far away from it."""
        return tuple((self._powers(longitude, latitude) @ self.weights).T)

    def _stereographic(self, longitude, latitude):
        """Snyder, Map Projections: A Working Manual (USGS PP 1395), eqs. 21-2 to 21-4, on the unit sphere."""
        phi_0 = np.radians(self.middle[0])
        phi, delta = np.radians(latitude), np.radians(longitude - self.middle[1])
        k = 2 / (1 + np.sin(phi_0) * np.sin(phi) + np.cos(phi_0) * np.cos(phi) * np.cos(delta))
        north = np.cos(phi_0) * np.sin(phi) - np.sin(phi_0) * np.cos(phi) * np.cos(delta)
        return k * np.cos(phi) * np.sin(delta), k * north

    def _powers(self, longitude, latitude) -> np.ndarray:
        """(n, terms): all products u^i v^j of the scaled stereographic coordinates up to the degree."""
        u, v = (w / self.scale for w in self._stereographic(longitude, latitude))
        exponents = [(i, j) for i in range(self.degree + 1) for j in range(self.degree + 1 - i)]
        return np.stack([u**i * v**j for i, j in exponents], axis=1)


def lines_within(x, y, latitude, longitude) -> dict[int, list[np.ndarray]]:
    """{kind: [(n, 2) x, y]} of the lines that may cross a domain; none if the grid does not fit its plane."""
    plane = Plane(x, y, latitude, longitude)
    if plane.misfit > 0.5:
        return {}
    centre = plane.middle[1]
    east = _turn(longitude - centre)
    low, high = (np.array([f(east), f(latitude)]) for f in (np.min, np.max))
    middle, half, south, north = boxes()
    beside = np.abs(_turn(middle - centre - (low[0] + high[0]) / 2)) - half > (high[0] - low[0]) / 2 + MARGIN
    near_lines = np.flatnonzero(~beside & (south < high[1] + MARGIN) & (north > low[1] - MARGIN))
    found: dict[int, list[np.ndarray]] = {}
    for kind, line in (borders()[i] for i in near_lines):
        points = np.stack([_turn(line[:, 0] - centre), line[:, 1]], axis=1)
        near = np.all((points > low - MARGIN) & (points < high + MARGIN), axis=1)
        if not near.any():
            continue
        # A segment is drawn if one of its ends is near, so that no line ends inside the map.
        drawn = near | np.r_[near[1:], False] | np.r_[False, near[:-1]]
        for part in np.split(np.arange(len(line)), 1 + np.flatnonzero(np.diff(drawn.astype(int)))):
            if drawn[part[0]] and len(part) > 1:
                found.setdefault(kind, []).append(np.stack(plane(line[part, 0], line[part, 1]), axis=1))
    return found


def draw_borders(axes, lines: dict[int, list[np.ndarray]], weight: float = 1.0) -> None:
    """Add the lines of `lines_within` to matplotlib axes, `weight` times as wide as usual; their limits stay."""
    for kind, parts in lines.items():
        collection = LineCollection(
            parts, colors="0.15", linewidths=weight * WIDTHS[kind], zorder=2.5, label=f"borders {kind}"
        )
        axes.add_collection(collection, autolim=False)


def _turn(degrees):
    return (degrees + 180.0) % 360.0 - 180.0
