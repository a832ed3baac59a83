"""The spectral term: errors of the amplitude and the phase of detail, octave by octave (after Subich et al. 2025).

With S_p, S_t the power of forecast and truth in a tile, C their co-spectrum, all summed over an octave of wavelength,
<.> the mean over the tiles of all samples of a batch, and U the usual <S_t>, that of the training part:

    amplitude   detail (sqrt<S_p> - sqrt<S_t>)^2 / U             does the forecast have as much detail as the truth?
    phase       2 <S_t (1 - C / sqrt(S_p S_t))> / U              is it in the right place?

Both are relative to U, so that fine detail counts as much as coarse. A loss on errors alone blurs detail that it
cannot place; the amplitude part prevents that. It is not relative to the batch's own <S_t>: storms where the truth has
none would then cost without limit, and the least loss would be a forecast without storms.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

LARGEST, SMALLEST = 256, 16  # side of a tile, cells
FLOOR = 1e-4  # power added to each coefficient, variances of the change over one step: rounding is no detail


@torch.no_grad()
def spectral(
    error: Tensor, target: Tensor, detail: float, weight: Tensor, usual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The term (C,) of error = pred - target and target (B, C, H, W), and the gradient (B, C, H, W) of its sum over
    the channels, times weight (C,), to the error. usual: `power_by_octave` of usual weather; None: that of the target.

    Autograd sees the sums by octave alone, which are small. From them one step leads back to the fields: the
    transform is orthonormal, so the way back is the way there.
    """
    n = tile_side(error.shape[-2:])
    window, octaves, members = tables(n, error.device)
    E, T = (spectra(x, window) for x in (error, target))
    with torch.enable_grad():
        power = T.square() @ octaves + FLOOR * octaves.sum(dim=0)  # (B, C, tiles, octaves)
        of_error = ((E.square() @ octaves) / power).requires_grad_()
        common = ((E * T) @ octaves / power).requires_grad_()
        terms = compare(power, of_error, common, detail, usual)
        by_error, by_common = torch.autograd.grad((terms * weight).sum(), (of_error, common))
    wave = E.mul_((2 * by_error / power) @ members).add_(T.mul_((by_common / power) @ members))
    del E, T  # spectra take twice the memory of the fields
    tiles = to_tiles(wave, n)
    del wave
    return terms.detach(), untile(tiles, window, error.shape[-2:])


def power_by_octave(fields: Tensor) -> Tensor:
    """The power of fields (B, C, H, W) in octaves of wavelength, (C, octaves), mean over tiles."""
    window, octaves, _ = tables(tile_side(fields.shape[-2:]), fields.device)
    return (spectra(fields, window).square() @ octaves + FLOOR * octaves.sum(dim=0)).mean(dim=(0, 2))


def compare(power: Tensor, of_error: Tensor, common: Tensor, detail: float, usual: Tensor | None = None) -> Tensor:
    """The term (C,) from the truth's power S_t, |E|^2 / S_t and Re(E T*) / S_t, all (B, C, tiles, octaves), and U,
    (C, octaves).

    With S_p / S_t = 1 + 2 common + of_error nothing is a difference of large numbers.
    """
    mean = power.mean(dim=(0, 2))
    excess = ((2 * common + of_error) * power).mean(dim=(0, 2)) / mean
    amplitude = (excess / (1 + (1 + excess).clamp(min=1e-6).sqrt())).square()
    along, across = 1 + common, (of_error - common.square()).clamp(min=0)  # of pred / target in the complex plane
    length = (along.square() + across).clamp(min=1e-12).sqrt()
    decoherence = torch.where(along > 0, across / (length * (length + along.clamp(min=0))), 1 - along / length)
    phase = 2 * (power * decoherence).mean(dim=(0, 2)) / mean
    return ((detail * amplitude + phase) * (1 if usual is None else mean / usual)).mean(dim=-1)


def tile_side(shape: tuple[int, int]) -> int:
    """The side of a tile: a power of two, at most a quarter of the domain's shorter side where that has 16 cells."""
    side = 2 ** int(math.log2(max(min(shape) / 4, 1)))
    return min(max(side, SMALLEST), LARGEST, *shape)


