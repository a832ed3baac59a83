"""Transforms, statistics and bounds, worked by hand."""

import numpy as np
import pytest
import torch

from data.normalise import Statistics, clip_physical, compute_statistics, denormalise, limiter, normalise
from data.store import Store
from models.rollout import rollout
from tests.conftest import SEVEN, hour, weather, write_store

LEAD = np.timedelta64(1, "h").astype("timedelta64[ns]")
NONE = np.array([], "datetime64[ns]")


def physical_state() -> torch.Tensor:
    return torch.stack([torch.from_numpy(weather(n, hour(5))) for n in SEVEN])[None]


def unit_statistics(names=SEVEN) -> Statistics:
    n = len(names)
    return Statistics(tuple(names), torch.full((n,), 2.0), torch.full((n,), 3.0), torch.full((n,), 0.5))


def test_statistics_of_two_by_two_by_hand(tmp_path):
    # T2M is 280 + k at hour k in every cell: states 280, 281, 282, 283, changes 1, 1, 1 and one cell that jumps
    def field(name, time):
        k = float((time - hour(0)) / np.timedelta64(1, "h"))
        out = np.full((12, 16), 280.0 + k)
        out[0, 0] = 280.0 + 3 * k
        return out

    store = Store(write_store(tmp_path / "s.zarr", field, [hour(n) for n in range(4)]))
    statistics, mask = compute_statistics(store, ["T2M"], store.times, NONE, LEAD)
    states = np.array([field("T2M", hour(n)) for n in range(4)])
    assert mask is None
    assert statistics.mean.item() == pytest.approx(states.mean())
    assert statistics.std.item() == pytest.approx(states.std(), rel=1e-5)
    # 191 cells change by 1, one by 3: mean 1 + 2/192, variance (2 - 2/192)**2/192 + ... = p(1-p) * 2**2, p = 1/192
    assert statistics.change_std.item() == pytest.approx(2 * np.sqrt(1 / 192 * 191 / 192), rel=1e-4)


def test_the_change_is_taken_by_timestamp_across_a_gap(tmp_path):
    def field(name, time):  # rises by 1 +- 0.5 an hour; a change across the gap would be about 10
        k = float((time - hour(0)) / np.timedelta64(1, "h"))
        return 260.0 + k + 0.25 * (-1) ** k

    times = [hour(n) for n in (*range(6), *range(15, 21))]
    store = Store(write_store(tmp_path / "s.zarr", field, times))
    statistics, _ = compute_statistics(store, ["T2M"], store.times, NONE, LEAD)
    assert statistics.change_std.item() < 0.6


def test_statistics_use_the_training_hours_alone(tmp_path):
    times = [hour(n) for n in range(20)]
    store = Store(write_store(tmp_path / "s.zarr", lambda n, t: weather(n, t) + 30 * (t >= hour(10)), times))
    first, _ = compute_statistics(store, ["T2M"], store.times[:10], store.times[10:], LEAD)
    again, _ = compute_statistics(store, ["T2M"], store.times[:10], NONE, LEAD)
    assert torch.equal(first.mean, again.mean) and torch.equal(first.change_std, again.change_std)


def test_physical_values_survive_the_round_trip():
    x = clip_physical(physical_state(), SEVEN)
    back = denormalise(normalise(x, unit_statistics()), unit_statistics())
    assert torch.allclose(back, x, rtol=1e-5, atol=1e-3)


def test_masked_cells_are_the_mean_inside_and_missing_outside():
    mask = torch.zeros(7, 12, 16, dtype=torch.bool)
    mask[0, :3] = True
    x = physical_state()
    x[0][mask] = torch.nan
    state = normalise(x, unit_statistics(), mask)
    assert (state[0, 0, :3] == 0).all() and state.isfinite().all()
    assert denormalise(state, unit_statistics(), mask)[0, 0, :3].isnan().all()
    x[0, 3, 5, 5] = torch.nan  # no mask there: it stays visible
    assert normalise(x, unit_statistics(), mask)[0, 3, 5, 5].isnan()


def test_bounds_hold_and_the_clipped_share_is_counted():
    statistics = unit_statistics()
    x = clip_physical(physical_state(), SEVEN)
    state = normalise(x, statistics)
    same, share = limiter(statistics)(state.clone())
    assert torch.allclose(same, state, atol=1e-5) and (share == 0).all()
    state[0, 0, 0, :4] = 1000.0  # REFC far above 80 dBZ in 4 of 192 cells
    state[0, 1, 2, 3] = -1000.0  # T2M far below 180 K in one
    state[0, 2] = state[0, 1] + 1  # dew point above temperature everywhere, and the one cell below 180 K
    limited, share = limiter(statistics)(state)
    out = denormalise(limited, statistics)[0]
    assert share[0].tolist() == pytest.approx([4 / 192, 1 / 192, 1 / 192, 0, 0, 0, 0])
    assert out[0].max() == pytest.approx(80.0, abs=1e-3) and out[1, 2, 3] == pytest.approx(180.0, abs=1e-3)
    assert torch.allclose(out[2], out[1], atol=1e-3)  # saturated, which is no fault


