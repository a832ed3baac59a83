"""The four terms, by hand and by the properties they are chosen for."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

import losses.spectral
from losses.smooth import smooth
from losses.spectral import SpectralLoss, tile_starts
from losses.terms import gradient, l1, mse
from losses.weather import WEIGHTS, WeatherLoss

PRED = torch.tensor([[1.0, 2.0], [3.0, 5.0]])[None, None]
ZERO = torch.zeros_like(PRED)


def red_noise(seed: int, size: int = 64, slope: float = 1.5) -> torch.Tensor:
    """(1, 1, size, size) with power falling as k ** -(2 slope)."""
    g = torch.Generator().manual_seed(seed)
    k = torch.hypot(torch.fft.fftfreq(2 * size)[:, None], torch.fft.rfftfreq(2 * size)).clamp(min=1 / size)
    field = torch.fft.irfft2(torch.fft.rfft2(torch.randn(2 * size, 2 * size, generator=g)) * k**-slope)
    field = field[:size, :size]  # a cut-out: not periodic
    return ((field - field.mean()) / field.std())[None, None]


def test_two_by_two_by_hand():
    assert l1(PRED, ZERO).tolist() == [11 / 4]
    assert mse(PRED, ZERO).tolist() == [(1 + 4 + 9 + 25) / 4]
    # y: |3 - 1|, |5 - 2| -> 2.5; x: |2 - 1|, |5 - 3| -> 1.5
    assert gradient(PRED, ZERO).tolist() == [2.0]


def test_masked_cells_do_not_count():
    valid = torch.tensor([[[True, True], [True, False]]])
    assert l1(PRED, ZERO, valid).tolist() == [2.0]
    assert mse(PRED, ZERO, valid).tolist() == [pytest.approx(14 / 3)]
    assert gradient(PRED, ZERO, valid).tolist() == [(2.0 + 1.0) / 2]  # one difference left in each direction
    broken = PRED.clone()
    broken[0, 0, 1, 1] = 1e9
    loss = WeatherLoss()
    a, b = (
        loss(F.pad(x, (6, 0, 6, 0)), torch.zeros(1, 1, 8, 8), F.pad(valid, (6, 0, 6, 0)))[0] for x in (PRED, broken)
    )
    assert a == b


def test_terms_are_per_channel():
    pred = torch.cat([PRED, 2 * PRED], dim=1)
    for term in (l1, mse, gradient):
        values = term(pred, torch.zeros_like(pred))
        assert values.shape == (2,) and values[1] > values[0]


def test_the_weights_are_those_of_the_mission():
    assert WEIGHTS == {"l1": 0.4, "spectral": 0.3, "mse": 0.2, "gradient": 0.1}
    pred, target = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    loss, terms = WeatherLoss()(pred, target)
    by_hand = sum(WEIGHTS[n] * terms[n].mean() for n in WEIGHTS)
    assert loss == pytest.approx(by_hand.item(), rel=1e-6)
    assert terms["l1"].tolist() == pytest.approx(l1(pred, target).tolist())


def test_a_perfect_forecast_has_no_loss():
    field = red_noise(0)
    loss, terms = WeatherLoss()(field, field)
    assert loss == 0 and all((t == 0).all() for t in terms.values())


def test_the_spectral_term_is_the_squared_error_where_powers_agree():
    # noise against a mirrored copy of itself: the same power in every band, other phases
    a = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    b = a.flip(-1).flip(-2)
    hann = torch.hann_window(64, periodic=False)
    window = hann[:, None] * hann
    window = window / window.square().mean().sqrt()
    windowed_mse = (((a - a.mean()) - (b - b.mean())) * window).square().mean()
    bands = SpectralLoss()(a, b)
    assert bands.shape == (1, 6) and (bands > 0).all()  # 64 cells: octaves down to wavelengths of the whole tile
    assert bands.sum().item() == pytest.approx(windowed_mse.item(), rel=1e-4)


def test_the_spectral_term_sees_a_blur_through_the_edges():
    """A plain FFT reads the jump at the edges as fine detail; the window does not."""
    field = red_noise(3)
    kernel = torch.outer(*[torch.tensor([1.0, 4, 6, 4, 1]) / 16] * 2)[None, None]
    blurred = F.conv2d(F.pad(field, (2, 2, 2, 2), mode="replicate"), kernel)
    window, bands, _ = SpectralLoss()._table(64, field.device)

    def finest(x: torch.Tensor, w) -> float:
        """Power in wavelengths of 1.4 to 2.8 cells."""
        return ((torch.fft.rfft2((x - x.mean()) * w).abs() ** 2).flatten() @ bands)[0].item()

    windowed, plain = (finest(blurred, w) / finest(field, w) for w in (window, 1.0))
    assert windowed < 0.02 and plain > 10 * windowed


def test_amplitude_counts_even_where_phase_is_lost():
    """Halving the amplitude of a displaced field must not pay: that is how squared error makes blur."""
    truth = torch.cat([red_noise(seed) for seed in range(20)])
    displaced = truth.flip(-1).flip(-2)  # the same power at other phases
    spectral = SpectralLoss()
    assert (spectral(0.5 * displaced, truth) > spectral(displaced, truth)).all()  # in every band
    assert mse(0.5 * displaced, truth) < 0.8 * mse(displaced, truth)


def test_the_best_amount_of_detail_is_the_mean_of_what_may_come():
    """Truths of 1 and of 3 times one field: the best power is (1 + 9) / 2 times its own, not that of their mean, 2."""
    field = red_noise(0)
    scale = torch.tensor(5**0.5, requires_grad=True)
    spectral, unit = SpectralLoss(), SpectralLoss()(2 * field, field).sum()

    def slope() -> torch.Tensor:
        return torch.autograd.grad(sum(spectral(scale * field, k * field).sum() for k in (1, 3)), scale)[0]

    assert abs(slope()) < 1e-3 * unit
    scale.data.fill_(2.0)
    assert slope() < -0.1 * unit


def test_a_forecast_that_stands_still_has_all_the_detail_and_too_little_change():
    truth_before, truth = (torch.cat([red_noise(s + i) for s in range(0, 40, 2)]) for i in (0, 1))
    spectral = SpectralLoss()
    change = spectral.power(truth - truth_before)
    turned = truth.flip(-1).flip(-2)  # the detail of the truth, elsewhere
    plain = spectral(turned, truth)
    still = spectral(turned, truth, since=(turned, change))
    assert (still[:, 1:] > 2 * plain[:, 1:]).all()  # in every band but the finest, which does not count
    assert torch.equal(still[:, 0], plain[:, 0])
    moved = spectral(turned, truth, since=(truth_before.flip(-1).flip(-2), change))  # the change, elsewhere
    torch.testing.assert_close(moved, plain, rtol=1e-3, atol=0)
    assert (spectral(truth, truth, since=(truth_before, change)) == 0).all()


def test_the_amount_of_detail_counts_otherwise_in_later_steps():
    truth, now = red_noise(0), red_noise(1)
    parts = []
    for first, later in ((0.0, 0.0), (2.0, 6.0)):
        spectral = SpectralLoss(amplitude=first, later=later)
        forecast = 2 * now  # four times the power of its own
        since = forecast - (truth - now), spectral.power(truth - now)  # with the truth's change
        parts.append((spectral(forecast, truth), spectral(forecast, truth, since=since)))
    (place, same), (first, later) = parts
    torch.testing.assert_close(same, place)
    torch.testing.assert_close(later - place, 3 * (first - place), rtol=1e-3, atol=0)
    assert (first > place).all()


def test_the_amount_of_change_has_a_gradient_that_ends_the_stillness():
    truth_before, truth = red_noise(0), red_noise(1)
    before = truth.flip(-1)
    change = (truth_before - truth).flip(-1)
    size = torch.tensor(0.5, requires_grad=True)  # of the forecast's change

    def slope(since) -> torch.Tensor:
        return torch.autograd.grad(SpectralLoss()(before + size * change, truth, since=since).sum(), size)[0]

    since = before, SpectralLoss().power(truth - truth_before)
    extra = slope(since) - slope(None)
    assert extra < 0
    size.data.fill_(1.0)  # the right amount
    assert abs(slope(since) - slope(None)) < 1e-3 * abs(extra)


def test_bands_follow_physical_wavenumber():
    """On a grid with dx = 2 dy, a wave of 8 rows and one of 4 columns have the same length, so the same band."""
    n = 64
    wave_y = torch.cos(2 * torch.pi * torch.arange(n) / 8)[:, None].expand(n, n)
    wave_x = torch.cos(2 * torch.pi * torch.arange(n) / 4)[None, :].expand(n, n)
    _, bands, _ = SpectralLoss(spacing=(1.0, 2.0))._table(n, torch.device("cpu"))
    band = [((torch.fft.rfft2(w).abs() ** 2).flatten() @ bands).argmax() for w in (wave_y, wave_x)]
    assert band[0] == band[1]
    _, square, _ = SpectralLoss()._table(n, torch.device("cpu"))
    band = [((torch.fft.rfft2(w).abs() ** 2).flatten() @ square).argmax() for w in (wave_y, wave_x)]
    assert band[0] != band[1]


def plain_band_sums(pred: torch.Tensor, target: torch.Tensor, window, bands, members, lean) -> list[torch.Tensor]:
    """S_p, S_t and C as they are defined, tile by tile; autograd gives their gradient."""
    n, (H, W) = len(window), pred.shape[-2:]
    places = [(top, left) for top in tile_starts(H, n) for left in tile_starts(W, n)]
    spectra = []
    for x in (pred, target):
        tiles = torch.stack([x[..., top : top + n, left : left + n] for top, left in places], dim=2)
        tiles = (tiles - tiles.mean(dim=(-2, -1), keepdim=True)) * window
        spectra.append(torch.fft.rfft2(tiles, norm="ortho").flatten(-2))
    return [(a * b.conj()).real @ bands for a, b in [(spectra[0],) * 2, (spectra[1],) * 2, spectra]]


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("tile", [16, 15, 64])  # many tiles that overlap, of an even and of an odd side; a single one
def test_the_spectral_term_and_its_gradient_are_those_of_the_plain_formula(monkeypatch, tile, lean):
    monkeypatch.setattr(losses.spectral, "TILE", tile)
    pred, target = torch.randn(2, 2, 3, 37, 64, generator=torch.Generator().manual_seed(2))
    loss, found = SpectralLoss((1.0, 2.0), amplitude=3.0, lean=lean), []
    for function in (losses.spectral._BandSums.apply, plain_band_sums):
        monkeypatch.setattr(losses.spectral._BandSums, "apply", function)
        leaf = pred.clone().requires_grad_()
        value = loss(leaf, target)
        found.append((value.detach(), *torch.autograd.grad(value.sin().sum(), leaf)))
    for ours, plain in zip(*found, strict=True):
        assert torch.allclose(ours, plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item())


@pytest.mark.parametrize("storm", [False, True])
def test_gradients_are_finite_without_any_echo(storm):
    target = torch.zeros(1, 1, 32, 32)
    if storm:
        target[..., 10:16, 10:16] = 8.0
    pred = torch.zeros(1, 1, 32, 32, requires_grad=True)
    loss, _ = WeatherLoss()(pred, target)
    loss.backward()
    assert pred.grad.isfinite().all() and pred.grad.abs().max() < 100


def test_half_precision_input_is_transformed_in_float32():
    a, b = red_noise(1), red_noise(2)
    exact = SpectralLoss()(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        half = SpectralLoss()(a.bfloat16(), b.bfloat16())
    assert half.dtype == torch.float32
    assert half.sum().item() == pytest.approx(exact.sum().item(), rel=0.02)


@pytest.mark.parametrize("side,n", [(1059, 256), (1799, 256), (64, 64), (65, 64), (9, 8)])
def test_tiles_cover_the_domain_and_overlap_by_half(side, n):
    starts = tile_starts(side, n)
    assert starts[0] == 0 and starts[-1] == side - n
    assert all(0 < b - a <= n // 2 + 1 for a, b in pairwise(starts))


# ---- smoothing: where detail cannot be placed, L1, MSE and gradient do not see it


@pytest.mark.parametrize("length", [24, 16, 12])
@pytest.mark.parametrize("axis", [-1, -2])
def test_a_wave_keeps_the_stated_share_of_its_amplitude(length, axis):
    wave = torch.cos(2 * torch.pi * torch.arange(96) / length)
    field = wave.expand(1, 1, 96, 96) if axis == -1 else wave[:, None].expand(1, 1, 96, 96)
    kept = smooth(field, 3.0)[..., 12:-12, 12:-12] / field[..., 12:-12, 12:-12]
    share = kept[field[..., 12:-12, 12:-12].abs() > 0.5]  # not at its zeros
    # exp(-(2 pi 3 / 24)^2 / 2) = 0.735; the kernel ends at three standard deviations, which is worth 0.003
    expected = math.exp(-((2 * math.pi * 3 / length) ** 2) / 2)
    assert share.min() == pytest.approx(expected, abs=0.01) and share.max() == pytest.approx(expected, abs=0.01)


def test_constants_and_width_zero_are_left_alone():
    constant = torch.full((2, 3, 9, 40), -7.5)  # a side shorter than the kernel
    assert torch.allclose(smooth(constant, 4.0), constant, rtol=1e-6)
    field = red_noise(0)
    assert smooth(field, 0.0) is field
    assert smooth(field, 1.0).mean() == pytest.approx(field.mean().item(), abs=0.02)  # it moves no amount


@pytest.mark.parametrize("shape,width", [((2, 3, 7, 11), 1.5), ((1, 2, 5, 40), 8.0)])
def test_the_gradient_of_the_smoothing_is_that_of_its_formula(shape, width):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: smooth(x, width), x)


def test_smoothing_takes_fine_detail_from_three_terms_and_leaves_it_to_the_spectral_one():
    checker = torch.ones(1, 1, 32, 32)
    checker[..., ::2] = -1
    zero = torch.zeros_like(checker)
    rough, smoothed = WeatherLoss()(checker, zero, None, 0.0)[1], WeatherLoss()(checker, zero, None, 2.0)[1]
    assert all(smoothed[n] < 0.1 * rough[n] for n in ("l1", "mse", "gradient"))
    assert torch.equal(smoothed["spectral"], rough["spectral"])


def test_masked_cells_do_not_reach_others_through_the_smoothing():
    valid = torch.ones(1, 16, 16, dtype=torch.bool)
    valid[:, 5:8, 5:8] = False
    pred, target = torch.randn(1, 1, 16, 16), torch.randn(1, 1, 16, 16)
    broken = torch.where(valid, pred, 1e6)
    assert WeatherLoss()(broken, target, valid, 2.0)[0] == WeatherLoss()(pred, target, valid, 2.0)[0]


# ---- units: every band and every term counts as much as persistence is wrong in it


def test_a_lost_band_costs_the_same_whatever_its_power():
    """A strong coarse wave and a fine one of a hundredth of its height; the unit is a quarter wave of displacement."""
    x = torch.arange(128.0) - 63.5
    waves = [(10.0, 16.0, 3), (0.1, 2.5, 0)]  # height, wavelength, its octave below sqrt(1/2) cycles per cell
    truth, moved = (
        [(h * f(2 * torch.pi * x / length)).expand(1, 1, 128, 128) for h, length, _ in waves]
        for f in (torch.cos, torch.sin)
    )
    spectral = SpectralLoss()
    unit = spectral(sum(moved), sum(truth))
    assert spectral(sum(moved), sum(truth), unit=unit)[0, [3, 0]].tolist() == pytest.approx([1, 1], rel=0.01)
    for lost, (_, _, band) in enumerate(waves):
        cost = spectral(truth[1 - lost], sum(truth), unit=unit)[0]
        # displaced: powers S, no common part, error 2 S = unit, so e = 0.02 S. Lost: S_p = C = e and S_t = S + e:
        # (0.02 - 1.02)^2 / (4 * 0.02) + 2 * 1.02 * (1 - 0.02 / sqrt(0.02 * 1.02)) = 12.5 + 1.754 S, over 2 S
        assert cost[band].item() == pytest.approx(14.254 / 2, rel=0.01)
        assert cost[waves[1 - lost][2]].item() == pytest.approx(0, abs=1e-3)


def reference_pairs(count: int = 6) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two channels, the second weaker in its finest detail, each moved and changed a little."""
    pairs = []
    for seed in range(count):
        now = torch.cat([red_noise(seed), red_noise(100 + seed, slope=2.0)], dim=1)
        other = torch.cat([red_noise(200 + seed), red_noise(300 + seed, slope=2.0)], dim=1)
        pairs.append((now, 0.9 * now.roll(1, -1) + 0.3 * other))
    return pairs


