"""What depends on counters alone: learning rate, averaging, the plan of an epoch, random numbers, a clock time."""

from datetime import datetime
from itertools import pairwise

import pytest
import torch

from training import schedule
from training.schedule import ema_decay, epochs_until, generator, learning_rate, plan_pairs, plan_rollouts


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("first,second", [(1000, 200), (90_000, 9_000), (40, 0), (3, 1)])
def test_the_learning_rate_is_continuous_and_ends_at_zero(first, second):
    factors = [learning_rate(n, first, second) for n in range(first + second + 1)]
    warmup = max(1, min(round(0.03 * first), 1000))
    assert factors[0] == pytest.approx(1 / warmup) and factors[warmup - 1] == max(factors) == 1
    if first >= 40:
        assert max(abs(a - b) for a, b in pairwise(factors[:first])) < 1.01 / warmup
        assert factors[(first + warmup) // 2] == pytest.approx(0.5, abs=0.05) and factors[first - 1] < 0.01
    if second >= 200:
        assert max(factors[first:]) == pytest.approx(schedule.FINE_TUNING)
        assert max(abs(a - b) for a, b in pairwise(factors[first - 1 :])) < 0.06
        assert factors[-1] == pytest.approx(0, abs=1e-9)


def test_short_runs_forget_their_initial_weights_and_long_ones_average_over_a_thousand_steps():
    assert ema_decay(0, 10**7) == 0.1 and ema_decay(90, 10**7) == 0.91 and ema_decay(10**6, 10**7) == 0.999
    assert ema_decay(5090, 5000) == 0.91, "roll-outs have an average of their own"


@pytest.mark.parametrize("count,batch,accumulate", [(12, 1, 4), (13, 1, 4), (13, 3, 2), (5, 2, 16), (37, 4, 4)])
def test_an_epoch_has_each_pair_once_and_the_shares_of_a_step_add_up(count, batch, accumulate):
    plan = plan_pairs(count, batch, accumulate, rng())
    assert sorted(i for step in plan for b in step for i in b.starts) == list(range(count))
    assert len(plan) == -(-count // (batch * accumulate))
    for step in plan:
        size = sum(len(b.starts) for b in step)
        assert all((b.skip, b.steps) == (0, 1) and b.share == pytest.approx(len(b.starts) / size) for b in step)
        assert sum(b.share for b in step) == pytest.approx(1) and max(len(b.starts) for b in step) <= batch
    assert plan == plan_pairs(count, batch, accumulate, rng()) != plan_pairs(count, batch, accumulate, rng(1))


@pytest.mark.parametrize("longest,accumulate,chains", [(24, 16, 4), (4, 4, 1), (3, 8, 2), (1, 16, 16), (24, 1, 1)])
def test_roll_outs_reach_every_lead_and_half_of_them_begin_at_an_analysis(longest, accumulate, chains):
    pairs = 200 * 2 * chains * min(4, longest)  # as many gradients as in 200 optimizer steps
    plan = plan_rollouts(7, pairs, 2, accumulate, longest, rng())
    batches, reached = [b for step in plan for b in step], set()
    assert len(plan) == 200 and {len(step) for step in plan} == {chains}
    for step in plan:
        assert sum(b.steps * b.share for b in step) == pytest.approx(1)
    for b in batches:
        assert b.skip + b.steps <= longest and len(b.starts) == 2 and b.steps == min(4, longest)
        reached |= set(range(b.skip + 1, b.skip + b.steps + 1))
    assert reached == set(range(1, longest + 1))
    counts = [sum(i in b.starts for b in batches) for i in range(7)]
    assert max(counts) - min(counts) <= 2  # all initial times equally often
    assert sum(b.skip == 0 for b in batches) / len(batches) > 0.4
    assert longest < 24 or plan[0][0].share == 1 / (4 * chains)


def test_random_numbers_depend_on_the_counters_alone():
    a, b, c = (torch.rand(3, generator=generator(*n)) for n in ((0, 2, 5, 7), (0, 2, 5, 7), (0, 2, 5, 8)))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("now,clock,epochs", [
    ("22:00", "07:00", 81),  # 9 h, 10 % of it spare: 8.1 h of 6 minutes
    ("06:00", "07:00", 9), ("23:30", "00:30", 9),
    ("07:00", "07:00", 1), ("06:58", "07:00", 1),  # at least one
    ("07:01", "07:00", 200),  # tomorrow; at most 200
])  # fmt: skip
def test_as_many_epochs_as_end_before_a_clock_time(now, clock, epochs, monkeypatch):
    class Now(datetime):
        @classmethod
        def now(cls):
            return cls.strptime(f"2024-05-20 {now}", "%Y-%m-%d %H:%M")

    monkeypatch.setattr(schedule, "datetime", Now)
    assert epochs_until(clock, 360.0, 200) == epochs


@pytest.mark.parametrize("clock", ["7 o'clock", "25:00", "07:00:00", "morning"])
def test_another_clock_time_is_refused_in_one_line(clock):
    with pytest.raises(ValueError, match=r"until: got .*, expected a clock time. Fix: --until 07:00"):
        epochs_until(clock, 1.0, 10)
