"""Artefacts of the grid: power in straight lines of 2, 4, 8 or 16 cells, errors that depend on the place in a block,
and errors that grow towards the boundary.

Strided and transposed convolutions leave patterns of exactly these periods, of any phase; nature has none.
"""

import math
from functools import lru_cache

import numpy as np
import torch

PERIODS = (2, 4, 8, 16)  # cells
FEWEST_WAVES = 3  # a period must fit this often into a tile: longer ones mix with the window's own width
VISIBLE = 0.05  # share of the truth's power below which a line is not counted, see `line_sums`
DISTANCES = (0, 1, 2, 4, 8, 16, 32)  # cells from the boundary at which the classes of `edge_sums` begin


def line_sums(modes: np.ndarray) -> dict[str, list[float] | None]:
    """A_p of the forecast minus A_p of the truth, in dB, and 1 for one case, by period p in cells.

    modes: (2, tile_y, tile_x // 2 + 1), power of forecast and truth summed over tiles, laid out as rfft2 does.
    A_p = 10 log10(line power at k = 1/p / power around it), mean over both axes and both diagonals. A real artefact is
    modulated by the weather, so the line is the mean over the modes within 1 to 6 of it; around it is the ring, the
    modes up to 4 further out, both after a straight line through log power against log |k| in the ring is taken out,
    because a blurred forecast is steeper than the truth. VISIBLE of the truth's power is added to both for the same
    reason: what is far below natural detail of its size is curvature of the spectrum or rounding.
    Cases are averaged in dB: a mean spectrum belongs to the few strongest squalls, and its index scatters by 2 dB
    between two sets of twelve true fields; this one scatters by 0.5 dB (synthetic storms, 64 x 64).
    None for a period that does not fit into the tile; zeros (no case) where a field is constant.
    """
    tile = (modes.shape[1], 2 * (modes.shape[2] - 1))
    fits = {p: not any(n % p or n // p < FEWEST_WAVES for n in tile) for p in PERIODS}
    strongest = modes.max(axis=(1, 2))
    if not (strongest > 0).all():
        return {str(p): [0.0, 0.0] if fits[p] else None for p in PERIODS}
    log = np.log(modes + VISIBLE * modes[1] + 1e-14 * strongest[1]).reshape(2, -1)
    out = {}
    for p in PERIODS:
        if fits[p]:
            forecast, truth = _excess(log, *_places(tile, p))
        out[str(p)] = [float(forecast - truth), 1.0] if fits[p] else None
    return out


def _excess(log: np.ndarray, modes: np.ndarray, log_k: np.ndarray, fits: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Power of the lines of a period over that around them, dB: (2,) from log power (2, modes of the tile) and what
    `_places` gives."""
    near = log[:, modes]
    slopes = np.add.reduceat(near * fits, starts, axis=1)  # of ring, hood, ring, hood, ...; those of hoods are 0
    sizes = np.diff(starts, append=len(modes))
    slopes[:, 1::2] = slopes[:, ::2]
    powers = np.add.reduceat(np.exp(near - np.repeat(slopes, sizes, axis=1) * log_k), starts, axis=1) / sizes
    return (10 * np.log10(powers[:, 1::2] / powers[:, ::2])).mean(axis=1)


def line_index(sums: dict[str, list[float] | None] | None) -> dict[str, float | None]:
    """The mean of `line_sums` over cases, dB by period; above 0 the forecast has lines that the truth has not."""
    if sums is None:
        return dict.fromkeys(map(str, PERIODS))
    return {p: None if s is None else s[0] / s[1] if s[1] else math.nan for p, s in sums.items()}


@lru_cache(maxsize=16)
def _places(tile: tuple[int, int], period: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each line of this period its ring and the line itself, one after the other: flat indices of the modes, their
    log |k| relative to the mean of the ring, weights whose sum with log power is its slope in log |k| (0 outside
    rings), and where each ring and each line begins."""
    ky, kx = np.fft.fftfreq(tile[0])[:, None], np.fft.rfftfreq(tile[1])[None, :]
    k, shortest = np.hypot(ky, kx), min(tile)
    reach = min(max(shortest // period // 5, 1), 6)

    def square(y: float, x: float, reach: int) -> np.ndarray:
        """Modes within `reach` of (y, x) along both axes; those of negative kx are their mirror images."""
        out = np.zeros(k.shape, bool)
        for sign in (1, -1):
            down, along = np.abs((ky - sign * y + 0.5) % 1 - 0.5), np.abs(kx - sign * x)
            along = np.minimum(along, 1 - along)
            out |= (down * tile[0] <= reach + 1e-6) & (along * tile[1] <= reach + 1e-6)
        return out & (k > 0)

    f = 1 / period
    lines = [(0.0, f), (f, 0.0), (f, f)] + ([(-f, f)] if period > 2 else [])
    every = np.any([square(y, x, reach) for y, x in lines], axis=0)
    modes, log_k, fits = [], [], []
    for y, x in lines:
        hood, ring = square(y, x, reach), square(y, x, reach + 4) & ~every & (k > 1.5 / shortest)
        level = np.log(k[ring]).mean()
        modes += [np.flatnonzero(ring), np.flatnonzero(hood)]
        log_k += [np.log(k[m]) - level for m in (ring, hood)]
        fits += [log_k[-2] / (log_k[-2] @ log_k[-2]), np.zeros(hood.sum())]
    starts = np.cumsum([0, *map(len, modes)])[:-1]
    return np.concatenate(modes), np.concatenate(log_k), np.concatenate(fits), starts


def phase_sums(error, scored=None) -> dict[str, np.ndarray]:
    """Sums and counts of the error (y, x) by place (i mod 16, j mod 16): two (16, 16) arrays that add over cases."""
    error = np.asarray(error, float)
    scored = np.ones(error.shape, bool) if scored is None else np.asarray(scored)
    widest = PERIODS[-1]
    (H, W), (down, along) = error.shape, (-(-n // widest) for n in error.shape)
    sums = np.zeros((2, down * widest, along * widest))
    sums[:, :H, :W] = np.where(scored, error, 0.0), scored
    return dict(zip(("error", "count"), sums.reshape(2, down, widest, along, widest).sum((1, 3)), strict=True))


def phase_spread(sums: dict[str, np.ndarray], rmse: float) -> dict[str, float | None]:
    """By period p: the standard deviation of the mean error over the p x p places (i mod p, j mod p), in units of the
    RMSE. An error that knows nothing of the grid gives about p / sqrt(independent cells)."""
    out = {}
    for p in PERIODS:
        n = PERIODS[-1] // p
        error, count = (sums[key].reshape(n, p, n, p).sum((0, 2)) for key in ("error", "count"))
        known = (count > 0).all() and rmse > 0
        out[str(p)] = float((error / count).std() / rmse) if known else None
    return out


def edge_width(shape: tuple[int, int]) -> int:
    """Cells from the boundary that count as the edge band: 35, at most 8 % of the shorter side, at least 1."""
    return max(1, min(35, int(0.08 * min(shape))))


def edge_sums(error, scored=None) -> dict[str, np.ndarray]:
    """Squared error and cells in the edge band and the interior, (2,) each, and by DISTANCES, (7,) each."""
    error = torch.as_tensor(error).double()
    band, distance = _edge_classes(tuple(error.shape))
    square, cells = error.square(), torch.ones_like(error)
    if scored is not None:
        square, cells = torch.where(torch.as_tensor(scored), square, 0.0), torch.as_tensor(scored).double()
    out = {}
    for name, classes, n in (("band", band, 2), ("distance", distance, len(DISTANCES))):
        out[name + "_squared"] = torch.bincount(classes, square.flatten(), n).numpy()
        out[name + "_cells"] = torch.bincount(classes, cells.flatten(), n).numpy()
    return out


@lru_cache(maxsize=4)
def _edge_classes(shape: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """For every cell: 0 in the edge band, 1 inside; and the class of its distance to the boundary. Flat."""
    rows, columns = (np.minimum(np.arange(n), np.arange(n)[::-1]) for n in shape)
    distance = np.minimum(rows[:, None], columns[None, :]).ravel()
    band = (distance >= edge_width(shape)).astype(np.int64)
    return torch.as_tensor(band), torch.as_tensor(np.digitize(distance, DISTANCES) - 1)


def edge_scores(sums: dict[str, np.ndarray]) -> dict:
    """RMSE in the edge band and inside it, and by distance to the boundary in cells; NaN where no cell counts."""
    with np.errstate(invalid="ignore", divide="ignore"):
        band = np.sqrt(sums["band_squared"] / sums["band_cells"])
        distance = np.sqrt(sums["distance_squared"] / sums["distance_cells"])
    by_distance = {f"{d}": float(v) for d, v in zip(DISTANCES, distance, strict=True)}
    return {"edge_rmse": float(band[0]), "interior_rmse": float(band[1]), "rmse_by_edge_distance": by_distance}
