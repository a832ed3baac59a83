"""ERA5 2 m temperature over the UK: one variable on a latitude/longitude grid, from NetCDF to skill."""

import numpy as np
import pytest
import torch
import xarray as xr

import train_deterministic
from data.dataset import Hours, Pairs, Split, find_pairs
from data.forcing import Forcing
from data.normalise import denormalise
from data.store import Store
from infer_iterative import load_model
from models.rollout import forecast_step
from verification.validation import change_sums, skill_table

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def trained(real, tmp_path_factory):
    folder = tmp_path_factory.mktemp("era5")
    coarse = xr.open_dataset(real / "era5_uk_t2m_744h.nc")[
        {"latitude": slice(0, None, 2), "longitude": slice(0, None, 2)}
    ]
    coarse.drop_encoding().to_zarr(folder / "era5.zarr", zarr_format=2)
    cfg = train_deterministic.Config(
        zarr=str(folder / "era5.zarr"), run_dir=str(folder / "run"), epochs=6, batch_size=8, accumulate=1,
        base_features=8, levels=1, lr=4e-3, validate_every=6, rollout_epochs=0,
        history=0,  # an hour before would tell whether the day warms or cools: here the clock alone can
    )  # fmt: skip
    assert train_deterministic.main(cfg) == 0
    return folder


def skill(folder, shuffle: bool) -> float:
    """T2M skill against persistence one hour ahead on the test pairs; with or without the true timestamps."""
    model, store = load_model(folder / "run" / "best.pt", "cpu"), Store(folder / "era5.zarr")
    statistics, test = model.statistics, Split.from_dict(model.checkpoint["split"]).test
    times = find_pairs(store.times, model.lead, test, history=0)
    told = np.random.default_rng(0).permutation(times) if shuffle else times
    pairs = Pairs(Hours(store, ["t2m"], statistics, None), times, model.lead, 0)
    forcing = Forcing(store.grid, model.lead, statistics.names, None)
    total = torch.zeros(4, 1, dtype=torch.float64)
    with torch.no_grad():
        for i, time in enumerate(told):
            _, states, (truth,) = pairs.batch([i])
            pred = forecast_step(model.network, states, *forcing(np.array([time])), statistics.scale)
            total += change_sums(*(denormalise(x, statistics) for x in (pred, states[:, -1], truth)), None)
    return skill_table(total, ["t2m"])["skill"]["t2m"]


def test_the_timestamps_carry_skill(trained):
    true, shuffled = skill(trained, shuffle=False), skill(trained, shuffle=True)
    assert true > 0.05, "the model beats persistence on days it has not seen"
    assert shuffled < true - 0.1, "and the hour of day is why"
