"""Mirrors keep the physics: a blob carried by a known wind is still carried by the wind it is shown with."""

from itertools import product

import numpy as np
import torch

from data.augment import Mirror, draw_flips, state_parity
from data.forcing import Forcing
from tests.conftest import hour, small_grid

LEAD = np.timedelta64(1, "h").astype("timedelta64[ns]")
NAMES = ("REFC", "U10", "V10")


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