def test_a_band_without_weather_in_it_does_not_count_like_the_others():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    pairs = [(torch.cos(x / 9 + p)[None, None], torch.cos(x / 9 + y / 11 + p)[None, None]) for p in range(4)]
    loss = WeatherLoss()
    loss.set_reference(pairs, None, 0.0)
    units = loss.reference[0.0]["spectral"][0]
    assert units.min() == pytest.approx(1e-4 * units.max().item())


@pytest.mark.parametrize("width", [0.0, 2.0])
def test_persistence_has_a_loss_of_one_on_its_reference_pairs(width):
    pairs, loss = reference_pairs(), WeatherLoss()
    loss.set_reference(pairs, None, width)
    losses, terms = zip(*(loss(now, target, None, width) for now, target in pairs), strict=True)
    assert torch.stack(losses).mean().item() == pytest.approx(1, abs=0.01)
    for name in WEIGHTS:
        assert torch.stack([t[name] for t in terms]).mean(dim=0).tolist() == pytest.approx([1, 1], abs=0.01), name
    assert loss(pairs[0][1], pairs[0][1], None, width)[0] == 0


def test_each_width_has_a_reference_of_its_own():
    pairs, loss = reference_pairs(), WeatherLoss()
    for width in (0.0, 3.0):
        loss.set_reference(pairs, None, width)
    rough, smoothed = loss.reference[0.0]["mse"], loss.reference[3.0]["mse"]
    assert smoothed[0] < 0.6 * rough[0] and 0.7 * rough[1] < smoothed[1] < rough[1]  # the second has little detail
    assert loss.reference[3.0]["spectral"].shape == (2, 6)
