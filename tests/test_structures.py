"""Storm objects, line index, edge, phase classes, bootstrap and climate against numbers worked by hand."""

import numpy as np
import pytest
from scipy import ndimage

from verification import lines, spectra
from verification.bootstrap import skill_interval
from verification.cases import Measure, add, case_sums, score_case
from verification.climate import estimate
from verification.extrapolation import extrapolate
from verification.objects import label, object_scores, object_sums

DRAW = np.random.default_rng(0)
HOUR = np.timedelta64(1, "h")


def test_labels_join_neighbours_over_corners():
    event = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 1]], bool)
    assert label(event).tolist() == [[1, 0, 0, 2], [0, 1, 0, 2], [0, 0, 0, 0], [3, 3, 0, 4]]
    assert label(np.zeros((3, 3), bool)).max() == 0


def test_labels_are_those_of_scipy_also_for_winding_areas():
    spiral = np.zeros((41, 41), bool)
    for r in range(0, 20, 2):
        spiral[r, r - (r > 0) * 2 : 41 - r] = spiral[r : 41 - r, 40 - r] = True
        spiral[40 - r, r : 41 - r] = spiral[r + 2 : 41 - r, r] = True
    for event in (spiral, DRAW.random((60, 70)) < 0.35, DRAW.random((60, 70)) < 0.5):
        expected, count = ndimage.label(event, np.ones((3, 3)))
        found = label(event)
        pairs = np.unique(np.stack([found[event], expected[event]]), axis=1)
        assert found.max() == count == pairs.shape[1]  # one to one


def test_objects_of_a_tiny_grid():
    # truth: a 2 x 2 storm at 40 and one of 4 in a row at 50; forecast: the first one column off, nothing else of size
    truth, forecast = np.zeros((6, 8)), np.zeros((6, 8))
    truth[0:2, 0:2], truth[5, 4:8] = 40, 50
    forecast[0:2, 1:3], forecast[3, 6] = 35, 60  # the single cell is speckle
    s = object_scores(object_sums(forecast, truth), cases=2, cell_area=9.0)
    assert s["truth"]["per_case"] == 1.0 and s["forecast"]["per_case"] == 0.5
    assert s["truth"]["mean_area_km2"] == s["forecast"]["mean_area_km2"] == 36.0
    assert s["truth"]["matched_share"] == 0.5 and s["forecast"]["matched_share"] == 1.0
    assert s["truth"]["p99"] == 50.5 and s["forecast"]["p99"] == 35.5  # upper ends of classes of 0.5 dBZ
    dry = object_scores(object_sums(0 * truth, 0 * truth), 1, 9.0)
    assert dry["truth"]["per_case"] == 0 and np.isnan(dry["truth"]["matched_share"])


def index_of(pairs) -> dict:
    """Line index over several cases of (forecast, truth)."""
    total = None
    for f, t in pairs:
        sums = lines.line_sums(spectra.spectrum_sums(f, t, (3.0, 3.0), modes=True)["modes"])
        total = add(total, sums) if total else sums
    return lines.line_index(total)


def noisy_index(pattern: np.ndarray) -> dict:
    """White noise plus a pattern against other white noise, 30 cases."""
    return index_of((DRAW.normal(size=(64, 64)) + pattern, DRAW.normal(size=(64, 64))) for _ in range(30))


@pytest.mark.parametrize("period", [2, 4, 8, 16])
def test_a_line_is_found_at_its_own_period(period):
    y, x = np.indices((64, 64))
    patterns = {
        "stripes": np.cos(2 * np.pi * x / period),
        "rows": np.cos(2 * np.pi * y / period),
        "diagonal": np.cos(2 * np.pi * (x + y) / period),
    }
    for pattern in patterns.values():
        index = noisy_index(pattern)
        assert index[str(period)] > 3 and max(index, key=index.get) == str(period)


def test_noise_has_no_lines_and_a_blurred_field_has_none():
    index = noisy_index(np.zeros((64, 64)))
    assert all(abs(v) < 0.6 for v in index.values())
    red = [ndimage.gaussian_filter(DRAW.normal(size=(64, 64)), 1) for _ in range(30)]
    assert all(v < 1 for v in index_of((ndimage.gaussian_filter(t, 1.5), t) for t in red).values())


def test_the_index_of_a_checkerboard_worked_by_hand():
    # flat spectra of power 1 (log |k| slope 0); the forecast's corner mode holds 1 + 48 (1 + VISIBLE)
    modes = np.ones((2, 64, 33))
    modes[0, 32, 32] += 48 * (1 + lines.VISIBLE)
    # p = 2 on 64 cells: 13 rows (both signs of ky) x 7 columns within 6 of the corner; nothing on the two axes
    expected = 10 * np.log10(1 + 48 / (13 * 7)) / 3
    index = lines.line_index(lines.line_sums(modes))
    assert index["2"] == pytest.approx(expected, rel=1e-6) and index["4"] == index["8"] == pytest.approx(0, abs=1e-9)


def test_periods_that_do_not_fit_are_not_available_and_constant_fields_count_for_nothing():
    assert lines.line_index(lines.line_sums(np.ones((2, 40, 21)))) == pytest.approx(
        {"2": 0, "4": 0, "8": 0, "16": None}
    )
    constant = lines.line_sums(np.stack([np.zeros((64, 33)), np.ones((64, 33))]))
    assert constant["2"] == [0.0, 0.0] and np.isnan(lines.line_index(constant)["2"])


