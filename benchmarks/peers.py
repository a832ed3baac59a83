"""Our UNet beside those of MONAI and diffusers with as many parameters: peak memory and time of a training step.

    pip install -r requirements-peers.txt
    python -m benchmarks.peers --json benchmarks/results/peers.json
    python -m benchmarks.peers --shape 512 512 --parts speed

The step is that of benchmarks/memory.py with another network in the place of ours: the same fields, loss, optimizer and
precision. `memory`: peak of a step on the full domain, counted on fake tensors, on CUDA also by the allocator. `speed`:
whole steps on --shape, the networks in turn within each repeat; medians of times and of ratios within a repeat.
"""

import json
import statistics as stats
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import memory
from benchmarks.peer_models import KINDS, Peer, check_packages
from benchmarks.speed import seconds
from data.command import nearest, run
from training.checkpoint import replace_file
from training.device import choose_device, half_precision

FULL = (1059, 1799)  # cells of the full domain


@dataclass
class Config:
    peers: tuple[str, ...] = tuple(KINDS)  # monai, diffusers, diffusers_2x2
    parts: tuple[Literal["memory", "speed"], ...] = ("memory", "speed")
    shape: tuple[int, ...] = ()  # cells, y and x, of speed; empty: 256 x 256 on a CPU, full CONUS on a GPU
    base_features: int = 40  # of ours; peers have as many parameters
    repeats: int = 5  # timed steps of each network
    json: str = ""  # file for the figures; empty: none


@dataclass(frozen=True)
class Row:
    """A network and how it is trained."""

    text: str
    kind: str = ""  # of KINDS; empty: ours
    mode: str = "fast"  # of the loss, and of our network
    checkpointed: bool = False

    def in_place(self):
        """A context in which benchmarks.memory builds this network."""
        peer = partial(Peer, kind=self.kind, checkpointed=self.checkpointed) if self.kind else memory.ResidualUNet
        return mock.patch.object(memory, "ResidualUNet", peer)


def rows_of(peers: tuple[str, ...]) -> dict[str, Row]:
    out = {mode: Row(f"ours, {mode}", mode=mode) for mode in ("fast", "lean")}
    for k in peers:
        out[k] = Row(KINDS[k].text, k)
        # the loss of lean mode too, which costs less memory: the most that a user of the library could save
        out[f"{k}_checkpointed"] = Row(f"{KINDS[k].text}, its checkpointing, lean loss", k, "lean", True)
    return out


def main(cfg: Config) -> None:
    packages, device, rows = check(cfg), choose_device(), rows_of(cfg.peers)
    shape = tuple(cfg.shape) or (FULL if device.type == "cuda" else (256, 256))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    results = {"device": name, "torch": torch.__version__, "packages": packages, "base_features": cfg.base_features,
               "precision": str(half_precision(device)), "networks": networks(cfg, rows)}  # fmt: skip
    print(f"{name}, base {cfg.base_features}, {results['precision']}")
    for text, network in results["networks"].items():
        print(f"{text}: {network['parameters'] / 1e6:.2f} million parameters, {network['of_ours']:.2f} of ours, "
              f"{network['multiply_adds_per_cell']} multiply-adds per cell")  # fmt: skip
    if "memory" in cfg.parts:
        results["memory"] = {"grid": FULL, **peaks(cfg, rows, device)}
    if "speed" in cfg.parts:
        results["speed"] = {"grid": shape, **speeds(cfg, rows, shape, device)}
    if cfg.json:
        replace_file(Path(cfg.json), lambda path: path.write_text(json.dumps(results, indent=1) + "\n"))


def check(cfg: Config) -> dict[str, str]:
    """ValueError for constants that cannot be; the versions of the packages."""
    if unknown := [p for p in cfg.peers if p not in KINDS]:
        fix = nearest(unknown[0], KINDS, 1)
        raise ValueError(f"peers: got {unknown[0]}, expected some of {' '.join(KINDS)}. Fix: --peers {fix}")
    if len(cfg.shape) not in (0, 2) or any(n < 16 for n in cfg.shape):
        raise ValueError(f"shape: got {cfg.shape}, expected two numbers of at least 16. Fix: --shape 256 256")
    if min(cfg.repeats, cfg.base_features) < 1:
        raise ValueError(f"got --repeats {cfg.repeats}, --base_features {cfg.base_features}, expected at least 1. "
                         "Fix: --repeats 5 --base_features 40")  # fmt: skip
    return check_packages(cfg.peers)


def networks(cfg: Config, rows: dict[str, Row]) -> dict:
    """Parameters, and multiply-adds per cell of a forward pass, of each network."""
    out: dict = {}
    for row in (r for r in rows.values() if r.mode == "fast"):
        with row.in_place():
            step = memory.Step((64, 64), row.mode, cfg.base_features, torch.float32)
        number = sum(p.numel() for p in step.parts.optimizer.weights)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            step.parts.optimizer.network(step.fields(2), *step.parts.forcing(memory.START))
        first = next(iter(out.values()), {"parameters": number})
        out[row.text] = {"parameters": number, "of_ours": round(number / first["parameters"], 3),
                         "multiply_adds_per_cell": round(counter.get_total_flops() / 2 / 64**2)}  # fmt: skip
    return out


def peaks(cfg: Config, rows: dict[str, Row], device: torch.device) -> dict:
    """Peak bytes of a training step and a forecast step on the full domain."""
    out: dict = {}
    for name, row in rows.items():
        with row.in_place():
            found = memory.counted(FULL, row.mode, cfg.base_features)
            out[name] = {kind: found[kind]["peak_bytes"] for kind in ("training", "forecast")}
            if device.type == "cuda":
                out[name]["cuda"] = memory.measured(FULL, row.mode, cfg.base_features)
    for figures in out.values():
        figures["of_lean"] = figures["training"] / out["lean"]["training"]
    lines = [[rows[n].text, f"{f['training'] / 1e6:.0f}", f"{f['of_lean']:.2f}", f"{f['forecast'] / 1e6:.0f}",
              *([f"{f['cuda']['training']['allocated'] / 1e6:.0f}"] if "cuda" in f else [])]
             for n, f in out.items()]  # fmt: skip
    head = ["peak, MB", "training", "/ our lean", "forecast", *["training on the GPU"] * (device.type == "cuda")]
    print_table(head, lines)
    return out


def speeds(cfg: Config, rows: dict[str, Row], shape: tuple[int, int], device: torch.device) -> dict:
    """Training steps per second of each network, and how much longer each takes than our fast mode."""
    steps: dict[str, memory.Step] = {}
    for name, row in rows.items():
        with row.in_place():
            steps[name] = memory.Step(shape, row.mode, cfg.base_features, half_precision(device), device)
        steps[name].train()  # warm-up
    rounds = [{n: seconds(step.train, device) for n, step in steps.items()} for _ in range(cfg.repeats)]
    out = {}
    for n in rows:
        ratios = [r[n] / r["fast"] for r in rounds]
        out[n] = {"seconds": stats.median(r[n] for r in rounds), "of_fast": stats.median(ratios), "least": min(ratios)}
    lines = [[rows[n].text, f"{1 / f['seconds']:.3f}", f"{f['of_fast']:.2f}", f"{f['least']:.2f}"]
             for n, f in out.items()]  # fmt: skip
    print_table([f"{shape[0]} x {shape[1]} cells", "steps/s", "its time / our fast", "least of the repeats"], lines)
    return out


def print_table(head: list[str], lines: list[list[str]]) -> None:
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    print("\n".join(f"| {' | '.join(line)} |" for line in lines), flush=True)


if __name__ == "__main__":
    run(Config, main, __doc__)
