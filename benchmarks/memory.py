"""Peak memory, operations and bytes moved of a training step, a roll-out training step and a forecast step.

    python -m benchmarks.memory                                  # full CONUS, lean and fast; counted, needs no memory
    python -m benchmarks.memory --shape 530 900 --modes lean     # another grid
    python -m benchmarks.memory --json benchmarks/results/memory.json

A step is `learn` of train_deterministic.py and its optimizer step. Without CUDA it runs on fake tensors, which have
sizes and no values: every storage is counted from the operation that makes it until it is freed, and every dispatched
operation that is no view. Library workspace is not in that count. On CUDA the allocator's own peaks stand beside it.
"""

import json
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from data.augment import state_parity
from data.command import run
from data.forcing import CLOCK_FEATURES, Forcing
from data.grid import Grid
from data.normalise import Statistics, limiter
from losses.spectral import tables, tile_cells, tile_side
from losses.weather import TERMS, WeatherLoss
from models.layers import lattice
from models.rollout import rollout
from models.unet import ResidualUNet
from train_deterministic import Config as Constants
from train_deterministic import Parts, learn
from training.checkpoint import replace_file
from training.optimizer import Optimizer
from training.schedule import Batch

NAMES = ("REFC", "T2M", "D2M", "U10", "V10", "CAPE", "CIN")
LEAD = np.timedelta64(1, "h").astype("timedelta64[ns]")
START = np.array([np.datetime64("2024-06-01T12", "ns")])


@dataclass
class Config:
    shape: tuple[int, ...] = (1059, 1799)  # cells, y and x
    modes: tuple[str, ...] = ("lean", "fast")
    base_features: int = 40
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

    def ignore(self, x: torch.Tensor) -> None:
        """Do not count a storage, which is there as long as the tensor is."""
        self.alive -= self.known[x.untyped_storage()._cdata]
        self.known[x.untyped_storage()._cdata] = 0

    def reset(self) -> None:
        self.peak, self.where, self.operations, self.moved = self.alive, "", 0, 0


class Step:
    """What training holds on the device, and its steps, on fields without meaning."""

    def __init__(
        self, shape: tuple[int, int], mode: str, base: int = 40, dtype=torch.bfloat16, device="cpu", batch: int = 1,
        count: Count | None = None,
    ):  # fmt: skip
        cfg = Constants(base_features=base, memory=mode, history=1)
        ones = torch.ones(len(NAMES), device=device)
        statistics, grid = Statistics(NAMES, 0 * ones, ones, ones.clone()), grid_of(shape)
        forcing = Forcing(grid, LEAD, NAMES, None, device)
        with torch.device(device):
            sizes = len(NAMES), len(forcing.names), CLOCK_FEATURES, base, cfg.levels, cfg.history
            model = ResidualUNet(*sizes, statistics.scale, mode == "lean")
        for p in model.parameters():  # not model.to: fake tensors refuse it
            p.data = p.data.contiguous(memory_format=torch.channels_last) if p.dim() == 4 else p.data
        loss = WeatherLoss(cfg.loss_weights, cfg.detail, groups=2 if mode == "lean" else 1)
        loss.shares = {1: dict.fromkeys(TERMS, ones)}
        optimizer = Optimizer(model, cfg.lr, cfg.weight_decay, cfg.clip, dtype)
        self.parts = Parts(cfg, optimizer, loss, forcing, limiter(statistics), statistics, None, None, LEAD)
        self.shape, self.device, self.size, self.count = shape, device, batch, count
        self.rng = torch.Generator(device)

    def fields(self, *size: int) -> torch.Tensor:
        """As the loader has them, in the host's memory, which is not the device's."""
        x = torch.randn(self.size, *size, len(NAMES), *self.shape)
        if self.count is not None:
            self.count.ignore(x)
        return x

    def train(self, skip: int = 0, steps: int = 1, update: bool = True) -> None:
        """One batch, and with `update` an optimizer step."""
        times, batch = START.repeat(self.size), Batch((0,) * self.size, skip, steps, 1.0)
        learn(self.parts, batch, (times, self.fields(2), [self.fields() for _ in range(steps)], []), self.rng)
        if update:
            self.parts.optimizer.clip_gradients()
            self.parts.optimizer.step(1.0, 0.999)

    def forecast(self, steps: int = 2) -> None:
        """A roll-out in bfloat16, as inference makes it on a GPU."""
        parts, times = self.parts, START.repeat(self.size)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16):
            scale, finish = parts.statistics.scale, lambda state, k: parts.limit(state)[0]
            for _ in rollout(
                parts.optimizer.ema,
                self.fields(2).to(self.device),
                lambda k: parts.forcing(times),
                scale,
                finish,
                steps,
            ):
                pass

    def kinds(self) -> dict:
        return {"training": self.train, "rollout_training": lambda: self.train(3, 2), "forecast": self.forecast}


