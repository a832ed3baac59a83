"""Windowed spectra of one field against its truth: power and coherence in bands of wavelength, effective resolution,
and lines at the periods of the network's grids.

The domain is not periodic: without a window the jump between opposite edges fills every wavelength and hides blur.
Power alone can be faked by old detail left in place, so coherence always goes with it. Written apart from the
spectral term of the loss on purpose: a fault there must not hide here. NaN is what is not available.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from verification.scores import ratio

# Wavelength bands in grid lengths; on 3 km: 6-15, 15-30, 30-60 and 60-200 km.
BANDS = ((2, 5), (5, 10), (10, 20), (20, 67))
BAND_NAMES = tuple(f"{low}-{high}" for low, high in BANDS)
TILE = 256  # cells, widest tile
PERIODS = (2, 4, 8, 16)  # cells; strided and transposed convolutions leave patterns of these periods, nature has none
FEWEST_WAVES = 3  # a period must fit this often into a tile: longer ones mix with the window's own width
VISIBLE = 0.05  # share of the truth's power below which a line is not counted, see `line_sums`


def spectrum_sums(forecast, truth, spacing: tuple[float, float], detail: bool = False) -> dict:
    """`bands`: (3, bands), power of forecast and truth and their cross power (real part), summed over tiles. NaN for
    a band whose longest wave is longer than half the tile's shorter side. With `detail` also `rings` and `lines`.

    forecast, truth: (y, x); spacing: (dy, dx) in any one unit. All sums are NaN if a cell is missing.
    """
    fields = torch.stack([torch.as_tensor(forecast), torch.as_tensor(truth)])
    if not bool(torch.isfinite(fields).all()):
        shapes = {"bands": (3, len(BANDS))} | ({"rings": (4, 1), "lines": (len(PERIODS), 2)} if detail else {})
        return {k: np.full(shape, np.nan) for k, shape in shapes.items()}
    H, W = fields.shape[1:]
    tile, spacing = (tile_side(H), tile_side(W)), tuple(map(float, spacing))
    window = _window(tile)
    total = torch.zeros(3, tile[0], tile[1] // 2 + 1, dtype=torch.float64)
    for top in _starts(H, tile[0]):
        row = [fields[:, top : top + tile[0], left : left + tile[1]] for left in _starts(W, tile[1])]
        tiles = torch.stack(row).float()  # (tiles, 2, tile_y, tile_x)
        mean = (tiles * window).sum(dim=(-2, -1), keepdim=True) / window.sum()
        waves = torch.view_as_real(torch.fft.rfft2((tiles - mean) * window, norm="ortho"))
        f, o = waves[:, 0], waves[:, 1]  # (tiles, tile_y, tile_x // 2 + 1, 2), the last real and imaginary part
        total += torch.stack([(a * b).sum(dim=(0, -1)) for a, b in ((f, f), (o, o), (f, o))])
    bands = (total.flatten(1) @ _band_masks(tile, spacing).flatten(1).T).numpy()
    longest = min(tile[0] * spacing[0], tile[1] * spacing[1]) / 2 / math.sqrt(spacing[0] * spacing[1])
    bands[:, [high > longest for _, high in BANDS]] = np.nan
    modes = total[:2].numpy()
    more = {"rings": ring_sums(modes, tile, spacing), "lines": line_sums(modes)} if detail else {}
    return {"bands": bands} | more


def power_ratio(bands: np.ndarray) -> np.ndarray:
    """Power of the forecast over power of the truth, by band: below 1 is blurred. bands: (..., 3, bands)."""
    return ratio(bands[..., 0, :], bands[..., 1, :])


def coherence(bands: np.ndarray) -> np.ndarray:
    """Re sum P T* / sqrt(sum |P|^2 sum |T|^2), by band: 1 is in place, 0 is detail in the wrong place."""
    return ratio(bands[..., 2, :], np.sqrt(bands[..., 0, :] * bands[..., 1, :]))


def ring_sums(modes: np.ndarray, tile: tuple[int, int], spacing: tuple[float, float]) -> np.ndarray:
    """(4, rings): power of forecast and truth (`modes`, laid out as rfft2 does), wavenumber and count in rings one
    wave per tile wide."""
    k, twice = (t.numpy() for t in _wavenumbers(tile, spacing))
    inside = k <= 0.5 + 1e-9
    ring = np.floor(k * max(tile) + 1e-6).astype(int)[inside]
    return np.stack([np.bincount(ring, (w * twice)[inside]) for w in (*modes, k, 1.0)])


def effective_resolution(rings) -> float:
    """The smallest wavelength, in grid lengths, down to which the forecast has at least half the truth's power: the
    end of the unbroken run of such rings that begins at the longest waves. NaN if the first ring has less."""
    forecast, truth, k, count = rings[:, 1:]  # the first ring is the mean and waves longer than a tile
    good = np.append((forecast >= 0.5 * truth) & (truth > 0), False)
    run = int(good.argmin())
    return float(count[run - 1] / k[run - 1]) if run else math.nan


def line_sums(modes: np.ndarray) -> np.ndarray:
    """(periods, 2): A_p of the forecast minus A_p of the truth, in dB, and 1 for one case.

    modes: (2, tile_y, tile_x // 2 + 1), power of forecast and truth summed over tiles, laid out as rfft2 does.
    A_p = 10 log10(line power at k = 1/p / power around it), mean over both axes and both diagonals. A real artefact is
    modulated by the weather, so the line is the mean over the modes within 1 to 6 of it; around it is the ring, the
    modes up to 4 further out, both after a straight line through log power against log |k| in the ring is taken out,
    because a blurred forecast is steeper than the truth. VISIBLE of the truth's power is added to both for the same
    reason: what is far below natural detail of its size is curvature of the spectrum or rounding. Cases are averaged
    in dB, because a mean spectrum belongs to the few strongest squalls and its index scatters far more.
    NaN for a period that does not fit into the tile; zeros (no case) if a field is constant.
    """
    tile = (modes.shape[1], 2 * (modes.shape[2] - 1))
    fits = [not any(n % p or n // p < FEWEST_WAVES for n in tile) for p in PERIODS]
    strongest, out = modes.max(axis=(1, 2)), np.full((len(PERIODS), 2), np.nan)
    out[fits] = 0.0
    if not (strongest > 0).all():
        return out
    log = np.log(modes + VISIBLE * modes[1] + 1e-14 * strongest[1]).reshape(2, -1)
    for n, period in enumerate(PERIODS):
        if fits[n]:
            excess = []
            for ring, hood, log_k in _places(tile, period):
                slope = log[:, ring] @ log_k[ring] / (log_k[ring] @ log_k[ring])
                line, around = (np.exp(log[:, m] - slope[:, None] * log_k[m]).mean(axis=1) for m in (hood, ring))
                excess.append(10 * np.log10(line / around))
            out[n] = np.subtract(*np.mean(excess, axis=0)), 1.0
    return out


def line_index(lines: np.ndarray) -> np.ndarray:
    """The mean of `line_sums` over cases, dB by period; above 0 the forecast has lines that the truth has not."""
    return ratio(lines[..., 0], lines[..., 1])


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
    k = torch.hypot(fy[:, None], fx[None, :]) * math.sqrt(spacing[0] * spacing[1])
    # rfft2 leaves out the mirror images of the columns between the mean and the Nyquist column.
    twice = torch.full_like(k, 2.0)
    twice[:, 0] = 1.0
    if tile[1] % 2 == 0:
        twice[:, -1] = 1.0
    return k, twice


@lru_cache(maxsize=4)
def _band_masks(tile: tuple[int, int], spacing: tuple[float, float]) -> Tensor:
    """(bands, tile_y, tile_x // 2 + 1): how often each mode of rfft2 counts in each band, 0, 1 or 2."""
    k, twice = _wavenumbers(tile, spacing)
    tiny = 1e-9  # the wave of exactly two grid lengths belongs to the first band
    return torch.stack([(k > 1 / high + tiny) & (k <= 1 / low + tiny) for low, high in BANDS]) * twice


@lru_cache(maxsize=16)
def _places(tile: tuple[int, int], period: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each line of this period: flat indices of the modes of its ring and of the line itself, and log |k| of all
    modes relative to the mean of the ring."""
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
    all_lines = np.any([square(y, x, reach) for y, x in lines], axis=0)
    log_k, out = np.log(np.maximum(k, 1e-9)).ravel(), []
    for y, x in lines:
        ring = np.flatnonzero(square(y, x, reach + 4) & ~all_lines & (k > 1.5 / shortest))
        out.append((ring, np.flatnonzero(square(y, x, reach)), log_k - log_k[ring].mean()))
    return out
