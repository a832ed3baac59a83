"""Pairs by timestamp, split by date; fields whose value encodes their time."""

import numpy as np
import pytest

from data.dataset import Hours, Series, find_pairs, read_ahead, split_by_date
from data.store import Store
from tests.conftest import hour, write_store

LEAD = np.timedelta64(1, "h").astype("timedelta64[ns]")
ALL = (hour(0), hour(10_000))


def encoded(name, time):
    """A temperature that tells its hour."""
    return 250.0 + float((time - hour(0)) / np.timedelta64(1, "h"))


def test_a_missing_hour_costs_its_two_pairs_and_moves_no_other(tmp_path):
    times = [hour(n) for n in range(10) if n != 4]
    store = Store(write_store(tmp_path / "s.zarr", encoded, times))
    starts = find_pairs(store.times, LEAD, ALL)
    assert [int((t - hour(0)) / LEAD) for t in starts] == [0, 1, 2, 5, 6, 7, 8]
    series = Series(Hours(store, ["T2M"], None), LEAD, history=0)
    for time in starts:
        states, (target,) = series.states(time[None]), series.targets(time[None], range(1))
        assert states.shape[:3] == (1, 1, 1) and states.mean() == encoded("T2M", time)
        assert target.mean() == states.mean() + 1


def test_history_and_chains_need_all_their_hours(tmp_path):
    times = [hour(n) for n in range(10) if n != 4]
    starts = find_pairs(np.array(times), LEAD, ALL, history=1, steps=2)
    assert [int((t - hour(0)) / LEAD) for t in starts] == [1, 6, 7]
    store = Store(write_store(tmp_path / "s.zarr", encoded, times))
    series = Series(Hours(store, ["T2M"], None), LEAD, history=1)
    assert series.states(starts)[:, :, 0, 0, 0].tolist() == [[250.0, 251.0], [255.0, 256.0], [256.0, 257.0]]
    assert [t[:, 0, 0, 0].tolist() for t in series.targets(starts, range(1, 2))] == [[253.0, 258.0, 259.0]]


def test_five_minute_pairs_and_unsorted_times():
    minutes = np.timedelta64(5, "m")
    times = hour(0) + minutes * np.array([3, 0, 1, 5, 2])
    assert list((find_pairs(times, minutes, ALL) - hour(0)) / minutes) == [0, 1, 2]


def test_read_ahead_keeps_the_order(tmp_path):
    store = Store(write_store(tmp_path / "s.zarr", encoded, [hour(n) for n in range(6)]))
    series = Series(Hours(store, ["T2M"], None, cache_gb=1), LEAD, history=0)
    times = find_pairs(store.times, LEAD, ALL)
    order = [[3], [0, 2], [1]]
    got = list(read_ahead(lambda chosen: series.states(times[chosen]), order))
    assert [chosen for chosen, _ in got] == order
    assert [states.shape[0] for _, states in got] == [1, 2, 1]
    assert got[0][1].mean() == 253.0


def test_the_parts_are_dated_and_a_gap_lies_between_them():
    times = np.array([hour(n) for n in range(240)])
    split = split_by_date(times, LEAD, "", "", "")
    assert split.gap == np.timedelta64(24, "h")
    assert split.validation[0] - split.train[1] == np.timedelta64(24, "h")
    assert split.test[0] - split.validation[1] == np.timedelta64(24, "h")
    used = [set(find_pairs(times, LEAD, p)) for p in (split.train, split.validation, split.test)]
    assert not used[0] & used[1] and not used[1] & used[2]
    assert max(used[0]) < min(used[1]) and max(used[1]) < min(used[2])


def test_a_short_record_gets_a_short_gap():
    times = np.array([hour(n) for n in range(41)])
    assert split_by_date(times, LEAD, "", "", "").gap == 3 * LEAD


def test_a_day_of_gap_never_swallows_a_whole_part():
    times = np.array([hour(n) for n in range(130)])  # 15 % of it is less than a day
    split = split_by_date(times, LEAD, "", "", "")
    assert LEAD < split.gap < np.timedelta64(24, "h")
    assert all(len(find_pairs(times, LEAD, p)) for p in (split.train, split.validation, split.test))


@pytest.mark.parametrize("train_end,val_end", [("2024-05-25", "2024-05-23"), ("2023-01-01", "2024-05-25")])
def test_dates_out_of_order_are_refused(train_end, val_end):
    times = np.array([hour(n) for n in range(240)])
    with pytest.raises(ValueError, match="Fix: choose dates in this order"):
        split_by_date(times, LEAD, train_end, val_end, "")


def test_a_record_without_pairs_is_refused():
    times = np.array([hour(2 * n) for n in range(100)])
    with pytest.raises(ValueError, match=r"lead: got 1 h, expected a multiple of 2 h .* Fix: --lead 2h"):
        split_by_date(times, LEAD, "", "", "")


def test_a_lead_that_is_too_long_for_frames_every_five_minutes_is_refused():
    times = np.array([hour(n / 12) for n in range(40)])
    with pytest.raises(ValueError, match=r"lead: got 1 h, .* one time every 5 min, 40 in all. Fix: --lead 5min"):
        split_by_date(times, LEAD, "", "", "", 1)
    assert split_by_date(times, LEAD / 12, "", "", "", 1).gap == LEAD / 4


def test_a_gap_that_swallows_a_part_is_told_without_an_interval_that_ends_before_it_begins():
    times = np.array([hour(n) for n in range(48)])
    told = "validation: got no pair of times 1 h apart up to 2024-05-21T15:00, which lies inside the gap of 24 h"
    with pytest.raises(ValueError, match=told):
        split_by_date(times, LEAD, "", "", "24h")