def grid_of(shape: tuple[int, int]) -> Grid:
    y, x = np.meshgrid(np.linspace(21, 53, shape[0]), np.linspace(-135, -60, shape[1]), indexing="ij")
    static = {"orography": np.zeros(shape, np.float32), "land_sea_mask": np.ones(shape, np.float32)}
    return Grid(shape, latitude=y, longitude=x, static=static)


def counted(shape: tuple[int, int], mode: str, base: int) -> dict:
    """Peak bytes, operations and bytes moved of each kind of step, counted on fake tensors."""
    cpu, n, out = torch.device("cpu"), tile_side(shape), {}
    # constants with values are made before; without values they must not stay for others
    tables(n, cpu), [tile_cells(side, n, cpu) for side in shape], state_parity(NAMES, cpu)
    coarsest = 2 ** (Constants().levels + 1)
    lattice(*(-(-side // coarsest) * coarsest for side in shape), cpu)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), Count() as count:
            step = Step(shape, mode, base, count=count)
            out["parameters"] = sum(p.numel() for p in step.parts.optimizer.weights)
            step.train()  # makes the state of the optimizer
            for kind, action in step.kinds().items():
                count.reset()
                action()
                out[kind] = {"peak_bytes": count.peak, "at": count.where, "operations": count.operations}
                out[kind]["moved_bytes"] = count.moved
            count.reset()
            step.train(update=False)
            out["pair_operations"], out["held_bytes"] = count.operations, count.alive
    finally:
        for constant in (tables, tile_cells, lattice, state_parity):
            constant.cache_clear()
    return out


def measured(shape: tuple[int, int], mode: str, base: int) -> dict:
    """Peak bytes of each kind of step by the GPU's allocator: in use, and taken from the device."""
    step, out = Step(shape, mode, base, device="cuda"), {}
    step.train()
    for kind, action in step.kinds().items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        action()
        out[kind] = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    return out


def main(cfg: Config) -> None:
    results, shape = {}, tuple(cfg.shape)
    for mode in cfg.modes:
        results[mode] = found = counted(shape, mode, cfg.base_features)
        print(f"{mode}, {shape[0]} x {shape[1]} cells, {found['parameters'] / 1e6:.2f} million parameters; a pair "
              f"without the optimizer step: {found['pair_operations']} operations", flush=True)  # fmt: skip
        for kind in ("training", "rollout_training", "forecast"):
            figures = found[kind]
            print(f"  {kind.replace('_', ' ')} step: peak {figures['peak_bytes'] / 1e6:.0f} MB "
                  f"(at {figures['at']}), {figures['operations']} operations, "
                  f"{figures['moved_bytes'] / 1e9:.1f} GB read and written", flush=True)  # fmt: skip
        if torch.cuda.is_available():
            found["cuda"] = measured(shape, mode, cfg.base_features)
            print(f"  {torch.cuda.get_device_name()}: {found['cuda']}", flush=True)
    if cfg.json:
        first = results[cfg.modes[0]]
        about = {"train_step_peak_bytes": first["training"]["peak_bytes"],
                 "rollout_step_peak_bytes": first["rollout_training"]["peak_bytes"],
                 "device": "none: counted on fake tensors; `cuda` in a mode is a GPU's own", "grid": list(shape),
                 "mode": cfg.modes[0], "base_features": cfg.base_features, "torch": torch.__version__,
                 "modes": results}  # fmt: skip
        replace_file(Path(cfg.json), lambda path: path.write_text(json.dumps(about, indent=1) + "\n"))


if __name__ == "__main__":
    run(Config, main, __doc__)
