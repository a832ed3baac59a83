"""Our scores against the `scores` package (Bureau of Meteorology), where it is installed."""

import numpy as np
import pytest
import xarray as xr

from verification import scores as ours

theirs = pytest.importorskip("scores")
DRAW = np.random.default_rng(0)
FORECAST, TRUTH = (xr.DataArray(np.clip(DRAW.normal(15, 15, (40, 50)), 0, None), dims=("y", "x")) for _ in range(2))


def test_errors():
    from scores import continuous

    sums = ours.error_sums(FORECAST.values, TRUTH.values)
    assert ours.rmse(sums) == pytest.approx(float(continuous.rmse(FORECAST, TRUTH)))
    assert ours.mae(sums) == pytest.approx(float(continuous.mae(FORECAST, TRUTH)))
    assert ours.bias(sums) == pytest.approx(float(continuous.additive_bias(FORECAST, TRUTH)))


def test_the_two_by_two_table():
    from scores.categorical import ThresholdEventOperator

    table = ours.contingency(FORECAST.values, TRUTH.values, 20.0)
    other = ThresholdEventOperator(default_event_threshold=20.0).make_contingency_manager(FORECAST, TRUTH)
    pairs = {
        "csi": "critical_success_index", "pod": "probability_of_detection", "far": "false_alarm_ratio",
        "frequency_bias": "frequency_bias", "ets": "equitable_threat_score",
    }  # fmt: skip
    for name, method in pairs.items():
        assert getattr(ours, name)(table) == pytest.approx(float(getattr(other, method)()))


def test_fss():
    from scores.spatial import fss_2d

    other = fss_2d(FORECAST, TRUTH, event_threshold=20.0, window_size=(5, 5), spatial_dims=("y", "x"))
    assert ours.fss(ours.fss_sums(FORECAST.values, TRUTH.values, 20.0, 5)) == pytest.approx(float(other))
