"""ERA5 2 m temperature over the UK: one variable on a latitude/longitude grid, from NetCDF to skill."""

import numpy as np
import pytest
import torch
import xarray as xr

import train_deterministic
from data.dataset import Hours, Series, Split, find_pairs
from data.forcing import CLOCK_FEATURES, Forcing
from data.normalise import Statistics, normalise
from data.store import Store
from models.rollout import rollout_step
from models.unet import ResidualUNet
from training.checkpoint import load_checkpoint
from verification.validation import change_sums, skill_table

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def trained(real, tmp_path_factory):
    folder = tmp_path_factory.mktemp("era5")
    xr.open_dataset(real / "era5_uk_t2m_744h.nc").drop_encoding().to_zarr(folder / "era5.zarr", zarr_format=2)
    cfg = train_deterministic.Config(
        zarr=str(folder / "era5.zarr"), run_dir=str(folder / "run"), epochs=6, batch_size=8, accumulate=1,
        base_features=8, levels=1, blocks=1, lr=4e-3, validate_every=6, rollout_epochs=0,
        history=0,  # an hour before would tell whether the day warms or cools: here the clock alone can
    )  # fmt: skip
    assert train_deterministic.main(cfg) == 0
    return folder


def skill(folder, shuffle: bool) -> float:
    """T2M skill against persistence one hour ahead on the test pairs; with or without the true timestamps."""
    checkpoint = load_checkpoint(folder / "run" / "best.pt")
    statistics = Statistics.from_dict(checkpoint["statistics"])
    store = Store(folder / "era5.zarr")
    lead = np.timedelta64(1, "h").astype("timedelta64[ns]")
    times = find_pairs(store.times, lead, Split.from_dict(checkpoint["split"]).test, history=0)
    told = np.random.default_rng(0).permutation(times) if shuffle else times
    hours = Hours(store, ["t2m"], None)
    series, forcing = Series(hours, lead, 0), Forcing(store.grid, lead, statistics.names, None)
    sizes = {k: checkpoint["config"][k] for k in ("base_features", "levels", "blocks", "history")}
    model = ResidualUNet(1, len(forcing.names), CLOCK_FEATURES, **sizes)
    model.load_state_dict(checkpoint["ema"])
    total = torch.zeros(4, 1, dtype=torch.float64)
    with torch.no_grad():
        for time, said in zip(times, told, strict=True):
            states = normalise(series.states(time[None]), statistics)
            after = rollout_step(model, states, *forcing(np.array([said])), statistics.scale)
            pred = after[0] * statistics.std + statistics.mean
            total += change_sums(pred, hours(time), hours(time + lead), None)
    return skill_table(total, ("t2m",))["skill"]["t2m"]


def test_the_timestamps_carry_skill(trained):
    true, shuffled = skill(trained, shuffle=False), skill(trained, shuffle=True)
    assert true > 0.05, "the model beats persistence on days it has not seen"
    assert shuffled < true - 0.1, "and the hour of day is why"
