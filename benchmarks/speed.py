"""Training pairs a second, where the time of a step goes, and what the machine could do at most.

    python -m benchmarks.speed                          # 256 x 256 cells on a CPU, full CONUS on a GPU
    python -m benchmarks.speed --forms eager compiled captured --json benchmarks/results/speed.json

A step is that of benchmarks/memory.py, `learn` of train_deterministic.py and its optimizer step. Medians of several
repeats, the modes and forms in turn within each, so that a busy machine is busy for all. compiled: the network by
torch.compile. captured: forward and backward of the network as a CUDA graph. A form that fails says why and is left
out. Without a GPU and with one thread, time is that of the CPU's clock.
"""

import json
import statistics as stats
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from benchmarks.memory import NAMES, START, Step
from data.command import run
from models.rollout import forecast_step
from training.checkpoint import replace_file
from training.device import choose_device, half_precision

PARTS = ("pair", "forward", "loss", "backward", "optimizer", "forecast")
MATRIX, COPY = 2048, 2**26  # side of the matrices of the product; numbers that are copied


@dataclass
class Config:
    shape: tuple[int, ...] = ()  # cells, y and x; empty: by device
    modes: tuple[str, ...] = ("lean", "fast")
    forms: tuple[Literal["eager", "compiled", "captured"], ...] = ("eager",)
    base_features: int = 40
    batch_size: int = 1
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
    network = step.parts.optimizer.network
    if form == "compiled":
        network.compile(fullgraph=True)
    if form == "captured":
        states = torch.randn(step.size, 2, len(NAMES), *step.shape, device=step.device)
        sample = states, *step.parts.forcing(START.repeat(step.size))
        graphed = torch.cuda.make_graphed_callables(network, sample)
        network.forward = graphed.forward
    return step


def parts(step: Step, device: torch.device) -> dict[str, float]:
    """Seconds of one whole pair with its optimizer step, and of its parts."""
    tools, made = step.parts, {}
    states, target = step.fields(2).to(device), step.fields().to(device)
    fields, clock = tools.forcing(START.repeat(step.size))

    def forward():
        made["pred"] = forecast_step(tools.optimizer.network, states, fields, clock, tools.statistics.scale)

    def loss():
        made["gradient"] = tools.loss(made["pred"].detach() - target, target)[2]

    def update():
        tools.optimizer.collect()
        tools.optimizer.clip_gradients()
        tools.optimizer.step(1.0, 0.999)

    actions = {
        "pair": step.train, "forward": forward, "loss": loss,
        "backward": lambda: made["pred"].backward(made["gradient"]), "optimizer": update, "forecast": step.forecast,
    }  # fmt: skip
    return {name: seconds(action, device) for name, action in actions.items()}


def ceilings(device: torch.device, repeats: int) -> dict:
    """Multiply-adds a second of a product in the precision of training, and bytes a second of a copy."""
    a, b = (torch.randn(MATRIX, MATRIX, device=device, dtype=half_precision(device)) for _ in range(2))
    x, y = (torch.zeros(COPY, device=device) for _ in range(2))
    product = stats.median(seconds(lambda: a @ b, device) for _ in range(repeats + 1))
    copy = stats.median(seconds(lambda: y.copy_(x), device) for _ in range(repeats + 1))
    return {"multiply_adds_per_s": MATRIX**3 / product, "bytes_per_s": 2 * 4 * COPY / copy}


def main(cfg: Config) -> None:
    device = choose_device()
    shape = tuple(cfg.shape) or ((1059, 1799) if device.type == "cuda" else (256, 256))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    limits, rows, warm_up = ceilings(device, cfg.repeats), {}, {}
    for mode in cfg.modes:
        for form in cfg.forms:
            try:
                step = Step(shape, mode, cfg.base_features, half_precision(device), device, cfg.batch_size)
                warm_up[mode, form] = parts(shaped(step, form), device)["pair"]
                rows[mode, form] = step
            except Exception as error:  # what a compiler or a capture cannot do raises nearly anything
                print(f"{mode} {form}: left out ({type(error).__name__}: {str(error).splitlines()[0][:120]})")
    rounds = [{row: parts(step, device) for row, step in rows.items()} for _ in range(cfg.repeats)]
    results: dict = {}
    for row in rows:
        medians = {k: stats.median(r[row][k] for r in rounds) for k in PARTS}
        results[" ".join(row)] = found = {
            "pairs_per_s": cfg.batch_size / medians["pair"], "seconds": medians, "warm_up_seconds": warm_up[row],
            "forecast_24h_seconds": 12 * medians["forecast"],
        }  # fmt: skip
        shares = ", ".join(f"{k} {1e3 * v:.0f} ms" for k, v in medians.items())
        print(f"{' '.join(row)}: {found['pairs_per_s']:.2f} pairs/s; {shares}; warm-up {warm_up[row]:.1f} s")
    top = f"{limits['multiply_adds_per_s'] / 1e9:.0f} G multiply-adds/s, {limits['bytes_per_s'] / 1e9:.1f} GB/s copied"
    print(f"{name}, {shape[0]} x {shape[1]} cells, base {cfg.base_features}; machine: {top}")
    if cfg.json:
        about = {"device": name, "torch": torch.__version__, "shape": list(shape), "base_features": cfg.base_features}
        text = json.dumps({**about, "ceilings": limits, "results": results}, indent=1) + "\n"
        replace_file(Path(cfg.json), lambda path: path.write_text(text))


if __name__ == "__main__":
    run(Config, main, __doc__)
