"""Training pairs a second, where the time of a step goes, and what the machine could do at most.

    python -m benchmarks.speed                          # 256 x 256 cells on a CPU, full CONUS on a GPU
    python -m benchmarks.speed --shape 1059 1799 --repeats 5 --json benchmarks/results/speed.json
    python -m benchmarks.speed --forms plain channels_first compiled --precision bfloat16

A step is that of benchmarks/memory.py with values in it. Its parts are timed one after the other, the device being
waited for in between; `pairs/s` is the whole step, not the sum of the parts. Medians of several repeats, the modes in
turn within each, so that a machine that is busy for a while is so for both. Beside them, from the same minutes, what
the machine can do: a large matrix product and a large copy. Without a GPU time is that of the CPU's clock where one
thread computes, so that other work on the machine does not count.

--forms: besides the network as it trains (plain, features channels last in memory), the same with channels first, and
its blocks compiled by torch.compile; `warm-up` is the first step of each, compilation included.
"""

import json
import statistics as stats
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

import train_deterministic
import train_step
from benchmarks.memory import NAMES, START, Step, half_precision
from data.command import run
from data.metadata import replace
from data.normalise import limiter
from models.layers import Block
from models.rollout import rollout, rollout_step
from training.device import choose_device
from training.schedule import update_ema

PARTS = ("pairs", "forward", "loss", "backward", "optimizer", "forecast")
MATRIX, COPY = 2048, 2**26  # side of the matrices of the product; numbers that are copied


@dataclass
class Config:
    shape: tuple[int, ...] = ()  # cells, y and x; empty: by device
    modes: tuple[str, ...] = ("lean", "fast")
    base_features: int = 40
    forms: tuple[Literal["plain", "channels_first", "compiled"], ...] = ("plain",)
    precision: Literal["device", "bfloat16"] = "device"  # device: as training takes it, float32 on a CPU
    repeats: int = 7
    json: str = ""  # file to write the figures to; empty: none


def seconds(action: Callable[[], object], device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    began = clock()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - began


def shaped(step: Step, form: str) -> Step:
    """The step with its network in one of the forms."""
    network = step.model
    if form == "channels_first":
        read = network.read
        network.read = lambda *fields: read(*fields).contiguous()
    if form == "compiled":
        for block in network.modules():
            if isinstance(block, Block):  # the whole network at once takes many minutes to compile
                block.compile()
    return step


def ceilings(device: torch.device, repeats: int) -> dict:
    """Multiply-adds a second of a product in the precision of training, and bytes a second of a copy (read and
    written)."""
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(MATRIX, MATRIX, device=device, dtype=kind) for _ in range(2))
    x, y = (torch.zeros(COPY, device=device) for _ in range(2))
    product = stats.median(seconds(lambda: a @ b, device) for _ in range(repeats + 1))
    copy = stats.median(seconds(lambda: y.copy_(x), device) for _ in range(repeats + 1))
    return {"multiply_adds_per_s": MATRIX**3 / product, "bytes_per_s": 2 * 4 * COPY / copy}


def parts(step: Step, device: torch.device) -> dict[str, float]:
    """Seconds of one whole step and of its parts."""
    learn, scale = step.learn, step.statistics.scale
    states = torch.randn(1, 1 + step.history, len(NAMES), *step.shape, device=device)
    target = torch.randn(1, len(NAMES), *step.shape, device=device)
    fields, clock = step.forcing(START)
    out: dict = {"pairs": seconds(step.train, device)}

    def forward():
        with train_step.training_autocast(device, False):
            out["pred"] = rollout_step(step.model, states, fields, clock, scale)

    def loss():
        leaf = out["leaf"] = out["pred"].detach().requires_grad_()
        for c in [slice(c, c + 1) for c in range(len(NAMES))] if step.model.lean else [slice(None)]:
            learn._loss(leaf[:, c], target[:, c], None, 2.0, c)[0].backward()

    def update():
        torch.nn.utils.clip_grad_norm_(step.model.parameters(), 1.0)
        step.optimizer.step()
        update_ema(step.ema, step.model, 0)

    out["forward"], out["loss"] = seconds(forward, device), seconds(loss, device)
    out["backward"] = seconds(lambda: out["pred"].backward(out["leaf"].grad), device)
    out["optimizer"] = seconds(update, device)

    def forecast():
        with torch.no_grad(), train_step.training_autocast(device, False):
            for _ in rollout(step.ema, states, lambda k: (fields, clock), scale, limiter(step.statistics), 2):
                pass

    out["forecast"] = seconds(forecast, device) / 2
    return {k: out[k] for k in PARTS}


def main(cfg: Config) -> None:
    device = choose_device()
    shape = tuple(cfg.shape) or ((1059, 1799) if device.type == "cuda" else (256, 256))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    constants = train_deterministic.Config(base_features=cfg.base_features)
    with half_precision() if cfg.precision == "bfloat16" else nullcontext():
        rows = {(m, f): shaped(Step(shape, m, constants, device=device), f) for m in cfg.modes for f in cfg.forms}
        limits = ceilings(device, cfg.repeats)
        warm_up = {row: parts(step, device)["pairs"] for row, step in rows.items()}
        rounds = [{row: parts(step, device) for row, step in rows.items()} for _ in range(cfg.repeats)]
    results, plain = {}, next(iter(rows))
    for row in rows:
        medians = {k: stats.median(r[row][k] for r in rounds) for k in PARTS}
        ratio = stats.median(r[row]["pairs"] / r[plain]["pairs"] for r in rounds)
        results[" ".join(row)] = found = {
            "pairs_per_s": 1 / medians.pop("pairs"), "seconds": medians,
            "forecast_24h_seconds": 24 * medians["forecast"], "warm_up_seconds": warm_up[row],
            "of_the_time_of_the_first_row": ratio,
        }  # fmt: skip
        shares = ", ".join(f"{k} {1e3 * v:.0f} ms" for k, v in medians.items())
        print(f"{' '.join(row)}: {found['pairs_per_s']:.2f} pairs/s; {shares}; warm-up {warm_up[row]:.1f} s; "
              f"{ratio:.2f} of the time of {' '.join(plain)}")  # fmt: skip
    top = f"{limits['multiply_adds_per_s'] / 1e9:.0f} G multiply-adds/s, {limits['bytes_per_s'] / 1e9:.1f} GB/s copied"
    print(f"{name}, {shape[0]} x {shape[1]} cells, base {cfg.base_features}; machine: {top}")
    if cfg.json:
        about = {"device": name, "torch": torch.__version__, "shape": list(shape), "base_features": cfg.base_features,
                 "precision": cfg.precision}  # fmt: skip
        replace(Path(cfg.json), json.dumps({**about, "ceilings": limits, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    run(Config, main, __doc__)
