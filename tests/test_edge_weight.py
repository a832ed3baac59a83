"""The weight of the outermost cells in L1, MSE and gradient, by hand, and how many cells it is for."""

import pytest
import torch

from losses.weather import WeatherLoss, edge_weights


def test_errors_in_the_outermost_cells_count_as_often_as_they_are_told_to():
    pred, target = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    terms, plain = (WeatherLoss(edge_weight=w).terms(pred, target, None, 0.0) for w in (3.0, 1.0))
    assert terms["l1"].item() == (12 * 3 + 4) / 16  # of 4 x 4 cells the outermost 12
    assert terms["mse"].item() == (12 * 9 + 4) / 16
    # the errors 3 3 3 3, 3 1 1 3, 3 1 1 3, 3 3 3 3: in both directions 4 of 12 differences are 2
    assert terms["gradient"].item() == pytest.approx(4 * 2 / 12)
    assert torch.equal(terms["spectral"], plain["spectral"])
    assert plain["l1"].item() == plain["mse"].item() == 1 and plain["gradient"].item() == 0


@pytest.mark.parametrize("shape, cells", [((1059, 1799), 25), ((64, 64), 5), ((8, 8), 1)])
def test_the_outermost_cells_are_25_or_8_percent_of_the_shorter_side(shape, cells):
    row = edge_weights(shape, 3.0, torch.device("cpu"))[shape[0] // 2]
    assert (row[:cells] == 3).all() and (row[cells:-cells] == 1).all() and (row[-cells:] == 3).all()
