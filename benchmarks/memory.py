"""Peak memory of one training step and of one roll-out step, by grid and mode.

    python -m benchmarks.memory                                  # full CONUS, lean and fast; counted, needs no memory
    python -m benchmarks.memory --shape 530 900 --modes lean     # another grid
    python -m benchmarks.memory --json benchmarks/results/memory.json

A step is that of train_deterministic.py: states, targets and forcing on the device, forward, the whole loss, backward,
gradients, optimizers, EMA; in the fine-tuning also the longest chain before it. Without CUDA it runs on fake tensors,
which have sizes and no values: every storage is counted from the operation that makes it until it is freed. Library
workspace (convolution algorithms, FFT plans) is not in that count. On CUDA the allocator's own peaks stand beside it.
"""

import json
import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import train_deterministic
import train_step
from data.command import run
from data.forcing import CLOCK_FEATURES, Forcing
from data.grid import Grid
from data.metadata import replace
from data.normalise import Statistics, limiter
from losses.weather import WeatherLoss
from models.rollout import rollout
from models.unet import ResidualUNet
from train_step import Learner
from training.log import loss_sums
from training.optimizer import Optimizers
from training.schedule import Task, update_ema

NAMES = ("REFC", "T2M", "D2M", "U10", "V10", "CAPE", "CIN")
KINDS = ("training", "fine_tuning", "roll_out")
LEAD = np.timedelta64(1, "h").astype("timedelta64[ns]")
START = np.array([np.datetime64("2024-06-01T12", "ns")])


@dataclass
class Config:
    shape: tuple[int, ...] = (1059, 1799)  # cells, y and x
    modes: tuple[str, ...] = ("lean", "fast")
    base_features: int = 40
    history: int = 1
    json: str = ""  # file to write the figures to; empty: none


