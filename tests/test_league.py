"""The league scores with sums over all start times, on made-up weather whose right answers are worked by hand."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import xarray as xr

import train_deterministic
from benchmarks import league, league_sets
from benchmarks.league import Record, baselines, from_dbz, score, to_dbz
from benchmarks.league_sets import HOUR, SETS, SOURCES, Set, cut_rain, make_store
from tests.conftest import hour, write_store

SIZE_AND_DATA = {
    "variables", "train_end", "val_end", "gap", "lead", "boundary", "history", "base_features", "memory", "epochs",
    "batch_size", "accumulate", "rollout_hours",
}  # fmt: skip


def made_up(tmp_path, name, field, hours, starts, rows, train_end="2024-05-20T23"):
    """A set and its record; field(n) is the number or (12, 16) field of hour n."""
    store = write_store(tmp_path / "s.zarr", lambda _, t: field(int((t - hour(0)) / HOUR)), map(hour, hours), (name,))
    return Set("made up", {"train_end": train_end}, np.array([hour(n) for n in starts]), rows), Record(store)


def test_csi_and_frequency_bias_are_ratios_of_sums_over_the_start_times(tmp_path):
    """Rain of at least 1 mm in 2 cells at hours 24 and 25, then in 8, of which 1 is common: persistence from 24 has
    2 hits; from 25 it has 1 hit, 1 false alarm and 7 misses. CSI 3 / 11, where the mean of both would be 5 / 9."""

    def rain(n):
        out = np.zeros(12 * 16)
        out[range(2) if n < 26 else range(1, 9)] = 1.5
        return out.reshape(12, 16)

    one, record = made_up(tmp_path, "RAIN", rain, range(28), (24, 25), (("RAIN", "csi_1", (1,)),))
    got = score(one, record, baselines(one, record)["persistence"])["RAIN"]["1"]
    assert got["csi_1"] == pytest.approx(3 / 11) and got["frequency_bias_1"] == pytest.approx(4 / 10)
    assert got["csi_5"] is None, "no event at all"


def test_skill_is_that_of_the_root_over_all_start_times(tmp_path):
    """T2M rises by 1 K from hour 24 to 25 and by 7 K from 25 to 26: persistence has the RMSE sqrt((1 + 49) / 2) = 5. A
    forecast that is wrong by 3 K and by 4 K has sqrt(25 / 2), a skill of 1 - sqrt(1 / 2)."""
    one, record = made_up(
        tmp_path, "T2M", lambda n: {25: 281.0, 26: 288.0}.get(n, 280.0), range(28), (24, 25), (("T2M", "rmse", (1,)),)
    )
    wrong = {hour(24): 3.0, hour(25): -4.0}
    scores = {
        "persistence": score(one, record, baselines(one, record)["persistence"]),
        "model": score(one, record, lambda name, start, lead: record.at(name, start + lead) + wrong[start]),
    }
    league.add_skill({"baselines": scores, "seeds": {}})
    persistence, model = (scores[k]["T2M"]["1"] for k in ("persistence", "model"))
    assert persistence["rmse"] == pytest.approx(5) and persistence["bias"] == pytest.approx(-4)
    assert model["skill"] == pytest.approx(1 - 0.5**0.5) and persistence["skill"] == 0


def test_a_baseline_that_lacks_a_start_time_has_no_score(tmp_path):
    one, record = made_up(tmp_path, "q", lambda n: n, range(30), (20, 24), (("q", "rmse", (1,)),), "2024-05-20T12")
    methods = baselines(one, record)
    assert (methods["yesterday"]("q", hour(24), HOUR) == 1).all()
    by_name = {n: score(one, record, method) for n, method in methods.items()}
    assert by_name["persistence"]["q"]["1"]["rmse"] == 1
    assert not by_name["climatology"]["q"], "the training hours end at 12, and it is 21 o'clock"
    assert not by_name["yesterday"]["q"] and not by_name["extrapolation"]["q"]


def test_rain_is_extrapolated_in_dbz_with_the_motion_it_had(tmp_path):
    rain = np.array([0.0, 1.0, 10.0], np.float32)
    assert to_dbz(rain) == pytest.approx([-10, 23.01, 39.01], abs=0.01)  # 10 log10 of 200 and of 200 x 10^1.6
    assert from_dbz(to_dbz(rain)) == pytest.approx(rain)
    y, x = np.mgrid[:12, :16]

    def shower(n):  # 2 columns an hour
        return np.float32(20 * np.exp(-((y - 6) ** 2 + (x - 4 - 2 * (n - 24)) ** 2) / 8))

    one, record = made_up(tmp_path, "RAIN", shower, range(22, 28), (24,), (("RAIN", "csi_1", (1, 2)),), "2024-05-20T23")
    moved = baselines(one, record)["extrapolation"]("RAIN", hour(24), 2 * HOUR)
    assert np.unravel_index(moved.argmax(), moved.shape) == (6, 8) and moved.max() == pytest.approx(20, rel=0.1)


def test_masked_cells_do_not_count_and_a_forecast_without_a_value_elsewhere_is_refused(tmp_path):
    field = np.full((12, 16), 280.0)
    field[0] = np.nan
    one, record = made_up(tmp_path, "T2M", lambda n: field + n, range(4), (1,), (("T2M", "rmse", (1,)),))
    got = score(one, record, lambda name, start, lead: np.where(np.arange(12)[:, None] == 0, 900.0, field + 4))
    assert got["T2M"]["1"]["rmse"] == pytest.approx(2)
    assert got["T2M"]["1"]["power_ratio_above_5"] is None, "spectra need a rectangle without a mask"
    with pytest.raises(ValueError, match="without a value in 176 cells that have truth, expected none"):
        score(one, record, lambda name, start, lead: field * np.nan)


def test_rain_of_a_fault_or_of_missing_hours_is_masked_in_every_hour_and_counted(tmp_path, capsys):
    rain = np.ones((3, 4, 5))
    rain[1, 2, 3], rain[2, 0, 0] = 899, np.nan
    data = {"rain": (("time", "latitude", "longitude"), rain)}
    at = {"time": [hour(n) for n in range(3)], "latitude": np.arange(4.0), "longitude": np.arange(5.0)}
    xr.Dataset(data, at).to_netcdf(tmp_path / "mrms.nc")
    cut_rain(tmp_path / "mrms.nc", tmp_path / "s.zarr", slice(0, 3), slice(0, 5))
    got = Record(tmp_path / "s.zarr").fields["RAIN"]
    assert got.shape == (3, 3, 5) and np.isnan(got).sum() == 6
    assert np.isnan(got[:, 2, 3]).all() and np.isnan(got[:, 0, 0]).all()
    assert (
        "masked 1 cells that lack hours and 1 that have more than 305 mm in an hour, of 15" in capsys.readouterr().out
    )


@pytest.mark.parametrize("name", SETS)
def test_a_set_changes_size_and_data_alone_and_starts_in_the_test_part(name):
    one = SETS[name]
    assert set(one.constants) <= SIZE_AND_DATA <= {f.name for f in fields(train_deterministic.Config)}
    assert {name, one.train_on or name} <= set(SOURCES)
    gap = {"5min": 5, "1h": 60, "6h": 360, None: 180}[one.constants.get("gap")] * np.timedelta64(1, "m")
    assert one.starts[0] >= np.datetime64(one.constants["val_end"]) + gap
    assert one.leads[-1] * one.step <= np.timedelta64(24, "h"), "yesterday is known only so far"


def test_mean_and_spread_of_seeds_and_other_sets_in_the_file(tmp_path):
    trees = [{"a": {"b": 1.0, "c": None}}, {"a": {"b": 4.0, "c": 2.0}}]
    assert league.merged(trees, np.ptp) == {"a": {"b": 3.0, "c": None}}
    league.save(tmp_path / "r" / "league.json", {"era5": 1, "radar": 2})
    league.save(tmp_path / "r" / "league.json", {"radar": 3})
    assert json.loads((tmp_path / "r" / "league.json").read_text()) == {"era5": 1, "radar": 3}


def test_the_table_has_a_line_for_each_score_and_lead():
    def at(value, bias):
        return {"REFC": {str(k): {"csi_20": value, "frequency_bias_20": bias} for k in (1, 3, 6)}}

    result = {"baselines": {n: {} for n in league.BASELINES} | {"persistence": at(0.5, 1.0)},
              "mean": at(0.75, 0.9), "spread": at(0.01, 0.02)}  # fmt: skip
    lines = league.table({"radar": result}).splitlines()
    assert len(lines) == 8
    assert " ".join(lines[1].split()) == "FMI radar REFC csi 20 5 min 0.750 (0.010) 0.500 - - -"


def test_a_finished_run_is_not_trained_again_and_one_of_other_constants_is_refused(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(league, "call", lambda command, log, threads: commands.append(command))
    monkeypatch.setattr(league, "make_store", lambda *a: tmp_path / "idaho.zarr")
    (tmp_path / "idaho_seed1").mkdir()
    for _ in range(2):
        seconds, out = league.train_and_forecast("idaho", tmp_path, tmp_path, 1, 1)
    assert [c[0] for c in commands] == ["train_deterministic.py"] + 2 * ["infer_iterative.py"]
    assert out == tmp_path / "idaho_seed1_forecast.zarr" and set(seconds) == {"training", "forecast"}
    options = list(map(str, commands[0]))
    assert options[options.index("--seed") + 1] == "1" and options[options.index("--variables") + 2] == "D2M"
    assert list(map(str, commands[1]))[6:8] == ["2018-07-23T09:00", "2018-07-23T10:00"]
    monkeypatch.setitem(SETS, "idaho", replace(SETS["idaho"], constants={"train_end": "2018-07-22T22", "epochs": 1}))
    with pytest.raises(ValueError, match=r"got the run of other constants, expected those .* Fix: another --folder"):
        league.train_and_forecast("idaho", tmp_path, tmp_path, 1, 1)


@pytest.mark.parametrize(
    "options, parts",
    [(("--sets", "era"), ("sets: got 'era', expected some of era5", "Fix: era5")),
     (("--threads", "0"), ("threads: got", "expected one or more")),
     (("--data", "none", "--threads", "1"), ("which has no era5_uk_t2m_744h.nc", "Fix: --data FOLDER"))],
)  # fmt: skip
def test_a_mistake_ends_in_one_line(command, tmp_path, options, parts):
    code, _, err = command(league, "--folder", tmp_path, *options)
    assert code == 2 and err.startswith("error: ") and len(err.splitlines()) == 1 and all(p in err for p in parts)


def test_a_command_that_fails_names_its_last_line_and_its_log(tmp_path):
    with pytest.raises(ValueError, match=r"exit code 2, expected 0 \(no such store.*Fix: read .*x\.log"):
        league_sets.call(["-c", "print('no such store'); raise SystemExit(2)"], tmp_path / "x.log", 1)


@pytest.mark.real_data
def test_real_rain_and_temperature_have_the_known_baselines(real, tmp_path, monkeypatch):
    """CSI at 1 mm and +1 h over the Carolinas; RMSE of T2M over the United Kingdom."""
    monkeypatch.setattr(league, "structure", lambda cases: {})  # which takes longest
    rain = Record(make_store("mrms_carolinas", real, tmp_path, 1))
    one = replace(SETS["mrms_carolinas"], rows=(("RAIN", "csi_1", (1,)),))
    got = {n: score(one, rain, m)["RAIN"]["1"]["csi_1"] for n, m in baselines(one, rain).items() if n[0] in "pe"}
    assert got == pytest.approx({"persistence": 0.272, "extrapolation": 0.366}, abs=0.002)
    with xr.open_dataset(real / "era5_uk_t2m_744h.nc") as dataset:
        dataset.drop_encoding().rename(t2m="T2M").to_zarr(tmp_path / "era5.zarr", consolidated=False)
    era5 = Record(tmp_path / "era5.zarr")
    got = score(SETS["era5"], era5, baselines(SETS["era5"], era5)["persistence"])["T2M"]
    assert [got[str(k)]["rmse"] for k in (1, 3, 6, 12, 24)] == pytest.approx(
        [0.621, 1.688, 2.927, 3.991, 1.768], abs=1e-3
    )
