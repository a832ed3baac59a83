"""From which hours forecasts start: with the history they need, with truth to the end, never seen in training."""

import warnings

import numpy as np
import pytest
import xarray as xr

import infer_iterative
import train_deterministic
from data.times import parse_time, show
from tests.conftest import SIZES, hour, weather, write_store

LEAD = np.timedelta64(1, "h").astype("timedelta64[ns]")
PARTS = {"train": (0, 41), "validation": (44, 50), "test": (53, 99)}  # hours
SPLIT = {name: [show(hour(n)) for n in part] for name, part in PARTS.items()} | {"gap_hours": 3.0}


class Record:
    """A store, as far as the choice of initial times looks: these hours."""

    def __init__(self, hours):
        self.path, self.times = "some.zarr", np.array([hour(n) for n in hours])

    def has(self, time) -> bool:
        return time in self.times


def chosen(hours=range(100), steps=6, history=1, init_time=("test",), **constants) -> tuple[list[int], int]:
    """The initial times in hours, and the number of steps."""
    cfg = infer_iterative.Config(zarr="some.zarr", init_time=list(init_time), **constants)
    checkpoint = {"split": SPLIT, "config": {"history": history}}
    times, steps = infer_iterative.choose_init_times(cfg, Record(hours), checkpoint, LEAD, steps)
    return [int((t - hour(0)) / LEAD) for t in times], steps


def test_test_starts_have_their_history_and_truth_inside_the_test_part():
    starts, steps = chosen(test_starts=1000)
    assert starts == list(range(54, 94)) and steps == 6  # 53 looks back on 52; 93 + 6 = 99, the last hour
    assert chosen(test_starts=1000, history=0)[0] == list(range(53, 94))
    assert chosen(test_starts=1000, history=3)[0] == list(range(56, 94))


def test_test_starts_are_spread_evenly():
    assert chosen(test_starts=4)[0] == [54, 67, 80, 93]
    assert chosen(test_starts=1)[0] == [54]


def test_a_missing_hour_costs_the_starts_that_look_back_on_it_or_have_no_next_hour():
    without = [n for n in range(100) if n != 70]
    assert set(range(54, 94)) - set(chosen(without, test_starts=1000)[0]) == {69, 70, 71}


@pytest.mark.parametrize("every,step", [("1h", 1), ("6h", 6), ("24h", 24)])
def test_one_start_every_so_often(every, step):
    assert chosen(init_every=every)[0] == list(range(54, 94, step))
    assert chosen(init_every=every, test_starts=1)[0] == list(range(54, 94, step))  # it stands instead of a number


@pytest.mark.parametrize("every", ["30min", "90min"])
def test_a_start_between_the_hours_of_the_store_is_refused(every):
    with pytest.raises(ValueError, match=f"init_every: got {every}, expected a multiple of 1 h.* Fix: --init_every 1h"):
        chosen(init_every=every)


@pytest.mark.parametrize("given", [["latest"], [str(hour(60))], ["latest", "test"]])
def test_a_start_every_so_often_needs_test(given):
    with pytest.raises(ValueError, match=r"init_every: got 6h with --init_time .*expected .* Fix: --init_time test"):
        chosen(init_every="6h", init_time=given)


def test_no_initial_time_is_refused():
    with pytest.raises(ValueError, match=r"init_time: got nothing, expected ISO times, latest or test. Fix: "):
        chosen(init_time=[])


@pytest.mark.parametrize("zoned", ["2023-08-20T05+02:00", "2023-08-20 05:00+0200", "2023-08-19T22:00-05"])
def test_a_time_with_a_zone_is_refused_with_that_time_in_utc(zoned):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"init_time: got .*, expected .* Fix: --init_time 2023-08-20T03:00:00"):
            parse_time(zoned, "init_time")
        assert parse_time("2023-08-20T03Z", "init_time") == np.datetime64("2023-08-20T03")


def test_every_hour_of_a_later_store_is_unseen():
    starts, steps = chosen(range(500, 540), steps=24, init_every="5h")
    assert starts == [501, 506, 511] and steps == 24  # 515 + 24 = 539
    assert chosen(range(45, 200), steps=24, test_starts=1000)[0] == list(range(54, 176))  # a record that went on


def test_a_store_of_earlier_hours_has_none():
    with pytest.raises(ValueError, match=r"some.zarr has no test hour .* Fix: name initial times"):
        chosen(range(53))


def test_a_short_test_part_gives_shorter_forecasts_and_says_so(capsys):
    starts, steps = chosen(range(60), steps=24, test_starts=1000)
    assert starts == [54, 55, 56] and steps == 3  # hours 53 to 59: half of 6
    assert "the test part is only 6 hours long: forecasts of 3 hours" in capsys.readouterr().out


@pytest.mark.parametrize("history,missing", [(1, [29]), (3, [29]), (3, [28]), (3, [27])])
def test_a_missing_hour_before_a_start_is_refused(history, missing):
    record = Record(n for n in range(60) if n not in missing)
    times = np.array([hour(20), hour(30)])
    with pytest.raises(ValueError, match=f"has no {show(hour(missing[0]))}.* last {history + 1} times") as error:
        infer_iterative.refuse_missing_history(record, times, LEAD, history)
    assert "Fix: " in str(error.value)
    infer_iterative.refuse_missing_history(record, times[:1], LEAD, history)
    infer_iterative.refuse_missing_history(record, times, LEAD, 0)


def test_the_command_starts_in_a_later_store_and_is_given_the_hours_before(tmp_path, command, monkeypatch):
    monkeypatch.setattr(train_deterministic, "save_loss_curves", lambda log, path: None)
    store = write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(40)])
    cfg = train_deterministic.Config(zarr=str(store), run_dir=str(tmp_path / "run"), epochs=1, history=2, **SIZES)
    assert train_deterministic.main(cfg) == 0
    later = write_store(tmp_path / "later.zarr", weather, [hour(n) for n in range(100, 112)])
    seen = []
    states = infer_iterative.Series.states
    monkeypatch.setattr(infer_iterative.Series, "states", lambda s, t: seen.append(states(s, t)) or seen[-1])
    arguments = ("--checkpoint", tmp_path / "run" / "best.pt", "--zarr", later, "--out", tmp_path / "f.zarr")
    code, _, err = command(infer_iterative, *arguments, "--init_time", "test", "--init_every", "3h", "--hours", 2)
    assert code == 0, err
    forecast = xr.open_zarr(tmp_path / "f.zarr")
    assert list(forecast.init_time.values) == [hour(102), hour(105), hour(108)]
    for start, given in zip((102, 105, 108), seen[1:], strict=True):  # the first is a look before the store is made
        assert given.shape == (1, 3, 1, 12, 16)
        assert np.allclose(given[0, :, 0], [weather("T2M", hour(start - k)) for k in (2, 1, 0)])
    code, _, err = command(infer_iterative, *arguments, "--init_time", hour(101), "--hours", 2)
    assert code == 2 and err.count("\n") == 1 and "has no 2024-05-24T03:00" in err and "last 3 times" in err
    assert list(xr.open_zarr(tmp_path / "f.zarr").init_time.values) == [hour(102), hour(105), hour(108)]
