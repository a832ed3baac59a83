"""Sharpening: what a forecast loses of its detail from step to step is given back, scale by scale.

A network that learns from errors hedges: where it cannot place detail it keeps less of it, a few percent at every
step, and after a day half of the variance is gone. How much, by variable, scale and lead, is measured once, on
forecasts of hours before the test part; from then on each step's field is multiplied, wavelength by wavelength, by the
gain that gives the forecast the truth's power there. The next step starts from the sharpened field, so that it is one
like those that the network was trained on. A gain is a number: it moves nothing, and adds no detail that the network
has not made. Where the mean of the domain drifts, it is shifted back in the same way.

Near the edge of the domain a forecast loses more, for what comes in is not known. Of smooth fields that is no detail to
give back: they are right to be smoother there. But storms go missing altogether, and with them their area; so variables
of which cells pile up at a bound (no echo, no CAPE) have gains of their own there.

What a few dozen forecasts tell of one lead is partly the chance of their weather: gains that follow it from lead to
lead carry it into every later forecast. So they are averaged over neighbouring leads in the end.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from models.rollout import push

OCTAVE = 2  # bands an octave
LONGEST = 64  # cells; longer waves are left as they are
TILE = 128  # cells; side of the windows in which power is measured
HIGHEST = 2.0  # a gain is between 1 / HIGHEST and HIGHEST
LEAST = 1e-3  # power that counts as none, as a share of the climate's: there is nothing to compare
ROUNDS = 2  # of measuring and correcting: bounds (no echo) take back a part of what a gain does
SPREAD = 0.3  # of the average over leads (the standard deviation of its weights), as a share of the lead,
WIDEST = 3.0  # and at most, steps


class Sharpening(NamedTuple):
    """What is done to the state (B, C, H, W) after step k: its waves multiplied by gains[k], and near the edge of the
    domain by rim[k]; its means shifted by shift[k]. After the last step that was measured a state stays as it is."""

    gains: Tensor  # (steps, C, bands)
    shift: Tensor  # (steps, C)
    rim: Tensor  # (steps, C, bands)

    def __call__(self, state: Tensor, k: int) -> Tensor:
        if k >= len(self.gains):
            return state
        return sharpen(state, self.gains[k], self.rim[k]) + self.shift[k][:, None, None]

    def table(self, kind: str) -> dict[str, Tensor]:
        """As it is kept in a checkpoint, under the kind of forecast that it was measured on."""
        return {kind: self.gains, f"{kind}_shift": self.shift, f"{kind}_rim": self.rim}

    @staticmethod
    def from_table(table: dict[str, Tensor], kind: str) -> "Sharpening | None":
        """None where the table has nothing for this kind; one of gains alone shifts nothing and has one gain all over
        the domain."""
        if kind not in table:
            return None
        gains = table[kind]
        shift = table.get(f"{kind}_shift", torch.zeros_like(gains[..., 0]))
        return Sharpening(gains, shift, table.get(f"{kind}_rim", gains))


def sharpen(state: Tensor, gains: Tensor, rim: Tensor) -> Tensor:
    """state (B, C, H, W) with its cosine modes multiplied by gains (C, bands), near the edge of the domain by rim
    (C, bands); see `octaves` for the bands and `rim_weight` for how near. What is longer than the last band stays, and
    the mean where both gains are the same. The domain goes on in its mirror image, so that no edge is a jump; channel
    by channel, because modes and products take several times a field."""
    shape, bands = state.shape[-2:], gains.shape[-1]
    where = mode_bands(shape, state.device).clamp(max=bands)
    below = where.int()
    gains, rim = (torch.nn.functional.pad(x.float(), (0, 2), value=1.0) for x in (gains, rim))
    out = torch.empty_like(state)

    def multiplied(modes: Tensor, by: Tensor) -> Tensor:
        return from_modes(modes * torch.lerp(by[below], by[below + 1], where - below))

    for c in range(state.shape[1]):
        modes = to_modes(state[:, c].float())
        field = multiplied(modes, gains[c])
        if not torch.equal(gains[c], rim[c]):
            field = torch.lerp(field, multiplied(modes, rim[c]), rim_weight(shape, state.device))
        out[:, c] = field
    return out


def power(state: Tensor, bands: int) -> Tensor:
    """Mean power by band (C, bands) of states (B, C, H, W), in Hann windows of TILE cells (or the shorter side), which
    do not see the edges of the domain: what comes in there is not known."""
    n = min(TILE, *state.shape[-2:])
    hann = torch.hann_window(n, periodic=False, device=state.device)
    tiles = state.float().unfold(-2, n, max(n // 2, 1)).unfold(-2, n, max(n // 2, 1))  # (B, C, down, along, n, n)
    tiles = (tiles - tiles.mean(dim=(-2, -1), keepdim=True)) * hann[:, None] * hann
    modes = torch.fft.rfft2(tiles, norm="ortho").abs().square().mean(dim=(0, 2, 3))
    # the half spectrum has each conjugate pair once, but not in the first column, and not in the last where n is even
    modes[..., 1 : (n + 1) // 2] *= 2
    return by_band(modes, octaves(torch.fft.fftfreq(n), torch.fft.rfftfreq(n)).to(state.device), bands)


def rim_power(state: Tensor, bands: int) -> Tensor:
    """As `power`, of what these windows do not see, by cosine modes: each cell with the weight that `rim_weight`
    gives it; channel by channel, as in `sharpen`."""
    shape, out = state.shape[-2:], []
    weight = rim_weight(shape, state.device)
    for field in state.float().unbind(dim=1):
        mean = (field * weight).sum(dim=(-2, -1), keepdim=True) / weight.sum()
        out.append(to_modes((field - mean) * weight).square().mean(dim=0))
    return torch.stack([by_band(modes, mode_bands(shape, state.device), bands) for modes in out])


def powers(state: Tensor, bands: int, piled: Tensor) -> Tensor:
    """(2, C, bands): `power`, and for the piled variables (C,) bool `rim_power`; for the others `power` again."""
    inside = power(state, bands)
    rim = inside.clone()
    if piled.any():
        rim[piled] = rim_power(state[:, piled], bands)
    return torch.stack([inside, rim])


def by_band(modes: Tensor, where: Tensor, bands: int) -> Tensor:
    """Sums over bands (..., bands) of the power of modes (..., h, w), which lie at `where` (h, w) among them. A band's
    share in a mode falls to 0 at its neighbours' centres; beyond the last centre nothing takes its place."""
    return torch.stack([(modes * (1 - (where - b).abs()).clamp(min=0)).sum(dim=(-2, -1)) for b in range(bands)], dim=-1)


