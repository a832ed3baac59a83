"""A training run measures its own loss of detail at the end; forecasts give it back unless told not to."""

import shutil

import numpy as np
import pytest
import torch
import xarray as xr

import infer_iterative
import train_deterministic
import train_sharpen
from forecaster import forecast, load_model
from models.sharpen import Sharpening
from tests.conftest import TINY
from training.checkpoint import load_checkpoint

DATES = ("--train_end", "2024-05-21T04", "--val_end", "2024-05-22T02", "--gap", "2h")  # 20 h of validation


@pytest.fixture(scope="module")
def run_of_two(seven_store, tmp_path_factory):
    """A run of two epochs with the store itself as its boundary."""
    run_dir = tmp_path_factory.mktemp("sharpened") / "run"
    sizes = {k.removeprefix("--"): v for k, v in zip(TINY[::2], TINY[1::2], strict=True)}
    dates = {k.removeprefix("--"): v for k, v in zip(DATES[::2], DATES[1::2], strict=True)}
    constants = dict(zarr=str(seven_store), run_dir=str(run_dir), epochs=2, rollout_epochs=1, **sizes, **dates)
    constants |= {"boundary": str(seven_store), "variables": ["T2M", "CAPE"], "lr": 0.02, "muon_lr": 0.02}
    constants["sharpen"] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_sharpen, "FEWEST", 12)
        assert train_deterministic.main(train_deterministic.Config(**constants)) == 0
        yield run_dir, constants


def test_the_run_keeps_gains_for_both_kinds_of_forecast(run_of_two):
    gains = load_checkpoint(run_of_two[0] / "best.pt")["sharpening"]
    assert set(gains) == {"free", "free_shift", "free_rim", "edge", "edge_shift", "edge_rim"}
    # 20 hours, one of them history: 12 initial times have 8 hours of truth
    assert gains["free"].shape == gains["edge"].shape == (8, 2, 6)
    assert gains["free_shift"].shape == gains["edge_shift"].shape == (8, 2)
    assert not torch.equal(gains["free"], gains["edge"])
    for kind in ("free", "edge"):  # CAPE piles up at 0: gains of its own near the edge, and no shift
        inside, rim, shift = gains[kind], gains[f"{kind}_rim"], gains[f"{kind}_shift"]
        assert torch.equal(rim[:, 0], inside[:, 0]) and not torch.equal(rim[:, 1], inside[:, 1])
        assert not shift[:, 1].any()
    assert "sharpening" not in load_checkpoint(run_of_two[0] / "last.pt")


def test_a_forecast_is_sharpened_by_them_and_not_where_told_not_to(run_of_two, seven_store):
    model, hours = load_model(run_of_two[0] / "best.pt"), dict(init_time="2024-05-22T06", hours=3)
    plain, sharp = (forecast(model, seven_store, **hours, sharpen=s) for s in (False, True))
    assert [ds.attrs["sharpened"] for ds in (plain, sharp)] == ["no", "yes"]
    assert not np.allclose(plain.T2M[0, 1], sharp.T2M[0, 1])
    # a gain leaves the mean, but for what the bounds cut off
    gains, shift, _ = model.sharpening["free"]
    moved = shift[0, 0].item() * model.statistics.std[0].item()
    assert (sharp.T2M[0, 1] - plain.T2M[0, 1]).mean().item() == pytest.approx(moved, abs=0.05)
    ones = torch.ones_like(gains)
    model.sharpening = {"free": Sharpening(ones, torch.zeros_like(shift), ones)}
    np.testing.assert_allclose(forecast(model, seven_store, **hours).T2M, plain.T2M, atol=1e-3)


def test_boundary_data_choose_the_gains(run_of_two, seven_store):
    model = load_model(run_of_two[0] / "best.pt")
    asked = dict(init_time="2024-05-22T06", hours=2, boundary=str(seven_store))
    before = forecast(model, seven_store, **asked)
    gains, shift, rim = model.sharpening["free"]
    model.sharpening["free"] = Sharpening(2 * gains, shift + 1, rim)
    assert forecast(model, seven_store, **asked).identical(before)
    model.sharpening["edge"] = None
    assert not forecast(model, seven_store, **asked).equals(before)


def test_the_command_says_where_nothing_was_measured(run_of_two, seven_store, tmp_path, command):
    asked = ("--zarr", seven_store, "--init_time", "2024-05-22T06", "--hours", 2, "--out", tmp_path / "f.zarr")
    code, out, _ = command(infer_iterative, "--checkpoint", run_of_two[0] / "last.pt", *asked)
    assert code == 0
    assert "note: not sharpened; " in out
    code, out, _ = command(infer_iterative, "--checkpoint", run_of_two[0] / "best.pt", *asked)
    assert "not sharpened" not in out
    code, out, _ = command(infer_iterative, "--checkpoint", run_of_two[0] / "best.pt", *asked, "--sharpen", False)
    assert "not sharpened" not in out
    assert xr.open_zarr(tmp_path / "f.zarr").attrs["sharpened"] == "no"


