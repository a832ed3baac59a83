"""Extrapolation finds a known motion, carries echo on along it, and is persistence where nothing moves."""

import math

import numpy as np
import pytest
import xarray as xr

from verification import scores
from verification.extrapolation import extrapolate, motion, reach_of, transport


def cells(size):
    return np.mgrid[:size, :size].astype(float)


def blobs(centres, size=64, width=5.0, peak=45.0):
    """Round storms of `peak` dBZ at (row, column) centres over -10 dBZ of no echo."""
    y, x = cells(size)
    echo = sum(np.exp(-((y - r) ** 2 + (x - c) ** 2) / (2 * width**2)) for r, c in centres)
    return (-10 + (peak + 10) * echo).astype(np.float32)


def moving_blobs(wind, times, size=64):
    """Two storms that move by `wind` (rows, columns) cells per frame and are in mid-domain at time 0."""
    centre = size / 2
    places = np.array([[centre - 4, centre + 6], [centre + 6, centre - 8]])
    return np.stack([blobs(places + t * np.array(wind), size) for t in times])


def squall_lines(times, turn, size=96):
    """Echo that turns by `turn` radians a frame about the middle, in the sense from the column to the row axis."""
    y, x = cells(size) - (size - 1) / 2
    out = []
    for t in times:
        c, s = math.cos(turn * t), math.sin(turn * t)
        row, column = c * y - s * x, s * y + c * x  # where the echo stood at time 0
        out.append(15 + 12 * np.sin(2 * np.pi * row / 22) + 12 * np.cos(2 * np.pi * column / 26))
    return np.stack(out).astype(np.float32)


def centre_of_echo(field):
    y, x = cells(len(field))
    weight = np.clip(field, 10, None) - 10
    return np.array([(weight * y).sum(), (weight * x).sum()]) / weight.sum()


@pytest.mark.parametrize("wind", [(1, 0), (0, -3), (-2.5, 4), (5, 5), (0, 8)])
def test_storms_are_continued_with_the_wind_that_moved_them(wind):
    frames = moving_blobs(wind, [-2, -1, 0])
    flow, forecast = motion(frames), extrapolate(frames, 3)
    storm = frames[-1] > 20
    assert np.abs(flow[:, storm] - np.array(wind)[:, None]).mean() < 0.35
    for step in (1, 2, 3):
        if abs(max(wind, key=abs)) * step <= 16:  # both storms are still whole inside the domain
            truth = moving_blobs(wind, [step])[0]
            assert np.abs(centre_of_echo(forecast[step - 1]) - centre_of_echo(truth)).max() < 0.35 * step
            assert forecast[step - 1].max() > 40, "the peak of 45 dBZ is carried, not smoothed away"


def test_the_fastest_motion_follows_from_step_and_spacing():
    assert reach_of(np.timedelta64(1, "h"), 3000.0) == 36  # 30 m/s are 108 km in an hour
    assert reach_of(np.timedelta64(5, "m"), 1000.0) == 9 and reach_of(np.timedelta64(5, "m"), 25_000.0) == 2
    places = np.array([(30, 10), (60, 20), (90, 12), (110, 25)])
    frames = np.stack([blobs(places + np.array([0, 26 * t]), size=128, width=3) for t in range(3)])  # 78 km/h
    flow = motion(frames, reach_of(np.timedelta64(1, "h"), 3000.0))[:, frames[-1] > 20]
    assert np.abs(flow - np.array([[0], [26]])).mean() < 0.5
    assert motion(frames, 16.0).max() <= 16, "no faster than it may be"


def test_a_rotation_is_found_and_continued():
    turn = 0.06  # radians a frame: 2.4 cells a frame 40 cells from the middle
    frames = squall_lines([-2, -1, 0], turn)
    y, x = cells(96) - 47.5
    inner = np.hypot(y, x) < 38
    error = motion(frames) - turn * np.stack([x, -y])
    assert np.sqrt(np.square(error).sum(0)[inner].mean()) < 0.35, "cells per frame, where the mean speed is 1.5"
    forecast, truth = extrapolate(frames, 3), squall_lines([1, 2, 3], turn)
    for step in range(3):
        squared = np.square(forecast[step] - truth[step])[inner].mean()
        assert squared < 0.25 * np.square(frames[-1] - truth[step])[inner].mean(), "persistence errs at least twice"


