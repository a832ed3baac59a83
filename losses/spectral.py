"""The spectral term: does the forecast have the right amount of detail, in the right place, at every scale?"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CHANGE = 1.0  # weight of the amount of change against the amount of detail
TILE = 256  # cells; side of the windows on large domains


class SpectralLoss(nn.Module):
    """Banded amplitude and coherence error in Hann windows, per channel and band (AMSE of Subich et al. 2025,
    arXiv 2501.19374, eq. 7, on wavenumber bands of a limited area).

    The domain is covered by square tiles of side n = min(256, H, W) that overlap by half. In each, the mean is
    subtracted, a Hann window of unit mean square applied (the domain is not periodic: without a window the jump
    at the edges hides all blur) and P = FFT(pred), T = FFT(target) taken, orthonormal, in float32. With sums over
    the wavenumbers of a band b (octaves of the physical radius |k| = hypot(ky, kx)),

        S_p = sum |P|^2 + e    S_t = sum |T|^2 + e    C = sum Re(P conj T) + e
        error_b = 1/n^2 [ A (<S_p> - <S_t>)^2 / 4 <S_p>' + < 2 S_t (1 - C / sqrt(S_p S_t)) > ],    A = `amplitude`

    with < > the mean over tiles and batch. The first part wants the right amount of detail whether or not it is where
    it should be, the second the right place whatever the amount; where S_p = S_t the sum over bands is the mean
    squared error. <S_p>' is <S_p> without gradient: then the first part is least where <S_p> is the mean of the <S_t>
    that may come. Near there it is A (sqrt <S_p> - sqrt <S_t>)^2, as in Subich et al., which itself is least at the
    mean of the square roots: where the power to come is uncertain, less than the mean power. (Their max(S_p, S_t) for
    S_t in the second part has the same effect.) e acts as a small common component of both fields: it keeps
    every gradient finite where a field is constant (no echo at all), and leaves the error exactly 0 where
    pred = target.

    With `since` A is `later`, and a third part, CHANGE A (<D_p> - <D_t>)^2 / 4 <D_p>', wants the right amount of
    change: D_p and D_t are the powers of what forecast and truth have changed since the step before. A forecast from
    its own forecasts can have all the detail of the truth and stand still, which nothing else here would see. The
    finest octave is left out: there the change is more easily made of lines of two cells than of weather (1.7 dB in U10
    with CHANGE = 3).

    spacing: (dy, dx) in any one unit; only their ratio matters. forward(pred, target, valid, unit, since): fields
    (B, C, H, W) twice, valid (C, H, W) bool or None (cells that do not count are set to 0). Without `unit` it returns
    the errors (C, bands), with e = 1e-3 a coefficient; with `unit` (C, bands), the errors of some reference forecast,
    errors / unit, and e is 1 % of the unit: then a band of little power, the finest detail, counts like any other.
    since: None, or the forecast a step earlier and `power` of the truth's change since then.
    """

    def __init__(
        self, spacing: tuple[float, float] = (1.0, 1.0), amplitude: float = 1.0, lean: bool = False,
        later: float | None = None,
    ):  # fmt: skip
        super().__init__()
        self.spacing, self.amplitude, self.lean = spacing, amplitude, lean
        self.later = amplitude if later is None else later
        self._tables: dict[tuple, tuple[Tensor, Tensor, Tensor]] = {}

    def forward(
        self, pred: Tensor, target: Tensor, valid: Tensor | None = None, unit: Tensor | None = None,
        since: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        with torch.autocast(pred.device.type, enabled=False):
            pred, target = counted(pred, valid), counted(target, valid)
            n = min(TILE, *pred.shape[-2:])
            window, bands, members = self._table(n, pred.device)
            floor = 1e-3 * bands.sum(dim=0) if unit is None else 1e-2 * n**2 * unit[:, None]  # (bands) or (C, 1, bands)
            sums = _BandSums.apply(pred, target.detach(), window, bands, members, self.lean)
            power_p, power_t, common = (x + floor for x in sums)
            weight = self.amplitude if since is None else self.later
            amplitude = weight * apart(amount(power_p), amount(power_t))
            if since is not None:
                powers = (x + floor for x in (self.power(pred - counted(since[0], valid)), since[1]))
                change = CHANGE * weight * apart(*map(amount, powers))
                amplitude = amplitude + F.pad(change[..., 1:], (1, 0))  # without the finest octave, where lines grow
            coherence = common / (power_p * power_t).sqrt()
            error = (amplitude + 2 * power_t * (1 - coherence)).mean(dim=(0, 2)) / n**2
            return error if unit is None else error / unit

    def power(self, fields: Tensor) -> Tensor:
        """S (B, C, tiles, bands) of fields (B, C, H, W), 0 where cells do not count; without e."""
        with torch.autocast(fields.device.type, enabled=False):
            table = self._table(min(TILE, *fields.shape[-2:]), fields.device)
            return _Power.apply(fields.float(), *table, self.lean)

    def _table(self, n: int, device) -> tuple[Tensor, Tensor, Tensor]:
        """The window (n, n), the weights (coefficients, bands) of the half spectrum, and which band each of its
        coefficients belongs to, as ones in (bands, coefficients)."""
        key = (n, device)
        if key not in self._tables:
            hann = torch.hann_window(n, periodic=False, dtype=torch.float64)
            window = hann[:, None] * hann
            window = window / window.square().mean().sqrt()
            dy, dx = (s / max(self.spacing) for s in self.spacing)
            radius = torch.hypot(torch.fft.fftfreq(n, dy).double()[:, None], torch.fft.rfftfreq(n, dx).double())
            octave = torch.log2(radius.max() / radius.clamp(min=1e-12)).floor().long()
            octave = octave.clamp(0, max(int(math.log2(n)) - 1, 0))
            # the half spectrum holds each conjugate pair once, except on the first and (n even) last column
            twice = torch.full((n // 2 + 1,), 2.0, dtype=torch.float64)
            twice[0] = 1
            if n % 2 == 0:
                twice[-1] = 1
            members = torch.nn.functional.one_hot(octave).double()
            members[0, 0] = 0  # the mean is not part of any band
            weights = (members * twice[:, None]).flatten(0, 1)
            table = (window, weights, members.flatten(0, 1).T.contiguous())
            self._tables[key] = tuple(x.float().to(device) for x in table)
        return self._tables[key]


class _BandSums(torch.autograd.Function):
    """S_p, S_t and C of fields (B, C, H, W) and the spectral tables, each (B, C, tiles, bands); pred alone has a
    gradient. `lean`: the spectra are not kept for it but taken again. Autograd would run several times as many
    operations, and a GPU takes longer to start one than to compute it."""

    @staticmethod
    def forward(ctx, pred: Tensor, target: Tensor, window: Tensor, bands: Tensor, members: Tensor, lean: bool):
        P, T = spectra(pred, window), spectra(target, window)
        ctx.save_for_backward(pred, target, window, members, *(() if lean else (P, T)))
        # all three in one form, so that rounding leaves no error where pred = target
        return tuple((X.real * Y.real).addcmul_(X.imag, Y.imag) @ bands for X, Y in ((P, P), (T, T), (P, T)))

    @staticmethod
    @once_differentiable
    def backward(ctx, of_power: Tensor, _, of_common: Tensor):
        pred, target, window, members, *kept = ctx.saved_tensors
        P, T = (torch.view_as_real(X) for X in kept or [spectra(x, window) for x in (pred, target)])
        # the transform keeps sums of squares: the gradient of sum |P|^2 is 2 p, that of sum Re(P conj T) is t, of
        # which the waves of the band alone
        wave = torch.mul(P, (2 * of_power @ members)[..., None], out=None if kept else P)
        wave.addcmul_(T, (of_common @ members)[..., None])
        del P, T  # each of these takes several times the memory of the fields
        return unwindowed(torch.view_as_complex(wave), window, pred.shape[-2:]), None, None, None, None, None


class _Power(torch.autograd.Function):
    """S_p alone."""

    @staticmethod
    def forward(ctx, pred: Tensor, window: Tensor, bands: Tensor, members: Tensor, lean: bool):
        P = spectra(pred, window)
        ctx.save_for_backward(pred, window, members, *(() if lean else (P,)))
        return P.real.square().addcmul_(P.imag, P.imag) @ bands

    @staticmethod
    @once_differentiable
    def backward(ctx, of_power: Tensor):
        pred, window, members, *kept = ctx.saved_tensors
        P = kept[0] if kept else spectra(pred, window)
        return unwindowed(P * (2 * of_power @ members), window, pred.shape[-2:]), None, None, None, None


def unwindowed(wave: Tensor, window: Tensor, shape: tuple[int, int]) -> Tensor:
    """The gradient (B, C, H, W) of fields whose spectra have the gradient `wave`."""
    n = len(window)
    tiles = torch.fft.irfft2(wave.unflatten(-1, (n, -1)), s=(n, n), norm="ortho").mul_(window)
    del wave
    tiles -= tiles.mean(dim=(-2, -1), keepdim=True)
    return put_together(tiles, shape)


def spectra(x: Tensor, window: Tensor) -> Tensor:
    """The half spectra (B, C, tiles, coefficients) of the windowed anomalies of the tiles of x (B, C, H, W)."""
    n = len(window)
    rows = torch.stack([x[..., top : top + n, :] for top in tile_starts(x.shape[-2], n)], dim=2)
    tiles = torch.stack([rows[..., left : left + n] for left in tile_starts(x.shape[-1], n)], dim=3).flatten(2, 3)
    del rows
    tiles.sub_(tiles.mean(dim=(-2, -1), keepdim=True)).mul_(window)
    return torch.fft.rfft2(tiles, norm="ortho").flatten(-2)


def put_together(tiles: Tensor, shape: tuple[int, int]) -> Tensor:
    """The sum (B, C, H, W) of overlapping tiles (B, C, tiles, n, n), each at its place: `spectra` cuts them."""
    n = tiles.shape[-1]
    tops, lefts = (tile_starts(side, n) for side in shape)
    tiles = tiles.unflatten(2, (len(tops), len(lefts)))
    rows = tiles.new_zeros(*tiles.shape[:3], n, shape[1])
    for i, left in enumerate(lefts):
        rows[..., left : left + n].add_(tiles[:, :, :, i])
    out = tiles.new_zeros(*tiles.shape[:2], *shape)
    for i, top in enumerate(tops):
        out[..., top : top + n, :].add_(rows[:, :, i])
    return out


def amount(power: Tensor) -> Tensor:
    """The mean power (B, C, tiles, bands) over batch and tiles."""
    return power.mean(dim=(0, 2), keepdim=True)


def apart(pred: Tensor, target: Tensor) -> Tensor:
    """How far the power of the forecast is from that of the truth, near which it is (sqrt pred - sqrt target)^2."""
    return (pred - target).square() / (4 * pred.detach())


def tile_starts(side: int, n: int) -> list[int]:
    """Where tiles of side n begin so that they cover `side` cells evenly and overlap by at least half."""
    count = 1 + math.ceil((side - n) / max(n // 2, 1))
    return [round(i * (side - n) / max(count - 1, 1)) for i in range(count)]


def counted(x: Tensor, valid: Tensor | None) -> Tensor:
    """Fields in float32, 0 where cells do not count."""
    return x.float() if valid is None else torch.where(valid, x.float(), 0.0)
