"""From which hours forecasts start: with the history they need, with truth to the end, never seen in training."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

import infer_iterative
from data.dataset import Hours
from data.times import parse_time, show
from tests.conftest import hour, weather, write_store
from tests.model_files import train

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
    model = SimpleNamespace(checkpoint={"split": SPLIT}, history=history, lead=LEAD)
    times, steps = infer_iterative.choose_init_times(cfg, Record(hours), model, steps)
    return [int((t - hour(0)) / LEAD) for t in times], steps


WITHOUT_70 = [n for n in range(100) if n != 70]


@pytest.mark.parametrize("arguments,expected", [
    ({"test_starts": 1000}, range(54, 94)),  # 53 looks back on 52; 93 + 6 = 99, the last hour
    ({"test_starts": 1000, "history": 0}, range(53, 94)),
    ({"test_starts": 1000, "history": 3}, range(56, 94)),
    ({"test_starts": 4}, [54, 67, 80, 93]),
    ({"test_starts": 1}, [54]),
    ({"test_starts": 1000, "hours": WITHOUT_70}, [n for n in range(54, 94) if n not in (69, 70, 71)]),
    ({"init_every": "1h"}, range(54, 94)),
    ({"init_every": "6h", "test_starts": 1}, range(54, 94, 6)),  # it stands instead of a number
    ({"init_every": "24h"}, [54, 78]),
    ({"init_every": "5h", "hours": range(500, 540), "steps": 24}, [501, 506, 511]),  # a later store: all is unseen
    ({"test_starts": 1000, "hours": range(45, 200), "steps": 24}, range(54, 176)),  # a record that went on
    ({"init_time": ["latest"], "hours": range(7)}, [6]),
    ({"init_time": [str(hour(9)), str(hour(4)), str(hour(9))]}, [4, 9]),
])  # fmt: skip
def test_initial_times_by_hand(arguments, expected):
    assert chosen(**arguments) == (list(expected), arguments.get("steps", 6))


def test_a_short_test_part_gives_shorter_forecasts_and_says_so(capsys):
    assert chosen(range(60), steps=24, test_starts=1000) == ([54, 55, 56], 3)  # hours 53 to 59: half of 6
    assert "the test part is only 6 hours long: forecasts of 3 hours" in capsys.readouterr().out


@pytest.mark.parametrize("arguments,message", [
    ({"init_every": "30min"}, "init_every: got 30min, expected a multiple of 1 h.* Fix: --init_every 1h"),
    ({"init_every": "90min"}, "init_every: got 90min, expected a multiple of 1 h.* Fix: --init_every 1h"),
    ({"init_every": "6h", "init_time": ["latest"]}, "init_every: got 6h with --init_time latest, .*--init_time test"),
    ({"init_time": ["latest", str(hour(60))]}, "init_time: got latest .*, expected latest alone"),
    ({"init_time": []}, "init_time: got nothing, expected ISO times, latest or test. Fix: "),
    ({"hours": range(53)}, "some.zarr has no test hour .* Fix: name initial times"),
    ({"test_starts": 0}, "test_starts: got 0, expected at least 1"),
])  # fmt: skip
def test_what_cannot_be_a_start_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        chosen(**arguments)


@pytest.mark.parametrize("zoned", ["2023-08-20T05+02:00", "2023-08-20 05:00+0200", "2023-08-19T22:00-05"])
def test_a_time_with_a_zone_is_refused_with_its_utc_and_utc_is_accepted(zoned):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"init_time: got .*, expected .* Fix: --init_time 2023-08-20T03:00:00"):
            parse_time(zoned, "init_time")
        assert parse_time("2023-08-20T03Z", "init_time") == np.datetime64("2023-08-20T03")


def test_the_command_starts_in_a_later_store_and_sees_the_hours_before(tmp_path, command, monkeypatch):
    store = write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(40)])
    assert train(store, tmp_path / "run", history=2) == 0
    later = write_store(tmp_path / "later.zarr", weather, [hour(n) for n in range(100, 112)])
    read, original = [], Hours.__call__
    monkeypatch.setattr(Hours, "__call__", lambda self, time: read.append(time) or original(self, time))
    arguments = ("--checkpoint", tmp_path / "run" / "best.pt", "--zarr", later, "--out", tmp_path / "f.zarr")
    code, _, err = command(infer_iterative, *arguments, "--init_time", "test", "--init_every", "3h", "--hours", 2)
    assert code == 0, err
    starts = [hour(102), hour(105), hour(108)]
    assert list(xr.open_zarr(tmp_path / "f.zarr").init_time.values) == starts
    # the first is read before the store is made, too
    assert read == [t - k * LEAD for t in (starts[0], *starts) for k in (2, 1, 0)]
    code, _, err = command(infer_iterative, *arguments, "--init_time", hour(101), "--hours", 2)
    assert code == 2 and err.count("\n") == 1 and "has no 2024-05-24T03:00" in err and "last 3 times" in err
    assert list(xr.open_zarr(tmp_path / "f.zarr").init_time.values) == starts