def test_phase_classes_tell_a_checkerboard_from_a_bias():
    checker = np.indices((20, 36)).sum(0) % 2 * 2.0 - 1.0  # odd number of blocks of 16 on purpose
    spread = lines.phase_spread(lines.phase_sums(3 + checker), rmse=np.sqrt(10))
    assert spread == pytest.approx(dict.fromkeys(("2", "4", "8", "16"), 1 / np.sqrt(10)))
    assert max(lines.phase_spread(lines.phase_sums(np.full((32, 32), 3.0)), 3.0).values()) == 0


def test_edge_and_interior_apart():
    assert [lines.edge_width(s) for s in ((64, 80), (1059, 1799), (8, 8))] == [5, 35, 1]
    error = np.pad(np.full((54, 70), 1.0), 5, constant_values=2.0)
    s = lines.edge_scores(lines.edge_sums(error))
    assert s["edge_rmse"] == 2 and s["interior_rmse"] == 1
    by_distance = s["rmse_by_edge_distance"]  # the class of 4 to 8 cells holds one ring of the band, 4
    assert by_distance["2"] == 2 and by_distance["8"] == 1 and 1 < by_distance["4"] < 2
    masked = lines.edge_scores(lines.edge_sums(np.where(error == 2, np.nan, error), error != 2))
    assert np.isnan(masked["edge_rmse"]) and masked["interior_rmse"] == 1


def test_the_effective_resolution_is_the_wave_that_a_sharp_cut_leaves():
    field = DRAW.normal(size=(64, 64))
    k = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None])
    cut = np.fft.ifft2(np.fft.fft2(field) * (k < 1 / 8)).real
    sums = spectra.ring_sums(spectra.spectrum_sums(cut, field, (3.0, 3.0), True)["modes"], (64, 64), (3.0, 3.0))
    assert spectra.effective_resolution(sums) == pytest.approx(8, rel=0.1)


def test_bootstrap_by_day():
    assert skill_interval({"a": (1.0, 4.0)}) is None and skill_interval({"a": (1, 0.0), "b": (1, 0.0)}) is None
    assert skill_interval({"a": (1.0, 4.0), "b": (1.0, 4.0)}) == [0.5, 0.5]  # every draw is the same
    # one good and one bad day, drawn twice: good-good 1/4, mixed 1/2, bad-bad 1/4 of the draws
    low, high = skill_interval({"a": (0.0, 4.0), "b": (4.0, 4.0)})
    assert low == 0 and high == 1
    few, many = ({str(i): (1.0 + (i % 2), 4.0) for i in range(n)} for n in (4, 100))
    assert np.ptp(skill_interval(many)) < 0.5 * np.ptp(skill_interval(few))


def test_damped_persistence_is_drawn_to_the_mean_of_the_training_hours():
    # +a, -a, -a, +a, ... : correlation 0 one step on and -1 (held at 0) two steps on; 4 steps on it is 1
    pattern = DRAW.normal(size=(5, 6)).astype(np.float32)
    times = np.datetime64("2024-05-20", "ns") + np.arange(80) * HOUR
    signs = {int(t.astype("int64")): (1, -1, -1, 1)[i % 4] for i, t in enumerate(times)}
    leads = np.array([1, 2, 4, 500]) * HOUR
    climate = estimate(times, lambda t: {"T2M": 280 + signs[int(t.astype("int64"))] * pattern}, leads, HOUR)
    rho = climate.correlation["T2M"]
    assert (
        rho[leads[0]] == pytest.approx(0, abs=0.05)
        and rho[leads[1]] == 0
        and rho[leads[2]] == pytest.approx(1, abs=1e-3)
    )
    assert climate.mean["T2M"] == pytest.approx(np.full((5, 6), 280.0), abs=0.1)
    assert climate.damped("T2M", 280 + pattern, leads[1]) == pytest.approx(climate.mean["T2M"])
    assert climate.damped("T2M", 280 + pattern, leads[3]) is None and estimate(times[:1], None, leads, HOUR) is None


def test_extrapolation_is_compared_over_the_cells_it_reaches():
    fields = dict.fromkeys(("truth_before", "truth_after", "yesterday", "damped", "forecast_before"))
    truth = np.where(DRAW.random((24, 24)) < 0.3, 40.0, 0.0)
    moved = truth.copy()
    moved[:, 0] = np.nan
    fields |= {"forecast": truth, "truth": truth, "analysis": truth, "extrapolation": moved}
    sums = score_case(fields, None, Measure(thresholds=(20.0,), windows=(3,)))
    assert sums["extrapolation"]["errors"]["n"] == sums["forecast_beside_extrapolation"]["errors"]["n"] == 24 * 23
    assert "extrapolation" not in score_case(fields | {"extrapolation": 0 * truth + np.nan}, None, Measure())


def test_extrapolation_of_nothing_is_nothing():
    dry = np.zeros((3, 16, 20))
    assert extrapolate(dry, 4).shape == (4, 16, 20) and np.all(extrapolate(dry, 4) == 0)


def test_sums_of_all_dry_fields_are_defined():
    dry = np.zeros((32, 32), np.float32)
    sums = case_sums(dry, dry, None, Measure(thresholds=(20.0,), windows=(3,)), detail=True)
    assert sums["errors"]["squared"] == 0 and sums["objects"]["truth"]["count"] == 0
