"""Windowed spectra of one field against its truth in bands of wavelength.

The domain is not periodic: without a window the jump between opposite edges fills every wavelength and
hides blur. Power alone can be faked by old detail left in place, so coherence always goes with it. Written apart
from the spectral term of the loss on purpose: a fault there must not hide here.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

# Wavelength bands in grid lengths; on 3 km: 6-15, 15-30, 30-60 and 60-200 km.
BANDS = ((2, 5), (5, 10), (10, 20), (20, 67))
TILE = 256  # cells, widest tile


def band_names() -> list[str]:
    """The bands as text: "2-5", "5-10", ... grid lengths."""
    return [f"{low}-{high}" for low, high in BANDS]


def spectrum_sums(forecast, truth, spacing: tuple[float, float], modes: bool = False) -> dict | None:
    """Power of both fields (y, x) and their cross power (real part) in each of BANDS, summed over tiles.

    `spacing` (dy, dx) in any one unit. A band is None where its longest wavelength is longer than half
    the tile's shorter side; the whole result is None where a field has missing cells. With `modes`, the power
    of every mode too: (2, tile_y, tile_x // 2 + 1) float64 numpy, forecast and truth, laid out as rfft2 does.
    """
    fields = torch.stack([torch.as_tensor(forecast), torch.as_tensor(truth)])
    if not bool(torch.isfinite(fields).all()):
        return None
    H, W = fields.shape[1:]
    tile = (tile_side(H), tile_side(W))
    window, bands = _window(tile), _band_masks(tile, tuple(map(float, spacing)))
    total = torch.zeros(3, tile[0], tile[1] // 2 + 1, dtype=torch.float64)
    for top in _starts(H, tile[0]):
        row = [fields[:, top : top + tile[0], left : left + tile[1]] for left in _starts(W, tile[1])]
        tiles = torch.stack(row).float()  # (tiles, 2, tile_y, tile_x)
        mean = (tiles * window).sum(dim=(-2, -1), keepdim=True) / window.sum()
        waves = torch.view_as_real(torch.fft.rfft2((tiles - mean) * window, norm="ortho"))
        f, o = waves[:, 0], waves[:, 1]  # (tiles, tile_y, tile_x // 2 + 1, 2), the last real and imaginary part
        total += torch.stack([(a * b).sum(dim=(0, -1)) for a, b in ((f, f), (o, o), (f, o))])
    sums = total.flatten(1) @ bands.flatten(1).T  # (3, bands)
    longest = min(tile[0] * spacing[0], tile[1] * spacing[1]) / 2 / _grid_length(spacing)
    out = {}
    for name, values in zip(("power_forecast", "power_truth", "cross"), sums.tolist(), strict=True):
        out[name] = [v if high <= longest else None for v, (_, high) in zip(values, BANDS, strict=True)]
    return out | ({"modes": total[:2].numpy()} if modes else {})


def power_ratio(sums: dict | None) -> list[float | None]:
    """Power of the forecast over power of the truth, by band: below 1 is blurred."""
    if sums is None:
        return [None] * len(BANDS)
    pairs = zip(sums["power_forecast"], sums["power_truth"], strict=True)
    return [None if f is None else f / o if o else math.nan for f, o in pairs]


def coherence(sums: dict | None) -> list[float | None]:
    """Re sum P T* / sqrt(sum |P|^2 sum |T|^2), by band: 1 is in place, 0 is detail in the wrong place."""
    if sums is None:
        return [None] * len(BANDS)
    triples = zip(sums["cross"], sums["power_forecast"], sums["power_truth"], strict=True)
    return [None if c is None else c / math.sqrt(f * o) if f * o else math.nan for c, f, o in triples]


def ring_sums(modes, tile: tuple[int, int], spacing: tuple[float, float]) -> np.ndarray:
    """(4, rings): power of forecast and truth (from `modes`), wavenumber and count in rings one wave per tile wide."""
    ring, k, twice, inside = _rings(tile, tuple(map(float, spacing)))
    weights = [*(np.asarray(p) * twice for p in modes), k * twice, twice]
    return np.stack([np.bincount(ring, w[inside]) for w in weights])


def effective_resolution(sums: np.ndarray | None) -> float | None:
    """The smallest wavelength, in grid lengths, at which the forecast has at least half the truth's power, from
    summed `ring_sums`. None where spectra are not available or no ring reaches one half."""
    if sums is None:
        return None
    forecast, truth, k, count = sums[:, 1:]  # the first ring is the mean and waves longer than a tile
    good = (forecast >= 0.5 * truth) & (truth > 0)
    return float((count / np.where(k > 0, k, np.inf))[good].min()) if good.any() else None


def tile_side(side: int) -> int:
    """Cells across a tile: at most TILE, and a multiple of 16 (of 4 on tiny domains), so that waves of 2, 4, 8 and
    16 cells fall on modes of their own."""
    return min(TILE, side - side % 16 if side >= 48 else side - side % 4 if side >= 12 else side)


def _starts(side: int, tile: int) -> list[int]:
    """First cells of tiles spread evenly over a side, overlapping by half or a little more."""
    count = math.ceil((side - tile) / (tile / 2)) + 1
    return [round(i * (side - tile) / max(count - 1, 1)) for i in range(count)]


@lru_cache(maxsize=4)
def _window(tile: tuple[int, int]) -> Tensor:
    rows, columns = (torch.hann_window(n, periodic=True) for n in tile)
    return rows[:, None] * columns[None, :]


@lru_cache(maxsize=4)
def _wavenumbers(tile: tuple[int, int], spacing: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Cycles per grid length of each mode of rfft2, and how often it counts, 1 or 2: (tile_y, tile_x // 2 + 1)."""
    fy = torch.fft.fftfreq(tile[0], spacing[0], dtype=torch.float64)
    fx = torch.fft.rfftfreq(tile[1], spacing[1], dtype=torch.float64)
    k = torch.hypot(fy[:, None], fx[None, :]) * _grid_length(spacing)
    # rfft2 leaves out the mirror images of the columns between the mean and the Nyquist column.
    twice = torch.full_like(k, 2.0)
    twice[:, 0] = 1.0
    if tile[1] % 2 == 0:
        twice[:, -1] = 1.0
    return k, twice


@lru_cache(maxsize=4)
def _rings(tile: tuple[int, int], spacing: tuple[float, float]):
    """Ring of the modes up to two grid lengths, wavenumber and weight of all, and which those are; numpy."""
    k, twice = (t.numpy() for t in _wavenumbers(tile, spacing))
    inside = k <= 0.5 + 1e-9
    return np.floor(k * max(tile) + 1e-6).astype(int)[inside], k, twice, inside


@lru_cache(maxsize=4)
def _band_masks(tile: tuple[int, int], spacing: tuple[float, float]) -> Tensor:
    """(bands, tile_y, tile_x // 2 + 1): how often each mode of rfft2 counts in each band, 0, 1 or 2."""
    k, twice = _wavenumbers(tile, spacing)
    tiny = 1e-9  # the wave of exactly two grid lengths belongs to the first band
    masks = [(k > 1 / high + tiny) & (k <= 1 / low + tiny) for low, high in BANDS]
    return torch.stack(masks) * twice


def _grid_length(spacing: tuple[float, float]) -> float:
    return math.sqrt(spacing[0] * spacing[1])
