"""Skill against persistence, worked by hand."""

import math

import numpy as np
import pytest
import torch

from tests.conftest import hour
from training.processes import Processes
from verification.validation import Validation, change_sums, persistence_alarm, skill_table

LEAD = np.timedelta64(1, "h").astype("timedelta64[ns]")


def test_skill_by_hand():
    truth, analysis = torch.full((1, 1, 2, 2), 4.0), torch.zeros(1, 1, 2, 2)
    forecast = torch.tensor([[[[3.0, 3.0], [5.0, 5.0]]]])  # error 1 in every cell, persistence 4
    table = skill_table(change_sums(forecast, analysis, truth, None), ["T2M"])
    assert table["rmse"] == {"T2M": 1.0} and table["persistence_rmse"] == {"T2M": 4.0}
    assert table["skill"] == {"T2M": 0.75} and table["change_ratio"]["T2M"] == pytest.approx(math.sqrt(17) / 4)
    valid = torch.tensor([[[True, False], [True, True]]])
    forecast[0, 0, 0, 1] = torch.nan
    assert skill_table(change_sums(forecast, analysis, truth, valid), ["T2M"])["skill"] == {"T2M": 0.75}
    still = skill_table(change_sums(analysis, analysis, analysis, None), ["T2M"])
    assert still["skill"] == still["change_ratio"] == {"T2M": None}  # a truth without change


def made(count: int, rise: float, processes=None, steps_with_truth=6):
    """A truth that rises by 1 (second variable: 2) each hour, and a model that first rises by `rise`
    times as much, then by 0.1 less."""
    asked, unit = [], torch.tensor([1.0, 2.0])[:, None, None]
    times = np.array([hour(n) for n in range(count)])

    def truth(at):
        hours = torch.tensor((at - hour(0)) / np.timedelta64(1, "h"), dtype=torch.float32)
        return hours[:, None, None, None] * unit.expand(2, 3, 4)

    def forecast(model, at, steps):
        asked.append(at)
        for k in range(1, steps + 1):
            yield truth(at) + (k * rise - 0.1 * (k - 1)) * unit

    starts = lambda steps: times[:-steps] if steps <= steps_with_truth else times[:0]  # noqa: E731
    return Validation(["A", "B"], forecast, truth, starts, LEAD, None, 4, processes or Processes()), asked


def test_the_score_is_the_mean_skill_over_variables_and_steps():
    validate, asked = made(20, 0.75)  # the change after k steps is 0.65 + 0.1 / k of the true one
    scores = validate(None)
    assert scores["rmse"] == {"A": 0.25, "B": 0.5} and scores["persistence_rmse"] == {"A": 1.0, "B": 2.0}
    for key, skill in (("skill", 0.75), ("change_ratio", 0.75), ("rollout_skill", 0.65 + 0.1 / 6)):
        assert scores[key] == {"A": pytest.approx(skill), "B": pytest.approx(skill)}
    mean = sum(0.65 + 0.1 / k for k in range(1, 7)) / 6
    assert scores["score"] == pytest.approx(mean) and scores["alarm"] == ""
    assert validate.steps == 6 and sum(map(len, asked)) == 14 and max(map(len, asked)) == 4


def test_long_validation_parts_are_sampled_at_all_hours_of_the_day():
    validate, asked = made(24 * 48 + 6, 0.75)  # every 24th would be of one hour of the day
    validate(None)
    hours = np.concatenate(asked).astype("datetime64[h]").astype(int) % 24
    assert len(hours) == 48 and len(set(hours)) > 12


def test_short_validation_parts_have_shorter_roll_outs():
    validate, _ = made(4, 0.5, steps_with_truth=2)
    assert validate.steps == 2 and validate(None)["rollout_skill"] == {
        "A": pytest.approx(0.45),
        "B": pytest.approx(0.45),
    }


def test_the_alarm_names_a_model_that_is_persistence_or_no_better():
    assert "is persistence" in made(20, 0.01)[0](None)["alarm"]
    assert "no better than persistence" in made(20, -0.5)[0](None)["alarm"]
    assert persistence_alarm({"T2M": 0.3, "U10": -0.1}, {"T2M": 0.6, "U10": 0.5}) == ""
    assert persistence_alarm({"T2M": None}, {"T2M": None}) == ""
