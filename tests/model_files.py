"""Tiny runs of the training script, and a checkpoint without training."""

import json
from dataclasses import asdict
from pathlib import Path
from unittest import mock

import numpy as np
import torch

import train_deterministic
from data.dataset import split_by_date
from data.forcing import CLOCK_FEATURES, Forcing
from data.normalise import Statistics
from data.store import Store
from data.times import parse_duration
from models.unet import ResidualUNet
from tests.conftest import SIZES
from training.checkpoint import FORMAT, save_checkpoint

SIZE = {"base_features": 4, "levels": 1, "history": 1}


def train(store, run_dir, figure: bool = False, **constants) -> int:
    """Train a tiny model for one epoch, unless the constants say otherwise; the exit code. figure: draw the loss
    curves, which takes longer than the rest."""
    cfg = train_deterministic.Config(str(store), str(run_dir), **{**SIZES, "epochs": 1, **constants})
    draw = train_deterministic.save_loss_curves if figure else lambda log, path: path.touch()
    with mock.patch.object(train_deterministic, "save_loss_curves", draw):
        return train_deterministic.main(cfg)


def read_records(run_dir) -> list[dict]:
    """The records of log.jsonl."""
    return [json.loads(line) for line in Path(run_dir, "log.jsonl").read_text().splitlines()]


def write_checkpoint(path: Path, store_path: Path, names: list[str], mask=None, **constants) -> Path:
    """Write a checkpoint with random weights that move the fields a little; further constants differ from the
    defaults."""
    store, lead = Store(store_path), parse_duration("1h", "lead")
    hours = torch.from_numpy(np.stack([store.load(t, names) for t in store.times[:12]]))
    mean, std = np.nanmean(hours, axis=(0, 2, 3)), np.nanstd(hours, axis=(0, 2, 3))
    statistics = Statistics(tuple(names), torch.tensor(mean), torch.tensor(std), torch.tensor(0.3 * std))
    forcing = Forcing(store.grid, lead, statistics.names, mask)
    torch.manual_seed(1)
    model = ResidualUNet(len(names), len(forcing.names), CLOCK_FEATURES, **SIZE, scale=statistics.scale)
    for part in (model.head, model.flow):
        torch.nn.init.normal_(part.weight, std=0.05)
    split = split_by_date(store.times, lead, "", "", "", 1).as_dict()
    config = asdict(train_deterministic.Config(zarr=str(store_path), run_dir=str(path.parent), **SIZE | constants))
    grid = {"shape": list(store.grid.shape), "dims": list(store.grid.dims), "forcing": forcing.names, "mask": mask}
    grid |= store.facts()
    weights = model.state_dict()
    others = {k: torch.zeros_like(v) for k, v in weights.items()}  # forecasts take the averaged weights
    save_checkpoint(
        {
            "format": FORMAT, "model": others, "ema": weights, "optimizer": {}, "scheduler": {}, "step": 20,
            "epoch": 5, "position": {}, "accumulation": 16, "config": config, "variables": names,
            "statistics": statistics.as_dict(), "lead": "1h", "grid": grid,
            "split": {**split, "pairs": {"train": 30, "validation": 5, "test": 5}},
        },
        path,
    )  # fmt: skip
    return path
