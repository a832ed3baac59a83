"""Scores, spectra and baselines against numbers worked by hand or by another library."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, uniform_filter

from verification import scores, spectra
from verification.baselines import same_hour_yesterday, yesterday_time
from verification.cases import Measure, add, case_sums
from verification.outputs import without_nan
from verification.report import number, table_leads

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


def test_std_ratio_compares_variation_in_space_and_drift_is_in_the_pooled_unit():
    # two cases, truth 0 2 and 4 6: spatial std 1 in each, pooled about the overall mean 3 it is sqrt((9+1+1+9)/4)
    truths = [np.array([[0.0, 2.0]]), np.array([[4.0, 6.0]])]
    forecasts = [0.5 * (t - t.mean()) + t.mean() + 3 for t in truths]  # half the variation, 3 too high
    sums = add(*(scores.error_sums(f, t) for f, t in zip(forecasts, truths, strict=True)))
    pooled = add(*(scores.moments(t) for t in truths))
    assert scores.std_ratio(sums) == 0.5 and scores.pooled_std(pooled) == pytest.approx(math.sqrt(5))
    assert scores.drift(sums, pooled) == pytest.approx(3 / math.sqrt(5))
    assert scores.pooled_std(scores.moments(np.full((9, 9), 287.3, np.float32))) == 0


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
        power = spectra.spectrum_sums(wave, wave, (6.0, 1.5))["power_truth"]
        assert power[band] > 0.98 * sum(p for p in power if p is not None)


def test_band_power_is_that_of_the_full_transform_worked_with_numpy():
    field = DRAW.normal(size=(40, 40))
    hann = np.hanning(41)[:40, None] * np.hanning(41)[:40]  # periodic
    power = np.abs(np.fft.fft2((field - (field * hann).sum() / hann.sum()) * hann, norm="ortho")) ** 2
    k = np.hypot(np.fft.fftfreq(40)[:, None], np.fft.fftfreq(40)[None])
    expected = [power[(k > 1 / high + 1e-9) & (k < 1 / low + 1e-9)].sum() for low, high in spectra.BANDS[:3]]
    assert spectra.spectrum_sums(field, field, (3.0, 3.0))["power_truth"][:3] == pytest.approx(expected, rel=1e-5)


def test_half_the_amplitude_is_a_quarter_of_the_power_and_still_coherent():
    truth = red_noise(300, 1.5)  # wider than a tile
    sums = spectra.spectrum_sums(280 + 0.5 * truth, 280 + truth, (3.0, 3.0))
    assert spectra.power_ratio(sums) == pytest.approx([0.25] * 4, rel=1e-3)
    assert spectra.coherence(sums) == pytest.approx([1] * 4, rel=1e-4)
    turned = spectra.spectrum_sums(truth.T.copy(), truth, (3.0, 3.0))
    assert spectra.power_ratio(turned)[:2] == pytest.approx([1, 1], abs=0.1)
    assert abs(spectra.coherence(turned)[0]) < 0.1


def test_blur_shows_in_a_field_whose_opposite_edges_do_not_meet():
    whole, n = red_noise(512, 2.5), 512
    k = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.fftfreq(n)[None])
    blurred = np.fft.ifft2(np.fft.fft2(whole) * np.where(k > 0.15, 0.15, 1.0)).real  # 0.15^2 of the power below 5 cells
    part = (slice(40, 168), slice(70, 198))
    ratio = spectra.power_ratio(spectra.spectrum_sums(blurred[part], whole[part], (3.0, 3.0)))
    assert ratio[0] == pytest.approx(0.0225, rel=0.1)
    plain = [np.abs(np.fft.fft2(x[part])) ** 2 for x in (blurred, whole)]
    fine = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)[None]) > 0.21
    assert plain[0][fine].sum() / plain[1][fine].sum() > 0.5  # what the window is for


def test_bands_too_long_for_the_domain_and_fields_with_masked_cells_are_not_available():
    field = DRAW.normal(size=(64, 64))
    assert spectra.power_ratio(spectra.spectrum_sums(field, field, (3.0, 3.0))) == [1, 1, 1, None]
    field[0, 0] = np.nan
    assert spectra.spectrum_sums(field, field, (3.0, 3.0)) is None and spectra.coherence(None) == [None] * 4


def test_tiles_cover_the_domain_evenly_and_overlap_by_half():
    starts = spectra._starts(1059, 256)
    assert starts[0] == 0 and starts[-1] == 1059 - 256 and spectra._starts(64, 64) == [0]
    assert max(np.diff(starts)) <= 128 and np.ptp(np.diff(starts)) <= 1


def test_yesterday_is_the_last_day_known_at_the_initial_time():
    init = np.datetime64("2018-07-23T00", "ns")
    for hours, back in ((1, 24), (24, 24), (25, 48), (0.5, 24)):
        lead = np.timedelta64(int(hours * 3600), "s")
        assert yesterday_time(init + lead, lead) == init + lead - back * HOUR <= init
    assert same_hour_yesterday(lambda time: None, init + HOUR, HOUR) is None
    assert same_hour_yesterday(lambda time: np.full((2, 2), np.nan), init + HOUR, HOUR) is None


def test_a_case_that_is_not_available_stays_so_in_the_sum():
    field = DRAW.normal(size=(24, 24))
    holed = np.where(field > 2, np.nan, field)
    total = add(*(case_sums(x, x, np.isfinite(x), Measure(thresholds=(1.0,), windows=(3,))) for x in (field, holed)))
    assert total["cases"] == 2 and total["spectrum"] is None and total["errors"]["squared"] == 0


def test_printed_leads_and_numbers():
    assert table_leads({"T2M": {"1": {}, "2": {}, "5": {}, "36": {}}}) == ["1", "2", "36"]
    assert without_nan({"a": [1.0, math.nan]}) == {"a": [1.0, None]} and number(1234.5) == "1234"
