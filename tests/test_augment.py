"""Mirrors keep the physics: a blob carried by a known wind is still carried by the wind it is shown with."""

import numpy as np
import pytest
import torch

from data.augment import add_noise, mirror, mirror_state, random_axes, random_offset, state_parity
from data.forcing import Forcing
from tests.conftest import hour, small_grid

LEAD = np.timedelta64(1, "h").astype("timedelta64[ns]")
NAMES = ("REFC", "U10", "V10")


def blob(y: int, x: int, u: float, v: float) -> torch.Tensor:
    """(1, 3, 16, 20): one cell of echo in a uniform wind."""
    out = torch.zeros(1, 3, 16, 20)
    out[0, 0, y, x] = 40.0
    out[0, 1], out[0, 2] = u, v
    return out


def centre(fields: torch.Tensor) -> tuple[int, int]:
    return divmod(int(fields[0, 0].argmax()), fields.shape[-1])


@pytest.mark.parametrize("seed", range(8))
def test_a_mirrored_blob_moves_with_the_mirrored_wind(seed):
    u, v = 3.0, -2.0  # cells per step, so that displacement = wind
    state, target = blob(8, 5, u, v), blob(6, 8, u, v)
    generator = torch.Generator().manual_seed(seed)
    axes = random_axes(generator)
    state, target = (mirror_state(x, axes, NAMES) for x in (state, target))
    (y0, x0), (y1, x1) = centre(state), centre(target)
    assert (x1 - x0, y1 - y0) == (state[0, 1, 0, 0], state[0, 2, 0, 0])


def test_all_four_orientations_occur():
    seen = set()
    for seed in range(32):
        out = mirror_state(blob(8, 5, 3.0, -2.0), random_axes(torch.Generator().manual_seed(seed)), NAMES)
        seen.add((float(out[0, 1, 0, 0]), float(out[0, 2, 0, 0])))
    assert seen == {(3.0, -2.0), (-3.0, -2.0), (3.0, 2.0), (-3.0, 2.0)}


def test_parity_is_found_under_any_name():
    assert state_parity(("u10", "UGRD", "wind_u_10m", "v10", "t2m"), "x").tolist() == [-1, -1, -1, 1, 1]
    assert state_parity(("u10", "V10", "something"), "y").tolist() == [1, -1, 1]


def test_static_and_solar_inputs_are_mirrored_and_the_coriolis_parameter_changes_sign():
    grid = small_grid()
    forcing = Forcing(grid, LEAD, ("T2M",), None)
    fields, _ = forcing(np.array([hour(20)]))
    flipped = mirror(fields, "x", forcing.parity)
    channel = {n: i for i, n in enumerate(forcing.names)}
    for name in ("cos_zenith_now", "cos_zenith_next", "orography", "land_sea_mask"):
        assert torch.equal(flipped[0, channel[name]], fields[0, channel[name]].flip(-1))
    assert torch.equal(flipped[0, channel["coriolis"]], -fields[0, channel["coriolis"]].flip(-1))


def test_noise_has_the_stated_size_and_spares_masked_cells():
    scale = torch.tensor([0.5, 2.0])[:, None, None]
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[:, :8] = True
    noise = add_noise(torch.zeros(4, 2, 64, 64), scale, 0.1, mask, torch.Generator().manual_seed(0))
    assert (noise[:, :, :8] == 0).all()
    assert noise[:, :, 8:].std(dim=(0, 2, 3)).tolist() == pytest.approx([0.05, 0.2], rel=0.02)


def test_the_season_moves_the_day_of_the_year_and_nothing_else():
    forcing = Forcing(small_grid(), LEAD, ("T2M",), None)
    time = np.array([hour(20)])
    (fields, clock), (moved_fields, moved) = forcing(time), forcing(time, np.array([np.timedelta64(30, "D")]))
    assert torch.equal(fields, moved_fields) and torch.equal(clock[:, [0, 1, 4, 5]], moved[:, [0, 1, 4, 5]])
    later = forcing(time + np.timedelta64(30, "D"))[1]
    assert torch.equal(moved[:, [2, 3, 6, 7]], later[:, [2, 3, 6, 7]])


def test_every_offset_of_a_coarse_cell_occurs_and_no_other():
    drawn = [random_offset(4, 7, n) for n in range(400)]
    assert set(drawn) == {(y, x) for y in range(4) for x in range(4)}
    assert drawn == [random_offset(4, 7, n) for n in range(400)]  # a run that is resumed draws the same