def to_modes(field: Tensor) -> Tensor:
    """The cosine modes (..., H, W) of fields (..., H, W), by their orthonormal transform (DCT-II). In matrices: a half
    precision that is on for the network must not reach them."""
    with torch.autocast(field.device.type, enabled=False):
        return cosines(field.shape[-2], field.device) @ field @ cosines(field.shape[-1], field.device).T


def from_modes(modes: Tensor) -> Tensor:
    """The inverse of `to_modes`."""
    with torch.autocast(modes.device.type, enabled=False):
        return cosines(modes.shape[-2], modes.device).T @ modes @ cosines(modes.shape[-1], modes.device)


@lru_cache(maxsize=8)
def cosines(n: int, device: torch.device) -> Tensor:
    """(n, n): row k is the cosine of k half waves in n cells, of length 1."""
    k = torch.arange(n, dtype=torch.float64)
    rows = torch.cos(torch.pi / n * k[:, None] * (k + 0.5)) * math.sqrt(2 / n)
    rows[0] /= math.sqrt(2)
    return rows.float().to(device)


@lru_cache(maxsize=8)
def mode_bands(shape: tuple[int, int], device: torch.device) -> Tensor:
    """(H, W): where among the bands each cosine mode of this shape lies."""
    return octaves(*(torch.arange(n) / (2 * n) for n in shape)).to(device)


def octaves(ky: Tensor, kx: Tensor) -> Tensor:
    """(len(ky), len(kx)): where among the bands waves of so many cycles per cell lie. Band b is centred on b, a
    wavelength of 2 * 2^(b / OCTAVE) cells; shorter waves (on the diagonals) lie at 0, the first band."""
    return (OCTAVE * (-torch.log2(torch.hypot(ky[:, None], kx).clamp(min=1e-9)) - 1)).clamp(min=0)


@lru_cache(maxsize=8)
def rim_weight(shape: tuple[int, int], device: torch.device) -> Tensor:
    """(H, W): 1 in the outermost cells of the domain, 0 from half a window inside, where the Hann windows of `power`
    have full weight together; about what they leave in between."""
    n = min(TILE, *shape)
    y, x = (torch.minimum(torch.arange(s), s - 1 - torch.arange(s)).clamp(max=n / 2) * (torch.pi / n) for s in shape)
    return (1 - y.sin().square()[:, None] * x.sin().square()).to(device)


def count_bands(shape: tuple[int, int]) -> int:
    """Bands from 2 cells up to LONGEST, or to the shorter side."""
    return int(OCTAVE * math.log2(min(LONGEST, *shape) / 2) + 1e-9) + 1