def test_beyond_a_bound_where_cells_pile_up_is_held_and_is_not_counted():
    """No echo, no CAPE and no CIN may be said by any value at or beyond 0; beyond the other bound it is a fault."""
    statistics = unit_statistics()
    state = torch.zeros(1, 7, 4, 4)  # mean 2, standard deviation 3: 8 J kg-1 of CAPE where sqrt = 2, and so on
    state[0, 0], state[0, 5], state[0, 6] = -9.0, -9.0, 9.0  # REFC, CAPE below and CIN above 0
    state[0, 3] = -200.0  # U10 at 2 - 600 m s-1: no cells pile up there
    limited, share = limiter(statistics)(state)
    assert share[0].tolist() == [0, 1, 1, 1, 0, 0, 0]  # T2M and D2M of 2 K are far below 180 K
    out = denormalise(limited, statistics)[0]
    assert (out[[0, 5, 6]].abs() < 1e-6).all() and out[3].unique().tolist() == pytest.approx([-100.0])
    state[0, 0], state[0, 5], state[0, 6] = 30.0, 30.0, -30.0  # 92 dBZ, 92**2 J kg-1, -88**2 J kg-1
    assert limiter(statistics)(state)[1][0, [0, 5, 6]].tolist() == [1, 1, 1]


def test_winds_are_normalised_without_a_mean(tmp_path):
    """A mirror of a wind is then a change of sign of the normalised field too."""
    path = write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(12)], ("T2M", "U10", "V10"))
    store = Store(path)
    statistics, _ = compute_statistics(store, ["T2M", "U10", "V10"], store.times, NONE, LEAD)
    values = np.array([store.load(t, ["U10", "V10"]) for t in store.times])
    assert statistics.mean[1:].tolist() == [0, 0] and statistics.mean[0] > 280
    assert abs(values[:, 1].mean()) > 0.5
    assert statistics.std[1:].tolist() == pytest.approx(np.sqrt((values**2).mean(axis=(0, 2, 3))), rel=1e-5)


def test_masked_cells_are_reset_to_the_mean_at_each_step_of_a_roll_out():
    """A model that adds 1 everywhere: what it makes of masked cells never reaches its next step."""
    seen, statistics = [], unit_statistics(("T2M", "U10"))
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[1, :2] = True

    def model(states, forcing, clock):
        seen.append(states[:, -1])
        return torch.ones_like(states[:, -1])

    start, limit = torch.full((1, 1, 2, 4, 4), 90.0).masked_fill(mask, 0.0), limiter(statistics, mask)
    start[:, :, 1] = 0.0
    last = list(rollout(model, start, lambda k: (None, None), torch.ones(2, 1, 1), lambda x, k: limit(x)[0], 4))[-1]
    for k, state in enumerate([*seen, last]):
        assert (state[:, 1, :2] == 0).all() and (state[:, 1, 2:] == k).all() and (state[:, 0] == 90 + k).all()


def test_the_clipped_share_leaves_masked_cells_out():
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, :2] = True
    state = torch.full((1, 1, 4, 4), 90.0)
    state[0, 0, 1:3, 0] = 1e4  # one masked cell, one of eight others
    assert limiter(unit_statistics(("T2M",)), mask)(state)[1].tolist() == [[1 / 8]]


def test_no_echo_is_zero_reflectivity():
    assert clip_physical(torch.full((1, 1, 1), -10.0), ("REFC",)).item() == 0


def test_rain_is_seen_by_its_cube_root_stays_within_bounds_and_no_rain_stays_none():
    """8 mm is the state (2 - 2) / 3 = 0 and back; any state at or below that of no rain is exactly no rain."""
    statistics = unit_statistics(("rain",))
    rain = torch.tensor([[0.0, 8.0, 125.0]])[None]
    state = normalise(rain, statistics)
    assert state.flatten().tolist() == pytest.approx([-2 / 3, 0, 1])
    assert denormalise(state, statistics).flatten().tolist() == pytest.approx([0, 8, 125], abs=1e-4)
    limited, share = limiter(statistics)(torch.tensor([[-9.0, -2 / 3, 100.0, 0.0]])[None, None])
    assert denormalise(limited, statistics).flatten().tolist() == pytest.approx([0, 0, 305, 8], abs=1e-3)
    assert denormalise(torch.full((1, 1, 1), -9.0), statistics).item() == 0
    assert share.item() == 0.25, "less than no rain is no fault, more than the bound is"
    assert clip_physical(torch.tensor([[-1.0, 899.0]])[None], ("RAIN",)).flatten().tolist() == [0, 305]


def test_a_variable_under_an_alias_gets_its_bounds():
    assert clip_physical(torch.full((1, 1, 1), 500.0), ("t2m",)).item() == 340.0
