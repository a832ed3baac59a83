"""Variables that validation does not show better than persistence stay as they are in forecasts."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

import infer_iterative
import train_deterministic
import train_restrain
from data.normalise import Statistics
from forecaster import forecast
from tests.conftest import SIZES
from train_restrain import find_held, gained, proved
from training.checkpoint import load_checkpoint


def test_a_mean_has_to_stand_out_of_its_standard_error():
    # means 0.3, standard deviations 0.1, 0.2 and 0: t = 5.2, 2.6 and none with 2 degrees of freedom; the bar is 2.92
    gains = torch.tensor([[0.2, 0.1, -0.3], [0.3, 0.3, -0.3], [0.4, 0.5, -0.3]])
    assert proved(gains).tolist() == [True, False, False]
    assert proved(torch.cat([gains, gains])[:, 1:]).tolist() == [True, False]  # t = 4.1 with 5, the bar is 2.02


def stub(change: float, hours: int = 6):
    """Data of two variables that rise by 1 and by 0 an hour, in a domain half of which is masked and wrong there, and a
    model that lets both rise by `change`."""
    times = np.datetime64("2024-05-20", "ns") + np.arange(hours) * np.timedelta64(1, "h")
    mask = torch.zeros(2, 4, 6, dtype=torch.bool)
    mask[..., 3:] = True

    def fields(time) -> torch.Tensor:
        k = int((time - times[0]) / np.timedelta64(1, "h"))
        return torch.where(mask, 99.0, torch.tensor([k, 0.0])[:, None, None])

    statistics = Statistics(("U10", "V10"), *(torch.tensor(x) for x in ([0.0, 0.0], [2.0, 2.0], [1.0, 1.0])))
    return SimpleNamespace(
        device=torch.device("cpu"), names=["U10", "V10"], lead=np.timedelta64(1, "h"), statistics=statistics, mask=mask,
        valid=~mask, hours=fields, forcing=lambda t: (None, None),
        store=SimpleNamespace(times=times, grid=SimpleNamespace(shape=(4, 6))),
        series=SimpleNamespace(states=lambda t: fields(t[0])[None, None]),
        split=SimpleNamespace(validation=(times[0], times[-1])),
    ), lambda states, forcing, clock: torch.full((1, 2, 4, 6), change)  # fmt: skip


def test_the_gain_of_an_hour_by_hand():
    # the first rises by 1, half of a standard deviation, and is forecast to rise by 0.75; the second does not change,
    # so persistence is perfect, and the forecast wrong by 0.75
    found = gained(*stub(0.75), np.array(["2024-05-20T02"], "datetime64[ns]"))
    assert found.tolist() == pytest.approx([1 / 2 - 0.25 / 2, -0.75 / 2])


def test_an_hour_with_next_to_no_change_does_not_hold_a_variable():
    """It rises by 1 in eleven hours and by 0.001 in one, in which a forecast of 0.75 has a skill of -748."""
    data, model = stub(0.75, hours=13)
    whole = data.hours

    def fields(time) -> torch.Tensor:
        out = whole(time).clone()
        out[0, :, :3] -= 0.999 * bool(time > data.store.times[6])
        return out

    data.hours, data.series.states = fields, lambda t: fields(t[0])[None, None]
    assert find_held(data, model, 0) == ["V10"]


def test_the_variable_without_proof_is_held(capsys):
    assert find_held(*stub(0.75), 0) == ["V10"]
    assert "held: V10 will stay" in capsys.readouterr().out


def test_nothing_is_held_where_nothing_passes_or_too_few_hours_can_tell():
    assert find_held(*stub(-0.5), 0) == []
    assert find_held(*stub(0.75, hours=3), 0) == []


@pytest.fixture(scope="module")
def run_with_held_wind(seven_store, tmp_path_factory):
    """A run of two epochs, for whose validation T2M is said to be better than persistence, and U10 worse."""
    run_dir = tmp_path_factory.mktemp("restrained") / "run"
    constants = dict(zarr=str(seven_store), run_dir=str(run_dir), epochs=2, rollout_epochs=1, variables=["T2M", "U10"])
    constants |= SIZES | {"lr": 0.02, "muon_lr": 0.02, "restrain": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            train_restrain, "gained", lambda data, model, t: torch.tensor([0.5, -0.1]) + 0.01 * (t[0].item() % 7)
        )
        assert train_deterministic.main(train_deterministic.Config(**constants)) == 0
    return run_dir, constants


def test_a_held_variable_stays_and_the_others_move(run_with_held_wind, seven_store, tmp_path, command):
    checkpoint = load_checkpoint(run_with_held_wind[0] / "best.pt")
    assert checkpoint["held"] == ["U10"]
    asked = ("--zarr", seven_store, "--init_time", "2024-05-22T06", "--hours", 3, "--out", tmp_path / "f.zarr")
    code, out, _ = command(infer_iterative, "--checkpoint", run_with_held_wind[0] / "best.pt", *asked)
    assert code == 0 and "note: U10 stay as they are (persistence)" in out
    ds = xr.open_zarr(tmp_path / "f.zarr").load()
    assert ds.attrs["held"] == "U10"
    for k in (1, 2, 3):
        np.testing.assert_array_equal(ds.U10[0, k], ds.U10[0, 0])  # to the last digit
        assert abs(ds.T2M[0, k] - ds.T2M[0, 0]).mean() > 0.01


def test_the_same_command_frees_it_and_measures_again(run_with_held_wind, seven_store, tmp_path):
    run_dir, constants = run_with_held_wind
    shutil.copytree(run_dir, tmp_path / "run")
    constants = constants | {"run_dir": str(tmp_path / "run")}
    assert train_deterministic.main(train_deterministic.Config(**constants | {"restrain": False})) == 0
    assert "held" not in load_checkpoint(tmp_path / "run" / "best.pt")
    ds = forecast(tmp_path / "run" / "best.pt", seven_store, "2024-05-22T06", 1)
    assert ds.attrs["held"] == "" and abs(ds.U10[0, 1] - ds.U10[0, 0]).mean() > 0.01
    assert train_deterministic.main(train_deterministic.Config(**constants)) == 0
    assert "held" in load_checkpoint(tmp_path / "run" / "best.pt")
