"""A checkpoint without training: random weights that move the fields a little, on a small store."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import train_deterministic
from data.dataset import split_by_date
from data.forcing import CLOCK_FEATURES, Forcing
from data.normalise import Statistics
from data.store import Store
from data.times import parse_duration
from models.unet import ResidualUNet
from training.checkpoint import FORMAT, save_checkpoint

SIZE = {"base_features": 4, "levels": 1, "blocks": 1, "history": 1}


def write_checkpoint(path: Path, store_path: Path, names: list[str], mask=None, **constants) -> Path:
    """Write a checkpoint for `names` of a store to `path`; further constants differ from the defaults."""
    store, lead = Store(store_path), parse_duration("1h", "lead")
    hours = torch.from_numpy(np.stack([store.load(t, names) for t in store.times[:12]]))
    mean, std = np.nanmean(hours, axis=(0, 2, 3)), np.nanstd(hours, axis=(0, 2, 3))
    statistics = Statistics(tuple(names), torch.tensor(mean), torch.tensor(std), torch.tensor(0.3 * std))
    forcing = Forcing(store.grid, lead, statistics.names, mask)
    torch.manual_seed(1)
    model = ResidualUNet(len(names), len(forcing.names), CLOCK_FEATURES, **SIZE, scale=statistics.scale)
    for name, weights in model.named_parameters():
        if "head" in name:
            torch.nn.init.normal_(weights, std=0.05)
    split = split_by_date(store.times, lead, "", "", "", 1).as_dict()
    config = asdict(train_deterministic.Config(zarr=str(store_path), run_dir=str(path.parent), **SIZE | constants))
    grid = {"shape": list(store.grid.shape), "dims": list(store.grid.dims), "forcing": forcing.names, "mask": mask}
    grid["spacing"] = list(store.grid.spacing or (1.0, 1.0))
    weights = model.state_dict()
    others = {k: torch.zeros_like(v) for k, v in weights.items()}  # forecasts take the averaged weights
    save_checkpoint(
        {
            "format": FORMAT, "model": others, "ema": weights, "optimizer": {}, "scheduler": {}, "step": 20,
            "epoch": 5, "position": {}, "accumulation": 16, "rng": {}, "config": config, "variables": names,
            "statistics": statistics.as_dict(), "lead": "1h", "grid": grid,
            "split": {**split, "pairs": {"train": 30, "validation": 5, "test": 5}},
        },
        path,
    )  # fmt: skip
    return path