def test_a_trajectory_follows_the_curve_of_a_steady_rotation():
    turn, quarter = 0.1, 15  # 15 steps of 0.1 are 86 degrees: straight lines would end 12 cells too far out
    y, x = cells(64) - 31.5
    flow = (turn * np.stack([x, -y])).astype(np.float32)
    start = blobs([(31.5, 31.5 + 16)], width=3)
    end = (31.5 + 16 * math.sin(turn * quarter), 31.5 + 16 * math.cos(turn * quarter))
    forecast = transport(start, flow, quarter)[-1]
    assert np.abs(centre_of_echo(forecast) - end).max() < 0.3
    assert forecast.max() > start.max() - 1, "interpolated once, not once a step"


def test_air_from_beyond_the_domain_has_the_value_at_the_edge_and_a_gap_keeps_the_analysis():
    analysis = 10 + np.arange(36, dtype=np.float32).reshape(6, 6)
    east = np.stack([np.zeros((6, 6)), np.full((6, 6), 2.0)]).astype(np.float32)  # 2 columns a frame
    np.testing.assert_allclose(transport(analysis, east, 1)[0, 0], [10, 10, 10, 11, 12, 13], atol=1e-4)
    analysis[0, 1] = np.nan
    moved = transport(analysis, east, 1)[0, 0]  # column 3 comes from the gap and stays 13
    np.testing.assert_allclose(moved, [10, 10, 10, 13, 12, 13], atol=1e-4)
    moved = transport(analysis, 0.3 * east, 1)[0, 0]  # 0.6 columns: the gap is not mixed in as if it were 0 dBZ
    np.testing.assert_allclose(moved, [10, 10, 12, 12.4, 13.4, 14.4], atol=1e-4)
    analysis[0, :2] = np.nan
    moved = transport(analysis, east, 1)[0, 0]
    assert np.isnan(moved[:2]).all() and np.isfinite(moved[2:]).all(), "a number wherever persistence has one"


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(np.full((3, 64, 64), -10.0), id="dry"),
        pytest.param(np.full((3, 64, 64), 30.0), id="constant"),
        pytest.param(np.where(np.arange(64) < 20, np.nan, np.full((3, 64, 64), 30.0)), id="constant with a gap"),
        pytest.param(np.full((3, 64, 64), np.nan), id="no data"),
        pytest.param(moving_blobs((2, 3), [0]), id="one frame"),
        pytest.param(moving_blobs((2, 3), [0, 1, 2]) * np.array([1, 0, 1])[:, None, None], id="a dry frame between"),
        pytest.param(np.repeat(blobs([(3, 4)], size=8, width=1.5)[None], 3, 0), id="8 x 8 that stands still"),
        pytest.param(np.repeat(blobs([(0, 0)], size=1)[None], 3, 0), id="one cell"),
    ],
)
def test_without_anything_that_moves_it_is_persistence(frames):
    frames = frames.astype(np.float32)
    forecast = extrapolate(frames, 3)
    assert forecast.dtype == np.float32 and forecast.shape == (3, *frames.shape[1:])
    np.testing.assert_allclose(motion(frames), 0, atol=0.02)
    np.testing.assert_allclose(forecast, np.repeat(frames[-1:], 3, 0), atol=0.5)


def test_the_edge_of_the_coverage_is_not_taken_for_standing_echo():
    frames = moving_blobs((2, 3), [-2, -1, 0])
    frames[:, :, :24] = np.nan  # through the middle of the storm that is at row 38, column 24
    frames[:, 40:44, 50] = np.nan
    flow = motion(frames)
    assert np.isfinite(flow).all()
    storm = frames[-1] > 20  # False where it is NaN
    assert np.abs(flow - np.array([2, 3])[:, None, None])[:, storm].mean() < 0.05
    forecast = extrapolate(frames, 2)
    assert np.isfinite(forecast[:, np.isfinite(frames[-1])]).all()


@pytest.mark.real_data
def test_real_radar_is_forecast_as_well_as_the_table_of_baselines_says(real):
    """CSI of 20 dBZ at +5 and +15 min over the analyses 28 and 31; persistence has 0.62 and 0.51 over six."""
    with xr.open_dataset(real / "fmi_dbz_20160928.nc", engine="netcdf4") as file:
        frames = file["dbz"][25:35].values
    gains = []
    for start in (3, 6):
        forecast = extrapolate(frames[start - 2 : start + 1], 3)
        for k in (1, 3):
            scored = np.isfinite(frames[start + k]) & np.isfinite(frames[start])
            tables = (scores.contingency(x, frames[start + k], 20, scored) for x in (forecast[k - 1], frames[start]))
            own, persistence = map(scores.csi, tables)
            gains.append(own - persistence)
    assert min(gains) > 0.1