def tile_starts(side: int, n: int) -> list[int]:
    """Where tiles of side n begin, so that they cover `side` cells evenly and overlap by at least a quarter."""
    count = 1 + math.ceil((side - n) / max(3 * n // 4, 1))
    return [round(i * (side - n) / max(count - 1, 1)) for i in range(count)]


@lru_cache(maxsize=8)  # a tensor made of Python's numbers waits for the device
def tile_cells(side: int, n: int, device: torch.device) -> Tensor:
    """(tiles, n): the cells of each tile along one direction."""
    return torch.tensor([range(start, start + n) for start in tile_starts(side, n)]).to(device)


@lru_cache(maxsize=4)
def tables(n: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For tiles of n x n: the window (n, n) of unit mean square, whose middle half is flat; the weights
    (coefficients, octaves) that sum a half spectrum (real and imaginary parts apart) to octaves; and, transposed,
    which coefficient belongs to which."""
    edge = max(n // 4, 1)
    rise = torch.sin(torch.pi / 2 * (torch.arange(edge, dtype=torch.float64) + 0.5) / edge).square()
    line = torch.cat([rise, torch.ones(n - 2 * edge, dtype=torch.float64), rise.flip(0)])
    window = line[:, None] * line / line.square().mean()
    wavenumber = torch.hypot(torch.fft.fftfreq(n)[:, None], torch.fft.rfftfreq(n))
    octave = torch.log2(wavenumber.max() / wavenumber.clamp(min=1e-9)).floor().long()
    count = max(int(math.log2(n)), 1)
    members = torch.nn.functional.one_hot(octave.clamp(max=count - 1), count).double()
    members[0, 0] = 0  # the mean belongs to no octave
    twice = torch.full((n // 2 + 1, 1), 2.0, dtype=torch.float64)  # a half spectrum holds each conjugate pair once
    twice[0] = 1
    if n % 2 == 0:
        twice[-1] = 1
    octaves, members = ((m.flatten(0, 1).repeat_interleave(2, dim=0)) for m in (members * twice, members))
    return tuple(x.float().to(device) for x in (window, octaves, members.T.contiguous()))


def spectra(x: Tensor, window: Tensor) -> Tensor:
    """Real and imaginary parts (B, C, tiles, 2 n (n // 2 + 1)) of the windowed anomalies of the tiles of x."""
    rows, columns = (tile_cells(side, len(window), x.device) for side in x.shape[-2:])
    tiles = x[..., rows[:, None, :, None], columns[None, :, None, :]].float().flatten(2, 3)
    tiles = tiles.sub_(tiles.mean(dim=(-2, -1), keepdim=True)).mul_(window)
    return torch.view_as_real(torch.fft.rfft2(tiles, norm="ortho")).flatten(-3)


def to_tiles(wave: Tensor, n: int) -> Tensor:
    """The tiles (B, C, tiles, n, n) that have these `spectra`."""
    return torch.fft.irfft2(torch.view_as_complex(wave.unflatten(-1, (n, -1, 2))), s=(n, n), norm="ortho")


def untile(tiles: Tensor, window: Tensor, shape: tuple[int, int]) -> Tensor:
    """The gradient (B, C, H, W) of fields whose windowed anomalies in tiles have the gradient `tiles`, (B, C, tiles, n,
    n), which is overwritten."""
    n = len(window)
    tops, lefts = (tile_starts(side, n) for side in shape)
    tiles = tiles.mul_(window)
    tiles = tiles.sub_(tiles.mean(dim=(-2, -1), keepdim=True)).unflatten(2, (len(tops), len(lefts)))
    rows = tiles.new_zeros(*tiles.shape[:3], n, shape[1])
    for i, left in enumerate(lefts):
        rows[..., left : left + n].add_(tiles[:, :, :, i])
    out = tiles.new_zeros(*tiles.shape[:2], *shape)
    for i, top in enumerate(tops):
        out[..., top : top + n, :].add_(rows[:, :, i])
    return out
