"""verify_forecast.py on forecasts of other models: every layout has the same scores, alone and beside ours."""

import json

import numpy as np
import pytest
import xarray as xr

import verify_forecast
from data.grid import Grid
from tests.conftest import hour, write_store
from tests.test_verify_forecast import HOUR, SHAPE, truth, write_forecast

REGULAR = Grid(SHAPE, ("latitude", "longitude"), *np.meshgrid(40 + 0.1 * np.arange(24), -90 + 0.1 * np.arange(28),
                                                              indexing="ij"))  # fmt: skip
RUNS, REACH = [hour(30), hour(31)], np.arange(1, 4) * HOUR


def made_up_model(layout: str) -> xr.Dataset:
    """The same forecast, the truth and a growing error, as each layout writes it; no analysis at lead 0."""
    fields = np.array([[truth("T2M", t + lead) + 0.5 * (lead / HOUR) for lead in REACH] for t in RUNS])
    if layout == "weatherbench":  # rows from the north, columns before rows, longitudes from 0 to 360
        dims = ("time", "prediction_timedelta", "longitude", "latitude")
        fields = fields[:, :, ::-1].swapaxes(2, 3)
        space = {"latitude": REGULAR.latitude[::-1, 0], "longitude": REGULAR.longitude[0] % 360}
        return xr.Dataset({"2m_temperature": (dims, fields)}, {"time": RUNS, "prediction_timedelta": REACH} | space)
    space = {"latitude": REGULAR.latitude[:, 0], "longitude": REGULAR.longitude[0]}
    if layout == "cfgrib":  # degrees Celsius, a level and a member number
        dims, valid = ("number", "time", "step", "latitude", "longitude"), np.array(RUNS)[:, None] + REACH
        field = (dims, fields[None] - 273.15, {"units": "degC"})
        times = {"number": [0], "time": RUNS, "step": REACH, "valid_time": (("time", "step"), valid)}
        return xr.Dataset({"t2m": field}, times | {"heightAboveGround": 2.0} | space)
    dims, hours = ("init_time", "lead_time", "latitude", "longitude"), ("lead_time", [1, 2, 3], {"units": "hours"})
    return xr.Dataset({"T2M": (dims, fields, {"units": "K"})}, {"init_time": RUNS, "lead_time": hours} | space)


@pytest.fixture
def beside(tmp_path, command):
    """Score a made-up forecast of another model, alone or beside ours: (exit code, printed, error, scores.json)."""

    def call(dataset: xr.Dataset, *more):
        store, path, out = tmp_path / "regular.zarr", tmp_path / "other.zarr", tmp_path / "scores.json"
        if not store.exists():
            write_store(store, truth, [hour(n) for n in range(60) if n != 33], ("T2M",), REGULAR)
            late = lambda n, t, lead: truth(n, t + lead) + 2 * (lead > 0 * HOUR)  # noqa: E731
            write_forecast(tmp_path / "ours.zarr", late, [hour(29), *RUNS], (0, 1, 2), ("T2M",), REGULAR)
        dataset.to_zarr(path, mode="w", zarr_format=2)
        forecast = ("--forecast", tmp_path / "ours.zarr", "--against", path) if more else ("--forecast", path)
        code, printed, error = command(verify_forecast, *forecast, "--zarr", store, "--out", out, "--figures", "False")
        return code, printed, error, json.loads(out.read_text()) if not code else None

    return call


@pytest.mark.parametrize("layout", ["ours", "weatherbench", "cfgrib"])
def test_the_forecast_of_another_model_has_the_same_scores_in_every_layout(beside, layout):
    code, printed, error, result = beside(made_up_model(layout))
    assert code == 0, error
    (scores,) = result["scores"].values()
    assert [scores[k]["n_cases"] for k in "123"] == [2, 1, 1] and result["known_hours"] == 24  # hour 33 is missing
    for lead in "123":
        entry = scores[lead]
        assert entry["rmse"] == entry["bias"] == pytest.approx(0.5 * float(lead), abs=1e-3)
        assert entry["persistence_rmse"] == pytest.approx(float(lead), abs=1e-3), "the analysis is the truth's"
    code, printed, error, result = beside(made_up_model(layout), "beside ours")
    ours, theirs = result["scores"]["T2M"], result["against"]["scores"]["T2M"]
    assert list(ours) == list(theirs) == ["1", "2"], "cases that both have"
    assert [ours[k]["n_cases"] for k in "12"] == [theirs[k]["n_cases"] for k in "12"] == [2, 1]
    assert ours["1"]["rmse"] == pytest.approx(2, abs=1e-3) and theirs["2"]["rmse"] == pytest.approx(1, abs=1e-3)
    assert "T2M              1        2       0.5" in printed and "3 cases that both have" in printed


def test_a_forecast_that_cannot_be_scored_is_refused_in_one_line(beside):
    good = made_up_model("cfgrib")
    lead = made_up_model("ours").assign_coords(lead_time=("lead_time", [1, 2, 3]))
    wrong = {
        "dimension number of 2 members": xr.concat([good, good], "number"),
        "unit 'parsec'": good.assign(t2m=good["t2m"].assign_attrs(units="parsec")),
        "no unit": lead,
        "other latitudes": good.assign_coords(latitude=good["latitude"] + 1),
        "without initial and lead times": good.isel(step=0).drop_vars(["step", "valid_time"]),
        "valid_time that is not": good.assign_coords(valid_time=good["valid_time"] + HOUR),
        "no initial and lead time of the forecast": good.assign_coords(
            time=good["time"] + 20 * HOUR, valid_time=good["valid_time"] + 20 * HOUR
        ),
    }
    for words, dataset in wrong.items():
        code, _, error, _ = beside(dataset, *(["beside ours"] if "initial" in words else []))
        assert code == 2 and words in error and "Fix:" in error and error.count("\n") == 1, error


def test_one_run_of_another_model_is_a_forecast_too(beside):
    one = made_up_model("cfgrib").isel(time=0)  # as cfgrib opens the files of one run
    code, _, error, result = beside(one)
    assert code == 0, error
    assert list(result["scores"]["t2m"]) == ["1", "2"], "the truth lacks the third hour"
    assert result["scores"]["t2m"]["1"]["rmse"] == pytest.approx(0.5, abs=1e-3)
    late = one.assign_coords(time=hour(33), valid_time=("step", hour(33) + REACH))
    code, _, error, _ = beside(late)
    assert code == 2 and "no valid time" in error, "the truth lacks the analysis too"
