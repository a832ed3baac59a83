"""Pairs by timestamp, split by date; fields whose value encodes their time."""

import numpy as np
import pytest
import torch

from data.dataset import Hours, Pairs, Split, find_pairs, longest_chains, split_by_date
from data.normalise import Statistics
from data.store import Store
from tests.conftest import hour, write_store

LEAD = np.timedelta64(1, "h").astype("timedelta64[ns]")
ALL = (hour(0), hour(10_000))


def encoded(name, time):
    """A temperature that tells its hour."""
    return 250.0 + float((time - hour(0)) / np.timedelta64(1, "h"))


def pairs(path, times, history: int) -> Pairs:
    store = Store(write_store(path, encoded, times))
    statistics = Statistics(("T2M",), torch.tensor([250.0]), torch.ones(1), torch.ones(1))
    return Pairs(Hours(store, ["T2M"], statistics, None), find_pairs(store.times, LEAD, ALL, history), LEAD, history)


def hours_of(fields: torch.Tensor) -> list:
    """The hours that fields (..., C, H, W) encode."""
    assert (fields == fields[..., :1, :1]).all()
    return fields[..., 0, 0, 0].tolist()


def test_a_missing_hour_costs_its_two_pairs_and_moves_no_other(tmp_path):
    found = pairs(tmp_path / "s.zarr", [hour(n) for n in range(10) if n != 4], 0)
    assert len(found) == 7
    assert [(hours_of(states), hours_of(truth)) for states, truth in (found[i] for i in range(7))] == [
        ([n], n + 1) for n in (0, 1, 2, 5, 6, 7, 8)
    ]


def test_history_and_roll_outs_need_all_their_hours_and_come_in_order_of_time(tmp_path):
    times = [hour(n) for n in range(10) if n != 4]
    starts = find_pairs(np.array(times), LEAD, ALL, history=1, steps=2)
    assert [int((t - hour(0)) / LEAD) for t in starts] == [1, 6, 7]
    found = pairs(tmp_path / "s.zarr", times, 1)
    index = np.searchsorted(found.times, starts)
    asked, states, truth = found.batch(index, range(1, 2))
    assert list(asked) == list(starts) and hours_of(states) == [[0, 1], [5, 6], [6, 7]]
    assert [hours_of(t) for t in truth] == [[3, 8, 9]]
    assert found.batch([0], range(0))[2] == []


def test_roll_outs_are_as_long_as_the_longest_chain_of_hours():
    times = np.array([hour(n) for n in (0, 1, 2, 3, 6, 7)])
    for wanted, steps, starts in ((24, 3, [0]), (2, 2, [0, 1]), (1, 1, [0, 1, 2, 6])):
        found, chains = longest_chains(times, LEAD, ALL, 0, wanted)
        assert (found, [int((t - hour(0)) / LEAD) for t in chains]) == (steps, starts)


def test_five_minute_pairs_and_unsorted_times():
    minutes = np.timedelta64(5, "m")
    times = hour(0) + minutes * np.array([3, 0, 1, 5, 2])
    assert list((find_pairs(times, minutes, ALL) - hour(0)) / minutes) == [0, 1, 2]


def test_a_split_survives_the_checkpoint():
    split = split_by_date(np.array([hour(n / 12) for n in range(2400)]), LEAD / 12, "", "", "35min")
    assert Split.from_dict(split.as_dict()) == split


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
    message = "validation: got no pair of times 1 h apart up to 2024-05-21T15:00, which lies inside the gap of 24 h"
    with pytest.raises(ValueError, match=message):
        split_by_date(times, LEAD, "", "", "24h")