def test_a_finished_run_that_lacks_them_measures_them(run_of_two, tmp_path, capsys):
    run_dir, constants = run_of_two
    shutil.copytree(run_dir, tmp_path / "run")
    constants = constants | {"run_dir": str(tmp_path / "run")}
    again = train_deterministic.Config(**constants)
    before = (tmp_path / "run" / "best.pt").read_bytes()
    assert train_deterministic.main(again) == 0
    assert (tmp_path / "run" / "best.pt").read_bytes() == before  # it has them
    checkpoint = load_checkpoint(tmp_path / "run" / "best.pt")
    measured = checkpoint.pop("sharpening")
    torch.save(checkpoint, tmp_path / "run" / "best.pt")
    assert train_deterministic.main(train_deterministic.Config(**constants | {"sharpen": False})) == 0
    assert "sharpening" not in load_checkpoint(tmp_path / "run" / "best.pt")
    assert train_deterministic.main(again) == 0
    found = load_checkpoint(tmp_path / "run" / "best.pt")["sharpening"]
    assert all(torch.equal(found[k], measured[k]) for k in measured)
    # 20 of the 28 hours of training and 12 of the 20 of validation have 8 hours of truth after them
    assert "sharpening: measured on 32 forecasts of 8 h" in capsys.readouterr().out


def test_it_is_measured_with_the_day_before_at_the_edge_where_forecasts_are_long_enough(
    run_of_two, tmp_path, monkeypatch
):
    run_dir, constants = run_of_two
    shutil.copytree(run_dir, tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run" / "best.pt")
    alone = checkpoint.pop("sharpening")
    assert "alone" not in alone  # forecasts of 8 h are left alone
    torch.save(checkpoint, tmp_path / "run" / "best.pt")
    monkeypatch.setattr(train_sharpen, "ALONE", 3.0)
    config = train_deterministic.Config(**constants | {"run_dir": str(tmp_path / "run")})
    assert train_deterministic.main(config) == 0
    found = load_checkpoint(tmp_path / "run" / "best.pt")["sharpening"]
    assert float(found["alone"]) == 3 and load_model(tmp_path / "run" / "best.pt").alone == 3
    assert torch.equal(found["edge"], alone["edge"]) and not torch.equal(found["free"], alone["free"])


def test_too_short_a_validation_part_is_said_and_nothing_is_kept(run_of_two, tmp_path, capsys, monkeypatch):
    run_dir, constants = run_of_two
    shutil.copytree(run_dir, tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run" / "best.pt")
    del checkpoint["sharpening"]
    torch.save(checkpoint, tmp_path / "run" / "best.pt")
    monkeypatch.setattr(train_sharpen, "FEWEST", 30)
    assert train_deterministic.main(train_deterministic.Config(**constants | {"run_dir": str(tmp_path / "run")})) == 0
    assert "sharpening: none; the validation part has no 30 initial times" in capsys.readouterr().out
    assert "sharpening" not in load_checkpoint(tmp_path / "run" / "best.pt")


@pytest.mark.parametrize(("hours", "count"), [(516, 94), (6300, 216)])  # every 5 h, not 2; every 29 h, not 22, 23 or 25
def test_hours_of_the_day_get_their_turn(hours, count):
    times = np.datetime64("2024-05-20", "ns") + np.arange(hours) * np.timedelta64(1, "h")
    middle = hours // 2

    class Data:
        lead = np.timedelta64(1, "h")
        store = type("Store", (), {"times": times, "grid": type("Grid", (), {"shape": (64, 64)})})
        split = type("Split", (), {"train": (times[0], times[middle - 1]), "validation": (times[middle], times[-1])})

    steps, starts = train_sharpen.choose_starts(Data, 1)
    assert (steps, len(starts)) == (24, count)
    assert ((starts < times[middle]).sum(), (starts > times[middle]).sum()) == (count // 2, count // 2)
    assert starts[-1] >= times[-1] - np.timedelta64(24 + 29, "h")
    hour = starts.astype("datetime64[h]").astype(int) % 24
    assert len(set(hour)) == 24
    week = starts < starts[0] + np.timedelta64(7, "D")
    assert len(set(hour[week] // 6)) == 4  # night, morning, afternoon and evening within a week
