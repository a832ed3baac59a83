"""The four terms by hand, the spectral term by its formula in float64, and the gradients that the loss gives."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from losses.spectral import (
    FLOOR,
    compare,
    power_by_octave,
    spectra,
    spectral,
    tables,
    tile_side,
    tile_starts,
    to_tiles,
    untile,
)
from losses.terms import gradient, l1, mse
from losses.weather import TERMS, WeatherLoss

WEIGHTS = (0.4, 0.3, 0.2, 0.1)
ONE = torch.ones(2)
TWO = torch.tensor([[1.0, 2.0], [3.0, 5.0]])[None, None]


def noise(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- L1, MSE, gradient


def test_two_by_two_by_hand():
    assert l1(TWO).tolist() == [11 / 4] and mse(TWO).tolist() == [39 / 4]
    assert gradient(TWO).tolist() == [(2.5 + 1.5) / 2]  # y: |3 - 1|, |5 - 2|; x: |2 - 1|, |5 - 3|
    valid = torch.tensor([[[True, True], [True, False]]])
    assert l1(TWO, valid).tolist() == [2.0] and mse(TWO, valid).tolist() == [pytest.approx(14 / 3)]
    assert gradient(TWO, valid).tolist() == [(2.0 + 1.0) / 2]  # one difference left in each direction
    assert gradient(TWO, valid.flip(-1, -2)).tolist() == [(3.0 + 2.0) / 2]
    assert l1(TWO, torch.zeros(1, 2, 2, dtype=torch.bool)).tolist() == [0.0]
    both = torch.cat([TWO, -2 * TWO], dim=1)
    assert l1(both).tolist() == [11 / 4, 11 / 2] and mse(both).tolist() == [39 / 4, 39.0]


# ---- the spectral term


def octave(length: float) -> int:
    """Octaves are counted from the finest: wavelengths of sqrt(2) to 2 sqrt(2) cells."""
    return math.floor(math.log2(length / math.sqrt(2)))


@pytest.mark.parametrize("n", [64, 45])
def test_octaves_share_the_power_of_a_tile_and_a_wave_is_in_its_own(n):
    window, octaves, members = tables(n, torch.device("cpu"))
    field = noise(2, 3, n, n)
    anomaly = (field - field.mean(dim=(-2, -1), keepdim=True)) * window
    power = spectra(field, window).square() @ octaves
    by_hand = anomaly.square().sum(dim=(-2, -1)) - anomaly.mean(dim=(-2, -1)).square() * n * n
    torch.testing.assert_close(power.sum(dim=-1)[..., 0], by_hand, rtol=1e-5, atol=0)
    assert window.square().mean().item() == pytest.approx(1, abs=1e-5)
    assert (members.sum(dim=0)[2:] == 1).all()  # each coefficient but the mean is in one octave
    x, y = torch.arange(n)[None, :], torch.arange(n)[:, None]
    for length in (2.4, 5.0, 8.0):
        for wave in (torch.cos(2 * torch.pi * x / length).expand(n, n), torch.cos(2 * torch.pi * y / length) + 0 * x):
            share = spectra(wave[None, None], window).square() @ octaves
            assert share[0, 0, 0, octave(length)] > 0.9 * share.sum()


def test_storms_where_the_truth_has_none_cost_as_much_as_storms_that_are_missed():
    storms, calm = noise(2, 1, 64, 64), torch.zeros(2, 1, 64, 64)
    usual, weight = power_by_octave(storms), torch.ones(1)
    invented, missed = (spectral(e, t, 12.0, weight, usual)[0].item() for e, t in ((storms, calm), (-storms, storms)))
    assert invented == pytest.approx(12, rel=0.05)  # detail (sqrt(U) - 0)^2 / U
    assert missed == pytest.approx(12 + 2, rel=0.05)  # and none of it is in its place
    assert spectral(storms, calm, 12.0, weight)[0].item() > 1000  # relative to a truth without detail


@pytest.mark.parametrize("part,expected", [
    (0.5, 12 * 0.25),  # half the amplitude
    (2.0, 12 * 1.0),
    (1.0, 0.0),
    (1j, 2.0),  # a quarter of a wavelength beside it: 2 (1 - 0)
    (-1.0, 4.0),
    (0.5 * -1, 12 * 0.25 + 4.0),
    (0.0, 12 * 1.0 + 2.0),  # nothing: the phase of nothing is taken as unknown
])  # fmt: skip
@pytest.mark.parametrize("place", [0, 2])
def test_amplitude_and_phase_of_one_octave_by_hand(part, expected, place):
    """pred = part * target in one of three octaves, and right in the others: the term is the mean over octaves."""
    common, of_error = torch.zeros(2, 1, 4, 3), torch.zeros(2, 1, 4, 3)
    common[..., place], of_error[..., place] = complex(part).real - 1, abs(part - 1) ** 2
    assert compare(torch.ones(2, 1, 4, 3), of_error, common, 12.0).item() == pytest.approx(expected / 3, abs=0.01)


@pytest.mark.parametrize(
    "side,shape", [(256, (1059, 1799)), (16, (64, 64)), (16, (65, 100)), (9, (9, 40)), (3, (3, 3))]
)
def test_tiles_cover_every_cell_and_overlap(side, shape):
    assert tile_side(shape) == side
    for length in shape:
        starts = tile_starts(length, side)
        assert starts[0] == 0 and starts[-1] == length - side
        assert all(0 < b - a <= 0.75 * side + 1 for a, b in pairwise(starts))
    if shape[0] < 1000:
        window = tables(side, torch.device("cpu"))[0]
        cell = torch.zeros(1, 1, *shape)
        for y, x in ((0, 0), (0, shape[1] - 1), (shape[0] // 2, shape[1] // 2), (shape[0] - 1, shape[1] - 1)):
            cell.zero_()[..., y, x] = 1.0
            assert untile(to_tiles(spectra(cell, window), side), window, shape)[0, 0, y, x] > 0


# ---- the loss and its gradient


def plain_loss(error, target, valid, detail, share) -> torch.Tensor:
    """The weighted sum as it is defined, tile by tile and octave by octave, in the precision of its arguments."""
    error = torch.where(valid, error, 0.0)
    n, shape = tile_side(error.shape[-2:]), error.shape[-2:]
    edge = n // 4
    rise = [math.sin(math.pi / 2 * (i + 0.5) / edge) ** 2 for i in range(edge)]
    line = torch.tensor([*rise, *[1.0] * (n - 2 * edge), *rise[::-1]], dtype=error.dtype)
    window = line[:, None] * line / line.square().mean()
    k = torch.hypot(torch.fft.fftfreq(n)[:, None], torch.fft.fftfreq(n)).to(error.dtype)
    band = torch.where(k > 0, (math.sqrt(0.5) / k).log2().floor().clamp(max=math.log2(n) - 1), -1.0)

    def coefficients(x):
        tiles = [x[..., a : a + n, b : b + n] for a in tile_starts(shape[0], n) for b in tile_starts(shape[1], n)]
        return torch.stack([torch.fft.fft2((t - t.mean((-2, -1), keepdim=True)) * window, norm="ortho") for t in tiles])

    P, T = coefficients(target + error), coefficients(target)
    parts = []
    for i in range(int(math.log2(n))):
        members = band == i
        floor = 2 * FLOOR * members.sum()  # real and imaginary part
        S_p, S_t, C = ((a * b.conj()).real[..., members].sum(-1) + floor for a, b in ((P, P), (T, T), (P, T)))
        mean = lambda x: x.mean(dim=(0, 1))  # noqa: E731
        amplitude = ((mean(S_p) / mean(S_t)).sqrt() - 1) ** 2
        parts.append(detail * amplitude + 2 * mean(S_t * (1 - C / (S_p * S_t).sqrt())) / mean(S_t))
    terms = {"l1": l1(error, valid), "spectral": torch.stack(parts).mean(0), "mse": mse(error, valid),
             "gradient": gradient(error, valid)}  # fmt: skip
    return sum((share[n] * terms[n]).sum() for n in TERMS)


@pytest.mark.parametrize("groups", [1, 2])
def test_loss_and_gradient_are_those_of_the_formula_in_float64(groups):
    """The gradient along random directions against central differences of the formula."""
    target, error = noise(2, 3, 37, 40), 0.7 * noise(2, 3, 37, 40, seed=1)
    valid = torch.ones(3, 37, 40, dtype=torch.bool)
    valid[1, 5:15, 20:] = False
    loss = WeatherLoss(WEIGHTS, 5.0, groups)
    loss.calibrate(1, [(0.5 * target, target)], valid)
    value, _, slope = loss(error, target, valid)
    share = {n: x.double() for n, x in loss.shares[1].items()}
    exact = lambda e: plain_loss(e.double(), target.double(), valid, 5.0, share).item()  # noqa: E731
    assert value.item() == pytest.approx(exact(error), rel=1e-5)
    for direction in (noise(2, 3, 37, 40, seed=2), slope / slope.norm()):
        step = 1e-6 * direction.double()
        difference = (exact(error.double() + step) - exact(error.double() - step)) / 2e-6
        assert (slope.double() * direction).sum().item() == pytest.approx(difference, rel=1e-4)


def test_masked_cells_get_no_gradient_and_their_values_do_not_count():
    error, target = noise(1, 2, 24, 24), noise(1, 2, 24, 24, seed=1)
    valid = torch.ones(2, 24, 24, dtype=torch.bool)
    valid[0, :, :6] = False
    loss = WeatherLoss(WEIGHTS, 12.0)
    value, _, slope = loss(error, target, valid)
    again, _, same = loss(torch.where(valid, error, 1e6), target, valid)
    assert value == again and torch.equal(slope, same)
    assert not slope[:, ~valid].any() and (slope[:, valid] != 0).all()


def changes(count: int, size: float = 1.0) -> list:
    """(persistence, truth) pairs of two variables, the second with changes five times as large."""
    scale = size * torch.tensor([1.0, 5.0])[:, None, None]
    return [(scale * noise(1, 2, 32, 32, seed=i), scale * noise(1, 2, 32, 32, seed=100 + i)) for i in range(count)]


def test_the_loss_of_persistence_is_one_after_calibration():
    pairs, loss = changes(6), WeatherLoss(WEIGHTS, 12.0)
    loss.calibrate(1, pairs)
    found = [loss(now - then, then)[:2] for now, then in pairs]
    assert torch.stack([value for value, _ in found]).mean().item() == pytest.approx(1, abs=1e-4)
    for name, weight in zip(TERMS, WEIGHTS, strict=True):
        in_units = torch.stack([terms[name] for _, terms in found]).mean(dim=0) * loss.shares[1][name]
        assert in_units.tolist() == pytest.approx([weight / 2] * 2, abs=1e-4)
    assert loss(torch.zeros(1, 2, 32, 32), pairs[0][1])[0] == 0


def test_a_variable_without_a_valid_cell_does_not_dilute_the_others():
    valid = torch.ones(2, 32, 32, dtype=torch.bool)
    valid[0] = False
    pairs, loss = changes(1), WeatherLoss(WEIGHTS, 12.0)
    loss.calibrate(1, pairs, valid)
    ((now, then),) = pairs
    assert loss(now - then, then, valid)[0].item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("lead,unit", [(1, 1), (2, 1), (3, 3), (5, 3), (9, 3)])
def test_the_unit_is_that_of_the_last_calibrated_lead(lead, unit):
    """Later in a roll-out persistence is further off, and an error counts for less."""
    loss, pairs = WeatherLoss((1.0, 0.0, 0.0, 0.0), 12.0), {1: changes(1), 3: changes(1, size=3.0)}
    for k, given in pairs.items():
        loss.calibrate(k, given)
    ((now, then),) = pairs[unit]
    assert loss(now - then, then, lead=lead)[0].item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("storm", [False, True])
def test_gradients_are_finite_without_any_detail(storm):
    target = torch.zeros(1, 1, 32, 32)
    if storm:
        target[..., 10:16, 10:16] = 8.0
    value, _, slope = WeatherLoss(WEIGHTS, 12.0)(-target, target)
    assert value.isfinite() and slope.isfinite().all() and slope.abs().max() < 100
    blurred = F.avg_pool2d(target, 3, 1, 1)
    assert WeatherLoss(WEIGHTS, 12.0)(blurred - target, target)[2].isfinite().all()