@torch.no_grad()
def measure(
    starts: list[Tensor],
    step: Callable[[int, int, Tensor], Tensor],
    limit: Callable[[Tensor], tuple[Tensor, Tensor]],
    truth: Callable[[int, int], Tensor],
    physical: Callable[[Tensor], Tensor],
    climate: Tensor,
    steps: int,
    piled: Tensor,
    valid: Tensor | None = None,
    nudge: Callable[[int, int, Tensor], Tensor] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Sharpening | None:
    """The sharpening with which forecasts keep the power of the truth and its mean, on average over some forecasts and
    over neighbouring leads.

    starts: the states (B, T, C, H, W) of groups of forecasts, on the CPU, where what waits is kept: a device has room
    for one group. step(i, k, states) gives group i after step k before it is limited, truth(i, k) the fields
    (B, C, H, W) they should be, nudge(i, k, state) draws their edges to boundary data. physical(state) is the state in
    the units in which power is compared: the square root of a variable has the right power where the variable itself
    has too much. climate (2, C, bands): what `powers` finds so in training; where truth or forecast has next to none of
    it a gain is 1. piled (C,) bool: the variables of which cells pile up at a bound. They have gains of their own near
    the edge, and their mean stays: a shift would change how many cells lie at the bound. The mean of the others is
    shifted. valid (C, H, W) bool: the cells that count in a mean; None: all. One step after the other: the gain of a
    step makes up for what is missing after those before it. None where `stopped()` says so.
    """
    states, gains, shifts, device = list(starts), [], [], climate.device
    count, bands = sum(len(some) for some in starts), climate.shape[-1]
    gain = torch.ones_like(climate)  # each step begins with that of the step before

    def amount(state: Tensor) -> Tensor:
        return powers(physical(state), bands, piled) * len(state) / count

    for k in range(steps):
        raw, wanted, missing = [], torch.zeros_like(climate), []
        for i, some in enumerate(states):
            if stopped():
                return None
            raw.append(step(i, k, some.to(device)).cpu())
            true = truth(i, k)
            wanted += amount(true)
            missing.append(means(true, valid))
        for _ in range(ROUNDS):
            found = sum(amount(limit(sharpen(x.to(device), *gain))[0]) for x in raw)
            known = torch.minimum(wanted, found) > LEAST * climate
            gain = torch.where(known, gain * (wanted / found).sqrt(), 1.0).clamp(1 / HIGHEST, HIGHEST)
        raw = [sharpen(x.to(device), *gain).cpu() for x in raw]
        missing = [true - means(limit(x.to(device))[0], valid) for true, x in zip(missing, raw, strict=True)]
        shift = torch.where(piled, 0.0, shrunk(torch.cat(missing)))
        gains.append(gain)
        shifts.append(shift)
        for i, x in enumerate(raw):
            state = limit(x.to(device) + shift[:, None, None])[0]
            states[i] = push(states[i], (state if nudge is None else nudge(i, k, state)).cpu())
    inside, rim = smooth(torch.stack(gains).log()).exp().unbind(dim=1)
    return Sharpening(inside, smooth(torch.stack(shifts)), torch.where(piled[:, None], rim, inside))


def smooth(values: Tensor) -> Tensor:
    """Values (steps, ...) averaged over neighbouring steps with Gaussian weights, which are the wider the later the
    step: the first steps differ most from one another."""
    k = torch.arange(len(values), dtype=values.dtype, device=values.device)
    width = (SPREAD * k).clamp(1e-3, WIDEST)[:, None]
    weight = torch.exp(-((k - k[:, None]) / width).square() / 2)
    return torch.tensordot(weight / weight.sum(dim=1, keepdim=True), values, dims=1)


def means(fields: Tensor, valid: Tensor | None) -> Tensor:
    """(B, C): the mean of each field (B, C, H, W) over its valid cells (C, H, W)."""
    if valid is None:
        return fields.mean(dim=(-2, -1))
    return (fields * valid).sum(dim=(-2, -1)) / valid.sum(dim=(-2, -1)).clamp(min=1)


def shrunk(values: Tensor) -> Tensor:
    """The mean (C,) of values (N, C), the nearer to 0 the less it stands out of its standard error (James and Stein
    1961, the positive part): of a few forecasts a mean says little."""
    mean, n = values.mean(dim=0), len(values)
    if n < 2:
        return torch.zeros_like(mean)
    return mean * (1 - values.var(dim=0) / n / mean.square().clamp(min=1e-20)).clamp(min=0)
