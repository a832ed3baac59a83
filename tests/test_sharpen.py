"""Detail that a forecast loses is measured and given back, wavelength by wavelength, and a drift of its mean."""

import math

import pytest
import torch

from models.rollout import push
from models.sharpen import (
    Sharpening,
    by_band,
    count_bands,
    measure,
    octaves,
    power,
    powers,
    rim_power,
    rim_weight,
    shrunk,
    smooth,
)
from models.sharpen import sharpen as sharpen_in_zones


def wave(length: float, n: int = 64) -> torch.Tensor:
    """(1, 1, n, n): a wave along x that is a cosine mode of the domain, of unit amplitude."""
    x = torch.arange(n) + 0.5
    return torch.cos(2 * math.pi * x / length).expand(1, 1, n, n).contiguous()


ALL, NONE = torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)  # of the two variables pile up at a bound


def sharpen(state, gains):
    return sharpen_in_zones(state, gains, gains)


def climate_of(state):
    return powers(state, 11, ALL)


def unlimited(state):
    return state, torch.zeros(state.shape[:2])


def same(state):  # where power is compared in the units of the state
    return state


def test_gains_of_one_change_nothing():
    state = torch.randn(2, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(sharpen(state, torch.ones(3, count_bands((40, 50)))), state, atol=1e-5)


def test_a_wave_is_multiplied_by_the_gain_of_its_band_and_the_mean_stays():
    gains = torch.ones(1, 11)
    gains[0, 4] = 1.5  # centred on 8 cells: 2 * 2^(4 / 2)
    state = 3.0 + wave(8) + wave(32)
    assert torch.allclose(sharpen(state, gains), 3.0 + 1.5 * wave(8) + wave(32), atol=1e-4)
    # half way between the centres of two bands, in the logarithm, each has half a say
    between = 2 * 2 ** (4.5 / 2)
    where = octaves(torch.tensor([0.0]), torch.tensor([1 / between]))
    assert by_band(torch.ones(1, 1), where, 11)[4:6] == pytest.approx([0.5, 0.5], abs=1e-4)


def test_half_precision_of_the_network_does_not_reach_it():
    state = 3.0 + torch.randn(1, 1, 40, 50, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(sharpen(state, torch.ones(1, 9)), state, atol=1e-5)


def test_each_variable_has_gains_of_its_own():
    gains = torch.tensor([[1.0], [2.0]]).expand(2, 11)
    state = torch.cat([wave(8), wave(8)], dim=1)
    assert torch.allclose(sharpen(state, gains), torch.cat([wave(8), 2 * wave(8)], dim=1), atol=1e-4)


def test_what_is_longer_than_the_last_band_stays():
    state = wave(256, 128)  # half a wave in the domain
    assert torch.allclose(sharpen(state, torch.full((1, 11), 1.7)), state, atol=1e-4)


def test_power_of_a_wave_stands_in_its_band():
    found = power(wave(8), 11)[0]
    assert found.argmax() == 4
    assert found[3:6].sum() > 0.95 * found.sum()
    assert power(2 * wave(8), 11)[0, 4] == pytest.approx(4 * found[4].item(), rel=1e-4)


@pytest.mark.parametrize("n", [40, 41])
def test_power_is_that_of_the_field_in_its_window(n):
    field = torch.randn(1, 1, n, n, generator=torch.Generator().manual_seed(3))
    window = torch.hann_window(n, periodic=False)
    seen = (field - field.mean()) * window[:, None] * window
    bands = count_bands((n, n))
    # all but what is longer than the last band, of which noise has next to nothing
    assert power(field, bands).sum().item() == pytest.approx(seen.square().sum().item(), rel=0.02)


def test_bands_reach_to_the_shorter_side():
    assert [count_bands(s) for s in ((64, 64), (1059, 1799), (41, 78), (2, 2))] == [11, 11, 9, 1]


def damped(by: float, groups: int = 3):
    """Forecasts whose every step keeps `by` of a field that ought to stay as it is."""
    g = torch.Generator().manual_seed(1)
    starts = [torch.randn(4, 2, 2, 64, 64, generator=g) for _ in range(groups)]
    truth = [s[:, -1] for s in starts]
    return starts, (lambda i, k, states: by * states[:, -1]), (lambda i, k: truth[i])


def test_the_gains_undo_a_known_loss_at_every_step():
    starts, step, truth = damped(0.9)
    climate = climate_of(truth(0, 0))
    gains, shift, rim = measure(starts, step, unlimited, truth, same, climate, 3, NONE)
    assert gains.shape == (3, 2, 11) and shift.abs().max() < 0.01
    assert torch.equal(rim, gains)
    # white noise has little power in the longest waves: there a few modes decide
    assert torch.allclose(gains[..., :8], torch.full((3, 2, 8), 1 / 0.9), rtol=2e-3)
    state = starts[0]
    for k in range(3):
        state = push(state, sharpen(step(0, k, state), gains[k]))
    assert power(state[:, -1], 11)[:, :8] == pytest.approx(power(truth(0, 0), 11)[:, :8].numpy(), rel=0.02)


def test_power_is_compared_in_physical_units():
    """A state that is a square root and keeps its power has too little of the variable's, where it goes with the level:
    here the forecast has the truth's waves on half of its mean."""
    field = 3.0 + wave(8)
    square = lambda state: state.square()  # noqa: E731
    truth, step = lambda i, k: field, lambda i, k, states: states[:, -1] - 1.5
    starts, climate = [field[:, None]], powers(square(field), 11, NONE[:1])
    of_state, _, _ = measure(starts, step, unlimited, truth, same, powers(field, 11, NONE[:1]), 1, NONE[:1])
    of_square, _, _ = measure(starts, step, unlimited, truth, square, climate, 1, NONE[:1])
    assert of_state[0, 0, 4] == pytest.approx(1.0, abs=1e-3)
    assert of_square[0, 0, 4] == pytest.approx(2.0, abs=0.02)  # (m + a w)^2 has the wave with 2 m a


def test_what_one_lead_alone_has_is_shared_with_its_neighbours():
    """The sixth of ten leads has 1.44 times the truth's power, by chance."""
    starts, step, truth = damped(1.0)
    chance = lambda i, k: truth(i, k) * (1.2 if k == 5 else 1.0)  # noqa: E731
    gains, _, _ = measure(starts, step, unlimited, chance, same, climate_of(truth(0, 0)), 10, NONE)
    total = gains[:, 0, 4].log().cumsum(dim=0).exp()  # what a forecast has of the truth's amplitude
    assert 1.02 < total[5] < 1.15
    assert total[-1] == pytest.approx(1.0, abs=0.02)


def test_the_first_leads_are_averaged_least():
    assert torch.allclose(smooth(torch.ones(6, 2)), torch.ones(6, 2))
    weight = smooth(torch.eye(24))  # by step, of every step
    assert weight[0, 0] == 1.0 and weight[1, 1] > 0.98
    assert weight[12].argmax() == 12 and weight[12, 12] == pytest.approx(1 / (3 * math.sqrt(2 * math.pi)), rel=0.01)
    assert torch.allclose(weight.sum(dim=1), torch.ones(24))


def test_windows_and_the_edge_share_the_domain_between_them():
    window = torch.hann_window(64, periodic=False)
    assert torch.allclose(rim_weight((64, 64), torch.device("cpu")), 1 - window[:, None] * window, atol=0.03)
    wide = rim_weight((300, 500), torch.device("cpu"))  # half a window of TILE cells
    assert wide[64:-64, 64:-64].abs().max() < 1e-6 and wide[0].min() == wide[:, -1].min() == 1
    assert wide[32, 250] == pytest.approx(0.5, abs=1e-6)


def test_a_wave_at_the_edge_is_multiplied_by_the_gain_of_its_own():
    inside, rim = torch.ones(1, 11), torch.full((1, 11), 2.0)
    changed = sharpen_in_zones(wave(8), inside, rim) / wave(8)
    assert torch.allclose(changed, 1 + rim_weight((64, 64), torch.device("cpu")), atol=1e-3)
    far = torch.zeros(1, 1, 64, 64)
    far[..., :8] = wave(8)[..., :8]
    assert rim_power(far, 11)[0, 4] > 20 * power(far, 11)[0, 4]  # seen by the one, not by the other


def test_what_piles_up_at_a_bound_gets_back_what_it_lost_at_the_edge():
    """Every step keeps 0.6 of the amplitude at the edge and all of it inside."""
    starts, _, truth = damped(1.0)
    kept = 1 - 0.4 * rim_weight((64, 64), torch.device("cpu"))
    step = lambda i, k, states: kept * states[:, -1]  # noqa: E731
    climate = climate_of(truth(0, 0))
    gains, _, rim = measure(starts, step, unlimited, truth, same, climate, 2, torch.tensor([True, False]))
    assert (rim[:, 0, :8] > 1.4).all() and (gains[:, 0, :8] < 1.2).all()
    assert torch.equal(rim[:, 1], gains[:, 1])
    state = starts[0]
    for k in range(2):
        state = push(state, sharpen_in_zones(step(0, k, state), gains[k], rim[k]))
    made, true = (powers(x, 11, ALL)[:, :, :8] for x in (state[:, -1], truth(0, 0)))
    assert made[:, 0] == pytest.approx(true[:, 0].numpy(), rel=0.1)
    assert (made[1, 1] < 0.7 * true[1, 1]).all()


def test_a_bound_that_takes_a_part_of_the_gain_back_is_reckoned_with():
    starts, step, truth = damped(0.8)
    starts, field = [s.clamp(min=0) for s in starts], [truth(i, 0).clamp(min=0) for i in range(3)]
    floor = lambda state: (state.clamp(min=0), torch.zeros(state.shape[:2]))  # noqa: E731
    gains, _, _ = measure(starts, step, floor, lambda i, k: field[i], same, climate_of(field[0]), 1, NONE)
    made = [floor(sharpen(step(i, 0, s), gains[0]))[0] for i, s in enumerate(starts)]
    found, wanted = (sum(power(x, 11) for x in some) for some in (made, field))
    assert found[:, :8] == pytest.approx(wanted[:, :8].numpy(), rel=0.03)


def test_no_power_is_nothing_to_compare():
    starts, step, _ = damped(0.9)
    nothing = torch.zeros(4, 2, 64, 64)
    climate = climate_of(starts[0][:, -1])
    dry, ones = [torch.zeros_like(s) for s in starts], torch.ones(1, 2, 11)
    for some, truth in ((starts, lambda i, k: nothing), (dry, lambda i, k: starts[i][:, -1])):
        gains, _, rim = measure(some, step, unlimited, truth, same, climate, 1, ALL)
        assert torch.equal(gains, ones) and torch.equal(rim, ones)


def test_a_gain_is_not_carried_on_to_leads_with_nothing_to_compare():
    starts, step, truth = damped(0.9)
    nothing = torch.zeros(4, 2, 64, 64)
    ends = lambda i, k: nothing if k > 2 else truth(i, k)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.sharpen.smooth", lambda values: values)
        gains, _, _ = measure(starts, step, unlimited, ends, same, climate_of(truth(0, 0)), 5, NONE)
    assert torch.allclose(gains[:3, :, :8], torch.full((3, 2, 8), 1 / 0.9), rtol=2e-3)
    assert torch.equal(gains[3:], torch.ones(2, 2, 11))


def test_a_gain_is_at_most_two():
    starts, step, truth = damped(0.1)
    gains, _, _ = measure(starts, step, unlimited, truth, same, climate_of(truth(0, 0)), 1, NONE)
    assert gains.max() == 2.0


def test_a_boundary_is_put_in_before_the_next_step():
    starts, step, truth = damped(0.9, 1)
    seen = []

    def spy(i, k, states):
        seen.append(states[0, -1, 0, 0, 0].item())
        return step(i, k, states)

    def corner(i, k, state):
        state = state.clone()
        state[..., 0, 0] = 7.0 + k
        return state

    measure(starts, spy, unlimited, truth, same, climate_of(truth(0, 0)), 3, NONE, nudge=corner)
    assert seen[1:] == [7.0, 8.0]


def test_a_request_to_stop_is_heard():
    starts, step, truth = damped(0.9)
    asked = iter([False, False, False, True])
    stopped = lambda: next(asked)  # noqa: E731
    assert measure(starts, step, unlimited, truth, same, climate_of(truth(0, 0)), 9, NONE, stopped=stopped) is None


def test_a_drift_of_the_mean_is_undone_at_every_step_but_where_cells_pile_up_at_a_bound():
    starts, step, truth = damped(0.9)
    away = torch.tensor([0.3, -0.2])[:, None, None]
    drifting = lambda i, k, states: step(i, k, states) + away  # noqa: E731
    climate = climate_of(truth(0, 0))
    _, shift, _ = measure(starts, drifting, unlimited, truth, same, climate, 3, torch.tensor([False, True]))
    # the mean of each field is that of its noise, within 1/64: after the first step it is damped with it
    assert shift[:, 0] == pytest.approx([-0.3] * 3, abs=0.01)
    assert not shift[:, 1].any()


def test_a_mean_leaves_the_invalid_cells_out():
    starts, step, truth = damped(1.0)
    valid = torch.ones(2, 64, 64, dtype=torch.bool)
    valid[:, :, :32] = False
    half = lambda i, k, states: step(i, k, states) + torch.where(valid, 0.5, 90.0)  # noqa: E731
    nothing_known = torch.full((2, 2, 11), 1e9)  # of power: the gains stay 1
    _, shift, _ = measure(starts, half, unlimited, truth, same, nothing_known, 1, NONE, valid)
    assert shift[0] == pytest.approx([-0.5, -0.5], abs=1e-3)


def test_a_mean_that_does_not_stand_out_of_its_error_counts_for_nothing():
    values = torch.tensor([[1.0, 1.0, 0.0], [-1.2, 1.2, 2.0]])  # errors of the means: 1.1, 0.1, 1
    assert shrunk(values) == pytest.approx([0.0, 1.1 - 0.01 / 1.1, 0.0], abs=1e-6)
    assert shrunk(values[:1]) == pytest.approx([0.0, 0.0, 0.0])


def test_after_the_last_measured_step_a_state_stays():
    state = torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(2))
    gains = torch.full((1, 2, 11), 1.5)
    measured = Sharpening(gains, torch.tensor([[1.0, 0.0]]), gains)
    assert torch.equal(measured(state, 1), state)
    changed = measured(state, 0)
    assert (changed - state).mean(dim=(-2, -1))[0] == pytest.approx([1.0, 0.0], abs=1e-5)
    measured = measured._replace(rim=2 * gains)
    both = sharpen_in_zones(state, gains[0], 2 * gains[0]) + torch.tensor([1.0, 0.0])[:, None, None]
    assert torch.equal(measured(state, 0), both) and not torch.equal(both, changed)
    kept = Sharpening.from_table(measured.table("free"), "free")
    assert all(torch.equal(a, b) for a, b in zip(kept, measured, strict=True))
    assert Sharpening.from_table(measured.table("free"), "edge") is None
    old = Sharpening.from_table({"edge": gains}, "edge")
    assert not old.shift.any() and torch.equal(old.rim, gains)