class Count(TorchDispatchMode):
    """Bytes of all storages that are alive, and since `reset`: their highest sum, how many operations ran that are more
    than a view (on a GPU each launches a kernel, or a few), and the bytes of all that these read and wrote."""

    def __init__(self):
        super().__init__()
        self.alive, self.known = 0, {}
        self.reset()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        for x in tensors:
            self.see(x, str(function))
        if tensors and not function.is_view:
            tensors += [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
            self.operations += 1
            self.moved += sum(x.numel() * x.element_size() for x in tensors)
        return out

    def see(self, x: torch.Tensor, where: str) -> None:
        storage = x.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known[key] = size
        self.alive += size
        weakref.finalize(storage, self.forget, key)
        if self.alive > self.peak:
            self.peak, self.where = self.alive, where

    def forget(self, key: int) -> None:
        self.alive -= self.known.pop(key, 0)

    def reset(self) -> None:
        self.peak, self.where, self.operations, self.moved = self.alive, "", 0, 0


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """The precision that a GPU computes in, and the mirrors that cost the most memory, without values to draw."""
    mirrored = mock.patch.object(train_step, "random_axes", lambda rng: "xy")
    with half_precision(), mirrored:
        yield


def half_precision():
    """While open, a training step computes in bfloat16 on any device."""
    return mock.patch.object(
        train_step, "training_autocast", lambda device, half: torch.autocast(device.type, torch.bfloat16)
    )


def grid_of(shape: tuple[int, int]) -> Grid:
    y, x = np.meshgrid(np.linspace(21, 53, shape[0]), np.linspace(-135, -60, shape[1]), indexing="ij")
    static = {"orography": np.zeros(shape, np.float32), "land_sea_mask": np.ones(shape, np.float32)}
    return Grid(shape, latitude=y, longitude=x, static=static)


class Step:
    """Everything that train_deterministic.py holds on the device, and its steps, on fields without meaning."""

    def __init__(self, shape: tuple[int, int], mode: str, constants, count: Count | None = None, device="cpu"):
        self.count, ones = count, torch.ones(len(NAMES), device=device)
        self.statistics = Statistics(NAMES, 0 * ones, ones.clone(), ones.clone())
        self.forcing = Forcing(grid_of(shape), LEAD, NAMES, None, device)
        sizes = (constants.base_features, constants.levels, constants.blocks, constants.history)
        with torch.device(device):
            self.model, self.ema = (
                ResidualUNet(
                    len(NAMES), len(self.forcing.names), CLOCK_FEATURES, *sizes, self.statistics.scale, mode == "lean"
                )
                for _ in range(2)
            )
        self.ema.requires_grad_(False)
        self.optimizer = Optimizers(
            self.model, self.model.hidden_matrices(), constants.lr, constants.muon_lr, constants.weight_decay
        )
        self.optimizer.schedule(lambda n: 1.0)
        loss = WeatherLoss((1.0, 1.0), constants.amplitude, lean=mode == "lean")
        unit = {
            "l1": ones,
            "mse": ones,
            "gradient": ones,
            "spectral": torch.ones(len(NAMES), int(math.log2(min(256, *shape))), device=device),
        }
        loss.reference = {width: unit for width in (constants.width, constants.rollout_width)}
        self.learn = Learner(self.model, loss, self.forcing, self.statistics, None, None, LEAD, constants)
        self.shape, self.steps, self.history, self.sums = shape, 0, constants.history, loss_sums(loss.weights, device)
        self.read: dict = {}  # what the loader gave, by number of targets

    def host(self, *histories: int | None) -> list[torch.Tensor]:
        """Tensors as the loader has them, in the host's memory (pinned beside a GPU), which is not the device's."""
        out, pinned = [], self.statistics.mean.is_cuda
        for history in histories:
            size = (1, *([history] if history else []), len(NAMES), *self.shape)
            out.append(torch.randn(size, pin_memory=pinned))
            if self.count is not None:
                self.count.forget(out[-1].untyped_storage()._cdata)
        return out

    def train(self, skip: int = 0, steps: int = 1) -> None:
        """One optimizer step of one task."""
        task = Task((0,), skip, steps, 1 / steps)
        if (count := len(task.targets)) not in self.read:
            states, *targets = self.host(1 + self.history, *[None] * count)
            self.read = {count: (states, targets, [])}
        rng = torch.Generator(self.statistics.mean.device)
        self.learn(START, task, self.read[count], rng, self.sums)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        update_ema(self.ema, self.model, self.steps)
        self.steps += 1

    def forecast(self, steps: int = 2) -> None:
        states = self.learn.fetch(*self.host(1 + self.history))
        with torch.autocast(states.device.type, torch.bfloat16):
            for _ in rollout(self.ema, states, lambda k: self.forcing(START), self.statistics.scale,
                             limiter(self.statistics), steps):  # fmt: skip
                pass


def counted(shape: tuple[int, int], mode: str, constants: train_deterministic.Config) -> dict:
    """Peak bytes of each kind of step, counted on fake tensors."""
    spectral = WeatherLoss()  # its tables depend on values; they are made before
    tables = spectral.spectral._table(min(256, *shape), torch.device("cpu"))
    out: dict = {}
    with as_on_a_gpu(), FakeTensorMode(allow_non_fake_inputs=True), Count() as count:
        step = Step(shape, mode, constants, count)
        step.learn.fetch = torch.clone
        step.learn.loss.spectral._tables[(min(256, *shape), torch.device("cpu"))] = tables
        out["parameters"] = sum(p.numel() for p in step.model.parameters())
        step.train()  # makes the state of the optimizers
        for kind, action in actions(step).items():
            count.reset()
            action()
            out[kind], out[f"{kind}_at"] = count.peak, count.where
            out[f"{kind}_operations"], out[f"{kind}_moved"] = count.operations, count.moved
        out["held"] = count.alive
    return out


def actions(step: Step) -> dict:
    return dict(zip(KINDS, (step.train, partial(step.train, skip=3, steps=2), step.forecast), strict=True))


def measured(shape: tuple[int, int], mode: str, constants: train_deterministic.Config) -> dict:
    """Peak bytes of each kind of step by the GPU's allocator: in use, and taken from the device."""
    step, out = Step(shape, mode, constants, device="cuda"), {}
    step.train()
    for kind, action in actions(step).items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        action()
        out[kind] = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    return out


def main(cfg: Config) -> None:
    results = {}
    for mode in cfg.modes:
        constants = train_deterministic.Config(base_features=cfg.base_features, history=cfg.history, season=0.0)
        results[mode] = figures = counted(tuple(cfg.shape), mode, constants)
        peaks = ", ".join(f"{k.replace('_', ' ')} {figures[k] / 1e6:.0f} MB" for k in KINDS)
        size = f"{cfg.shape[0]} x {cfg.shape[1]} cells, {figures['parameters'] / 1e6:.2f} million parameters"
        print(f"{mode}, {size}: {peaks}", flush=True)
        print(f"  a training step runs {figures['training_operations']} operations, which read and write "
              f"{figures['training_moved'] / 1e9:.0f} GB", flush=True)  # fmt: skip
        if torch.cuda.is_available():
            figures["cuda"] = measured(tuple(cfg.shape), mode, constants)
            print(f"  {torch.cuda.get_device_name()}: {figures['cuda']}", flush=True)
    if cfg.json:
        first = results[cfg.modes[0]]
        about = {"train_step_peak_bytes": first["training"], "rollout_step_peak_bytes": first["roll_out"],
                 "device": "none: counted on fake tensors; `cuda` in a mode is a GPU's own",
                 "grid": list(cfg.shape), "mode": cfg.modes[0],
                 "base_features": cfg.base_features, "torch": torch.__version__, "modes": results}  # fmt: skip
        replace(Path(cfg.json), json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    run(Config, main, __doc__)
