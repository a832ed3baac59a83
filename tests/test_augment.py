"""Mirrors keep the physics: a blob carried by a known wind is still carried by the wind it is shown with."""

from itertools import product

import numpy as np
import pytest
import torch

from data.augment import Mirror, draw_flips, state_parity
from data.forcing import Forcing
from models.layers import advect
from tests.conftest import hour, small_grid

LEAD = np.timedelta64(1, "h").astype("timedelta64[ns]")
NAMES = ("REFC", "U10", "V10")


@pytest.mark.parametrize("flips", [*product([False, True], repeat=2)])
def test_a_mirrored_blob_moves_with_the_mirrored_wind(flips):
    """Advection by the wind, then the mirror, is the mirror, then advection by the wind that it shows."""
    state = torch.zeros(1, 3, 16, 20)
    state[0, 0, 7:10, 4:7] = torch.tensor([[1.0, 2, 1], [2, 5, 1], [1, 2, 3]])
    state[0, 1], state[0, 2] = 3.0, -2.0  # cells per step

    def step(x):
        return torch.cat([advect(x[:, :1], x[:, 1:]), x[:, 1:]], dim=1)

    turn = lambda x: Mirror(torch.tensor(flips), (16, 20))(x, state_parity(NAMES))  # noqa: E731
    assert torch.allclose(turn(step(state)), step(turn(state)), atol=1e-4)
    assert torch.equal(turn(turn(state)), state)
    assert not torch.equal(step(state)[:, :1], state[:, :1])


def test_all_four_orientations_are_equally_frequent_and_the_generator_alone_decides():
    generator = torch.Generator().manual_seed(0)
    drawn = [tuple(draw_flips(generator).tolist()) for _ in range(400)]
    assert all(70 < drawn.count(flips) < 130 for flips in product([False, True], repeat=2))
    generator.manual_seed(0)
    assert [tuple(draw_flips(generator).tolist()) for _ in range(9)] == drawn[:9]


def test_parity_is_found_under_any_name():
    along_y, along_x = state_parity(("u10", "UGRD", "wind_u_10m", "V10", "t2m", "something")).tolist()
    assert along_x == [-1, -1, -1, 1, 1, 1] and along_y == [1, 1, 1, -1, 1, 1]


def test_static_and_solar_forcing_is_mirrored_and_the_coriolis_parameter_changes_sign():
    forcing = Forcing(small_grid(), LEAD, ("T2M",), None)
    fields, _ = forcing(np.array([hour(20)]))
    for axis, flips in ((-2, (True, False)), (-1, (False, True))):
        flipped = Mirror(torch.tensor(flips), (12, 16))(fields, forcing.parity)
        for i, name in enumerate(forcing.names):
            assert torch.equal(flipped[0, i], fields[0, i].flip(axis) * (-1 if name == "coriolis" else 1)), name
