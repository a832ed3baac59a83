"""Scores, spectra, lines, edge and bootstrap against numbers worked by hand or by another library."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, uniform_filter

from verification import scores, spectra
from verification.baselines import yesterday_time
from verification.cases import Measure, add, block_weights, case_sums, interval, resample
from verification.climate import estimate

HOUR = np.timedelta64(1, "h")
DRAW = np.random.default_rng(0)


def red_noise(n: int, power: float) -> np.ndarray:
    """A periodic (n, n) field whose amplitude falls as |k|^-power."""
    k = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.fftfreq(n)[None])
    k[0, 0] = np.inf
    return np.fft.ifft2(np.fft.fft2(DRAW.normal(size=(n, n))) * k**-power).real


def test_the_two_by_two_table_gives_the_scores_worked_by_hand():
    # at least 20:  forecast  yes yes / yes no / no no      truth  yes no / yes yes / no no
    # hits 2, false alarms 1, misses 1, correct negatives 2, n = 6
    forecast, truth = np.array([[30, 20], [25, 0], [0, 19.9]]), np.array([[20, 0], [40, 50], [0, 0]])
    table = scores.contingency(forecast, truth, 20)
    assert table == {"hits": 2, "false_alarms": 1, "misses": 1, "correct_negatives": 2}
    assert scores.csi(table) == 2 / 4 and scores.pod(table) == 2 / 3 and scores.far(table) == 1 / 3
    assert scores.frequency_bias(table) == 1
    assert scores.ets(table) == pytest.approx((2 - 1.5) / (4 - 1.5))  # by chance: 3 * 3 / 6 = 1.5 hits
    assert math.isnan(scores.csi(scores.contingency(forecast, truth, 99)))


def test_errors_are_summed_over_cases_before_the_root():
    # errors 0 and 2 over two cases: sqrt((0 + 4) / 2), not the mean of 0 and 2
    cases = [scores.error_sums(np.full((1, 2), 5.0), np.full((1, 2), t)) for t in (5.0, 3.0)]
    total = add(*cases)
    assert scores.rmse(total) == math.sqrt(2) and scores.mae(total) == 1 and scores.bias(total) == 1


def test_masked_cells_are_left_out_and_tensors_are_as_good_as_arrays():
    forecast, truth = np.array([[1.0, np.nan], [3.0, 5.0]]), np.array([[1.0, np.nan], [1.0, 2.0]])
    sums = scores.error_sums(forecast, truth, np.isfinite(truth))
    assert sums["n"] == 3 and scores.mae(sums) == pytest.approx(5 / 3)
    assert sums == scores.error_sums(torch.tensor(forecast), torch.tensor(truth), np.isfinite(truth))


def test_std_ratio_compares_variation_in_space_and_the_pooled_one_that_over_cases_too():
    # two cases, truth 0 2 and 4 6: spatial std 1 in each, pooled about the overall mean 3 it is sqrt((9+1+1+9)/4)
    truths = [np.array([[0.0, 2.0]]), np.array([[4.0, 6.0]])]
    forecasts = [0.5 * (t - t.mean()) + t.mean() + 3 for t in truths]  # half the variation, 3 too high
    sums = add(*(scores.error_sums(f, t) for f, t in zip(forecasts, truths, strict=True)))
    pooled = scores.pooled_std(add(*(scores.moments(t) for t in truths)))
    assert scores.std_ratio(sums) == 0.5 and pooled == pytest.approx(math.sqrt(5))
    assert scores.pooled_std(scores.moments(np.full((9, 9), 287.3, np.float32))) == 0


def test_the_anomaly_correlation_of_a_two_by_two_climatology_worked_by_hand():
    # hours 0 and 1 of two days: the mean of each hour, cell by cell
    days = np.array([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 12.0]]])  # (day, hour, cell)
    hours = [np.datetime64(f"2024-05-{d:02}T{h:02}", "ns") for d in (20, 21) for h in (0, 1)]
    fields = dict(zip(hours, days.reshape(4, 1, 2), strict=True))
    climate = estimate(np.array(hours), lambda t: {"T2M": fields[t]})
    assert climate.mean[0]["T2M"].tolist() == [[3, 4]] and climate.mean[1]["T2M"].tolist() == [[5, 8]]
    # two days are few: hour 0 is (2 x 3 + 1 x 5) / 3, for hour 23 was never seen
    smooth = climate.at("T2M", hours[0])
    assert smooth == pytest.approx(np.array([[11 / 3, 16 / 3]]))
    # departures of hour 0: day 1 (-8/3, -10/3), day 2 (4/3, 2/3); an hour later those of hour 1, mean (13/3, 20/3)
    before, after = days[:, 0] - smooth[0], days[:, 1] - np.array([13 / 3, 20 / 3])
    expected = (before * after).sum() / (before**2).sum()
    assert climate.damping("T2M", HOUR) == pytest.approx(min(expected, 1)) and climate.damping("T2M", 5 * HOUR) is None
    sums = add(*(scores.anomaly_sums(a, b, 0.0) for a, b in zip(before, after, strict=True)))
    assert scores.correlation(sums) == pytest.approx(
        (before * after).sum() / math.sqrt((before**2).sum() * (after**2).sum())
    )


def test_damped_persistence_keeps_the_share_of_a_departure_that_the_training_hours_keep():
    hours = np.datetime64("2024-05-01", "ns") + np.arange(24 * 60) * HOUR
    departure, draw = np.zeros((len(hours), 20)), np.random.default_rng(1)
    for k in range(1, len(hours)):
        departure[k] = 0.9 * departure[k - 1] + draw.normal(size=20)
    of_day = (np.arange(len(hours)) % 24)[:, None]
    fields = dict(zip(hours, (of_day + departure)[:, None], strict=True))
    climate = estimate(hours, lambda t: {"T2M": fields[t]})
    for lead, left in ((1, 0.9), (6, 0.9**6)):
        assert climate.damping("T2M", lead * HOUR) == pytest.approx(left, abs=0.05)
    damped = climate.damped("T2M", np.full((1, 20), 10.0), hours[3], 6 * HOUR)  # 7 above the climatology of 03 UTC
    assert damped.mean() == pytest.approx(9 + 7 * 0.9**6, abs=0.8)


@pytest.mark.parametrize("window", [3, 7])
def test_fss_agrees_with_scipy_and_counts_only_windows_inside_the_domain(window):
    forecast, truth = (gaussian_filter(DRAW.normal(size=(40, 50)), 2) for _ in range(2))
    r = window // 2
    f, o = (uniform_filter((x >= 0.1).astype(float), window)[r:-r, r:-r] for x in (forecast, truth))
    expected = 1 - ((f - o) ** 2).sum() / ((f**2).sum() + (o**2).sum())
    assert scores.fss(scores.fss_sums(forecast, truth, 0.1, window)) == pytest.approx(expected, abs=1e-12)


def test_fss_of_a_displaced_storm_grows_with_the_window_and_is_nan_without_any():
    truth = np.zeros((40, 40))
    truth[15:20, 15:20] = 40
    moved = np.roll(truth, 5, axis=1)
    values = [scores.fss(scores.fss_sums(moved, truth, 30, w)) for w in (1, 5, 15)]
    assert values[0] == 0 and values[0] < values[1] < values[2] < 1
    assert math.isnan(scores.fss(scores.fss_sums(truth, truth, 60, 5)))
    scored = np.ones((40, 40), bool)
    scored[17, 17] = False  # every window of 30 cells that sees a storm sees this cell too
    assert math.isnan(scores.fss(scores.fss_sums(moved, truth, 30, 25, scored)))


def test_windows_are_odd_and_fitted_to_a_small_domain():
    assert [scores.window_cells(w, 3.0, (1059, 1799)) for w in (9, 33, 57, 93)] == [3, 11, 19, 31]
    assert [scores.window_cells(w, 3.0, (64, 80)) for w in (9, 33, 93)] == [3, 5, 5]  # 8 % of 64 is 5.1
    assert scores.window_cells(93, 3.0, (20, 20)) == 3


def test_a_wave_is_counted_at_its_physical_length_when_rows_and_columns_differ_in_spacing():
    # 4 rows of 6 km are 24 km; 6 columns of 1.5 km are 9 km; the grid length is sqrt(6 x 1.5) = 3 km
    rows, columns = np.meshgrid(np.arange(96.0), np.arange(96.0), indexing="ij")
    for wave, band in ((np.sin(2 * np.pi * rows / 4), 1), (np.sin(2 * np.pi * columns / 6), 0)):
        power = spectra.spectrum_sums(wave, wave, (6.0, 1.5))["bands"][1]
        assert power[band] > 0.98 * np.nansum(power)


def test_band_power_is_that_of_the_full_transform_worked_with_numpy():
    field = DRAW.normal(size=(40, 40))
    hann = np.hanning(41)[:40, None] * np.hanning(41)[:40]  # periodic
    power = np.abs(np.fft.fft2((field - (field * hann).sum() / hann.sum()) * hann, norm="ortho")) ** 2
    k = np.hypot(np.fft.fftfreq(40)[:, None], np.fft.fftfreq(40)[None])
    expected = [power[(k > 1 / high + 1e-9) & (k < 1 / low + 1e-9)].sum() for low, high in spectra.BANDS[:3]]
    assert spectra.spectrum_sums(field, field, (3.0, 3.0))["bands"][1, :3] == pytest.approx(expected, rel=1e-5)


def test_half_the_amplitude_is_a_quarter_of_the_power_and_still_coherent():
    truth = red_noise(300, 1.5)  # wider than a tile
    sums = spectra.spectrum_sums(280 + 0.5 * truth, 280 + truth, (3.0, 3.0))["bands"]
    assert spectra.power_ratio(sums) == pytest.approx([0.25] * 4, rel=1e-3)
    assert spectra.coherence(sums) == pytest.approx([1] * 4, rel=1e-4)
    turned = spectra.spectrum_sums(truth.T.copy(), truth, (3.0, 3.0))["bands"]
    assert spectra.power_ratio(turned)[:2] == pytest.approx([1, 1], abs=0.1)
    assert abs(spectra.coherence(turned)[0]) < 0.1


def test_blur_shows_in_a_field_whose_opposite_edges_do_not_meet():
    whole, n = red_noise(512, 2.5), 512
    k = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.fftfreq(n)[None])
    blurred = np.fft.ifft2(np.fft.fft2(whole) * np.where(k > 0.15, 0.15, 1.0)).real  # 0.15^2 of the power below 5 cells
    part = (slice(40, 168), slice(70, 198))
    ratio = spectra.power_ratio(spectra.spectrum_sums(blurred[part], whole[part], (3.0, 3.0))["bands"])
    assert ratio[0] == pytest.approx(0.0225, rel=0.1)
    plain = [np.abs(np.fft.fft2(x[part])) ** 2 for x in (blurred, whole)]
    fine = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)[None]) > 0.21
    assert plain[0][fine].sum() / plain[1][fine].sum() > 0.5  # what the window is for


def test_bands_too_long_for_the_domain_and_fields_with_masked_cells_are_not_available():
    field = DRAW.normal(size=(64, 64))
    ratio = spectra.power_ratio(spectra.spectrum_sums(field, field, (3.0, 3.0))["bands"])
    assert ratio == pytest.approx([1, 1, 1, math.nan], nan_ok=True)
    whole = case_sums(field, field, 0.0, None, Measure(), ("spectrum",), detail=True)
    field[0, 0] = np.nan
    total = add(whole, case_sums(field, field, 0.0, np.isfinite(field), Measure(), ("spectrum",), detail=True))
    assert total["cases"] == 2 and total["errors"]["squared"] == 0
    spectrum = total["spectrum"]  # that of a case that is not available stays so in the sum
    values = spectra.coherence(spectrum["bands"]), spectra.line_index(spectrum["lines"])
    assert np.isnan(values).all() and math.isnan(spectra.effective_resolution(spectrum["rings"]))


def test_yesterday_is_the_last_day_known_at_the_initial_time():
    init = np.datetime64("2018-07-23T00", "ns")
    for hours, back in ((1, 24), (24, 24), (25, 48), (0.5, 24)):
        lead = np.timedelta64(int(hours * 3600), "s")
        assert yesterday_time(init + lead, lead) == init + lead - back * HOUR <= init


# ---- artefacts and structure


def index_of(pairs) -> dict:
    """Line index by period over several cases of (forecast, truth)."""
    sums = sum(spectra.spectrum_sums(f, t, (3.0, 3.0), detail=True)["lines"] for f, t in pairs)
    return dict(zip(spectra.PERIODS, spectra.line_index(sums), strict=True))


def noisy_index(pattern: np.ndarray) -> dict:
    """White noise plus a pattern against other white noise, 30 cases."""
    return index_of((DRAW.normal(size=(64, 64)) + pattern, DRAW.normal(size=(64, 64))) for _ in range(30))


@pytest.mark.parametrize("period", [2, 4, 8, 16])
@pytest.mark.parametrize("direction", [(0, 1), (1, 0), (1, 1)], ids=["stripes", "rows", "diagonal"])
def test_a_line_is_found_at_its_own_period(period, direction):
    index = noisy_index(np.cos(2 * np.pi * np.tensordot(direction, np.indices((64, 64)), 1) / period))
    assert index[period] > 3 and max(index, key=index.get) == period


def test_noise_has_no_lines_and_a_blurred_field_has_none():
    assert all(abs(v) < 0.6 for v in noisy_index(np.zeros((64, 64))).values())
    red = [gaussian_filter(DRAW.normal(size=(64, 64)), 1) for _ in range(30)]
    assert all(v < 1 for v in index_of((gaussian_filter(t, 1.5), t) for t in red).values())


def test_the_index_of_a_checkerboard_worked_by_hand():
    # flat spectra of power 1 (log |k| slope 0); the forecast's corner mode holds 1 + 48 (1 + VISIBLE)
    modes = np.ones((2, 64, 33))
    modes[0, 32, 32] += 48 * (1 + spectra.VISIBLE)
    # p = 2 on 64 cells: 13 rows (both signs of ky) x 7 columns within 6 of the corner; nothing on the two axes
    expected = 10 * np.log10(1 + 48 / (13 * 7)) / 3
    assert spectra.line_index(spectra.line_sums(modes)) == pytest.approx([expected, 0, 0, 0], rel=1e-6, abs=1e-9)


def test_periods_that_do_not_fit_are_not_available_and_constant_fields_count_for_nothing():
    flat = spectra.line_index(spectra.line_sums(np.ones((2, 40, 21))))
    assert flat == pytest.approx([0, 0, 0, math.nan], nan_ok=True)
    constant = spectra.line_sums(np.stack([np.zeros((64, 33)), np.ones((64, 33))]))
    assert constant[0].tolist() == [0.0, 0.0] and math.isnan(spectra.line_index(constant)[0])


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (lambda k: k < 1 / 8, 8.0),  # a sharp cut
        (lambda k: (k < 1 / 8) | (k > 1 / 4), 8.0),  # noise below the gap is no resolution
        (lambda k: k > 1 / 4, math.nan),  # no long wave is right
    ],
)
def test_the_effective_resolution_is_the_end_of_the_unbroken_run_of_waves_with_half_the_power(kept, expected):
    field = DRAW.normal(size=(64, 64))
    k = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None])
    cut = np.fft.ifft2(np.fft.fft2(field) * kept(k)).real
    rings = spectra.spectrum_sums(cut, field, (3.0, 3.0), detail=True)["rings"]
    assert spectra.effective_resolution(rings) == pytest.approx(expected, rel=0.1, nan_ok=True)


def test_sums_are_resampled_by_day_and_a_day_without_a_comparison_counts_for_nothing():
    days = [{"a": 1.0, "b": {"c": np.array([1.0, 2.0])}}, {"a": 10.0}]
    total = resample(days, np.array([[1.0, 1.0], [0.0, 2.0], [2.0, 0.0]]))
    assert total["a"].tolist() == [11, 20, 2] and total["b"]["c"].tolist() == [[1, 2], [0, 0], [2, 4]]
    weights = block_weights(11)
    assert weights[0].tolist() == [1] * 11 and (weights.sum(axis=1) == 11).all() and weights is block_weights(11)
    runs = weights[1:] > 0
    assert (runs & np.roll(runs, 1, axis=1)).any(axis=1).all(), "days are drawn in blocks"


@pytest.mark.parametrize("days", [4, 11, 40])
@pytest.mark.parametrize("memory", [0.0, 0.4])
def test_the_interval_of_a_skill_covers_the_truth_in_at_least_85_of_100_correlated_records(days, memory):
    draw, hits = np.random.default_rng(days), 0
    for _ in range(400):
        days_before = draw.normal(size=2)
        squares = np.empty((days, 2))
        for d in range(days):  # squared errors of forecast and reference, each with a memory from day to day
            days_before = memory * days_before + math.sqrt(1 - memory**2) * draw.normal(size=2)
            squares[d] = (0.5, 1.0) * np.exp(0.5 * days_before)
        own, reference = (block_weights(days) @ squares).T
        low, high = interval(1 - np.sqrt(own / reference), days)
        hits += low <= 1 - math.sqrt(0.5) <= high
    assert hits >= 0.85 * 400


def test_an_interval_needs_three_days_and_a_defined_score():
    same = np.full(501, 0.5)
    assert interval(same, 3) == [0.5, 0.5] and interval(same, 2) is None
    assert interval(np.full(501, math.nan), 9) is None
    few = np.full(501, math.nan)
    few[:100] = 1.0
    assert interval(few, 9) is None, "not defined in most draws"
