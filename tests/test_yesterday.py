"""Forecasts without boundary data: their edge is drawn to the day before, by the formula, and never to a later hour."""

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import infer_iterative
from data.boundary import Yesterday, davies
from data.dataset import Hours
from data.normalise import Statistics
from data.store import Store
from forecaster import forecast
from tests.conftest import hour, weather, write_store
from tests.test_boundary import EDGE, LEAD, NAMES, persistent
from training.checkpoint import load_checkpoint, save_checkpoint

STATISTICS = Statistics(NAMES, torch.tensor([250.0, 0.0]), torch.tensor([4.0, 3.0]), torch.tensor([1.0, 1.0]))
ALONE = 12.0  # h
FREE = torch.tensor([True, True])


def count(name: str, time: np.datetime64) -> float:
    """A value that tells the hour."""
    return 250.0 + float((time - hour(0)) / np.timedelta64(1, "h"))


def day_before(tmp_path, hours, lead=LEAD, steps=50, free=FREE, fields=count) -> Yesterday:
    store = Store(write_store(tmp_path / "s.zarr", fields, [hour(n) for n in hours], NAMES))
    return Yesterday(Hours(store, list(NAMES), None), STATISTICS, None, lead, steps, ALONE, free)


@pytest.mark.parametrize("length", [1, 3, 5])
def test_an_edge_is_that_of_the_same_hour_of_the_last_day_before_the_initial_time(length, tmp_path):
    lead, at = length * LEAD, 30
    edge = day_before(tmp_path, range(31), lead)
    assert edge.known(np.array([hour(at)])).all()
    for k in range(50):
        ahead = (k + 1) * length
        reached = at + ahead
        while reached > at:  # as many days earlier as it takes
            reached -= 24
        state = edge.draw(torch.zeros(1, 2, 12, 16), np.array([hour(at)]), lead, k)
        assert state[0, 0, 0, 0].item() == pytest.approx(reached / 4 if ahead > ALONE else 0, abs=1e-4), ahead
        assert state[0, 0, 0, 0].item() == state[0, 0, -1, -1].item() and (state[0, 0][~EDGE].abs() < 1e-6).all()


def test_the_strip_is_that_of_boundary_data(tmp_path):
    edge = day_before(tmp_path, range(25), fields=lambda name, time: 254.0 if name == "T2M" else 3.0)
    state = edge.draw(torch.zeros(1, 2, 12, 16), np.array([hour(24)]), LEAD, 23)
    assert torch.allclose(state[0], davies((12, 16)).expand(2, 12, 16), atol=1e-6)


def test_a_forecast_without_the_day_before_goes_without_and_leaves_the_others_alone(tmp_path):
    edge = day_before(tmp_path, [n for n in range(60) if n != 20])
    times, state = np.array([hour(10), hour(30), hour(50)]), torch.randn(3, 2, 12, 16)
    assert edge.known(times).tolist() == [False, False, True]
    drawn = edge.draw(state, times, LEAD, 12)
    assert torch.equal(drawn[:2], state[:2])
    assert torch.equal(drawn[2:], edge.draw(state[2:], times[2:], LEAD, 12)) and not torch.equal(drawn[2], state[2])


def test_what_is_held_is_not_drawn(tmp_path):
    edge = day_before(tmp_path, range(25), free=torch.tensor([True, False]))
    state = torch.randn(1, 2, 12, 16)
    drawn = edge.draw(state, np.array([hour(24)]), LEAD, 23)
    assert torch.equal(drawn[:, 1], state[:, 1]) and not torch.equal(drawn[:, 0], state[:, 0])


# ---- the command


@pytest.fixture
def run(tmp_path, monkeypatch, command):
    """run(initial hour, ...) forecasts 14 h with a model that is persistence, from 40 hours of weather, as where its
    sharpening was measured with the day before at the edge."""
    path = write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(40)], NAMES)
    best, out = persistent(tmp_path, monkeypatch, path), tmp_path / "f.zarr"
    checkpoint = load_checkpoint(best, torch.device("cpu"))
    save_checkpoint({**checkpoint, "sharpening": {"alone": torch.tensor(ALONE)}}, Path(best))

    def forecasts(start: int, *arguments):
        at = ("--checkpoint", best, "--zarr", path, "--out", out, "--init_time", hour(start))
        code, told, err = command(infer_iterative, *at, "--hours", 14, *arguments)
        assert code == 0, err
        return xr.open_zarr(out).load(), told

    forecasts.best, forecasts.path = best, path
    return forecasts


def test_a_forecast_is_drawn_to_the_day_before_and_says_so(run):
    found, told = run(30)
    assert found.attrs["edge"] == "after 12 h the day before" and found.attrs["boundary"] == ""
    assert "after 12 h the edge is drawn to the day before" in told and "lacks hours of it" not in told
    for name in NAMES:
        for k in range(14):
            edge = weather(name, hour(30) if k < 12 else hour(30 + k + 1 - 24))
            field = found[name][0, k + 1].values
            assert np.allclose(field[EDGE], edge[EDGE], atol=1e-3), (name, k)
            assert np.allclose(field[~EDGE], weather(name, hour(30))[~EDGE], atol=1e-3), (name, k)
    same = forecast(run.best, run.path, hour(30), 14)
    assert all(np.array_equal(same[n], found[n]) for n in NAMES) and same.attrs["edge"] == found.attrs["edge"]


@pytest.mark.parametrize("start, arguments", [(30, ("--yesterday", "False")), (10, ())])
def test_without_it_a_forecast_is_left_to_itself(run, start, arguments):
    found, told = run(start, *arguments)
    assert found.attrs["edge"] == "the forecast" and "the day before" not in told
    for name in NAMES:
        assert np.allclose(found[name][0, 1:], weather(name, hour(start)), atol=1e-3)


def test_how_many_go_without_is_said(run):
    _, told = run(30, "--init_time", hour(30), hour(10), hour(5))
    assert "initial time; not in 2 of 3: the store lacks hours of it" in told


def test_a_broken_hour_of_the_day_before_is_named_with_the_way_around_it(run, tmp_path, command):
    def broken(name: str, time: np.datetime64) -> np.ndarray:
        return np.where(EDGE & (time == hour(20)), np.nan, weather(name, time))

    path, out = write_store(tmp_path / "broken.zarr", broken, [hour(n) for n in range(40)], NAMES), tmp_path / "b.zarr"
    arguments = ("--checkpoint", run.best, "--zarr", path, "--out", out, "--init_time", hour(30), "--hours", 14)
    code, _, err = command(infer_iterative, *arguments)
    assert code == 2 and err.count("\n") == 1 and "2024-05-20T20:00" in err and "--yesterday False" in err
    assert not out.exists()
    assert command(infer_iterative, *arguments, "--yesterday", "False")[0] == 0
