"""Where a run stands: what, besides weights and optimizer, a checkpoint holds of it."""

import math
import sys
import time
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from training.log import empty_sums, time_text
from training.trouble import new_guard

ENOUGH = 20.0  # seconds of training after which its end is foretold
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total} pairs [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


@dataclass
class Progress:
    """Counters of a run; they alone decide order, mirrors and noise of what comes next. Times are those of this
    process and in no checkpoint."""

    step: int = 0  # optimizer steps done
    epoch: int = 0  # epochs done
    best: float = -math.inf  # highest score of a validation
    position: dict = field(default_factory=lambda: {"group": 0, **empty_sums()})  # step of the epoch, sums for the log
    guard: dict = field(default_factory=new_guard)  # training/trouble.py
    cache_hours: int | None = None  # decoded hours that are kept: pairs are shuffled in blocks that fit; None: unknown
    first_step: int = 0  # where this process began
    started: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)
    waited: float = 0.0  # seconds for data
    told: bool = False  # when the end is expected

    @staticmethod
    def of(checkpoint: dict) -> "Progress":
        """Go on from a checkpoint; its state of torch's random numbers is set."""
        torch.set_rng_state(checkpoint["rng"]["torch"].cpu())
        step, position = checkpoint["step"], dict(checkpoint["position"])
        guard = new_guard() | position.pop("guard", {})
        kept = position.pop("cache_hours", sys.maxsize)  # without it: a run in which all hours were kept
        return Progress(step, checkpoint["epoch"], checkpoint["rng"]["best"], position, guard, kept, step)

    def entries(self, seed: int) -> dict:
        """What a checkpoint holds of it."""
        rng = {"seed": seed, "torch": torch.get_rng_state(), "best": self.best}
        position = {**self.position, "guard": self.guard, "cache_hours": self.cache_hours}
        return {"step": self.step, "epoch": self.epoch, "position": position, "rng": rng}

    def timing(self, pairs_per_step: float) -> dict:
        """The log's figures of speed: pairs per second and the share of the time that waited for data."""
        elapsed = time.monotonic() - self.started
        done = (self.step - self.first_step) * pairs_per_step
        return {"samples_per_s": done / elapsed, "data_wait": self.waited / elapsed}

    @property
    def mean_loss(self) -> float:
        """Of the pairs since the last validation."""
        return self.position["loss"] / max(self.position["samples"], 1)

    def left(self, total: int) -> float:
        """Seconds to the last of `total` optimizer steps."""
        elapsed = time.monotonic() - self.started
        return elapsed / max(self.step - self.first_step, 1) * (total - self.step)

    def tell_end(self, total: int) -> None:
        """Once, when there is something to judge by: how long the run will take."""
        elapsed = time.monotonic() - self.started
        if self.told or elapsed < ENOUGH or self.step - self.first_step < 3:
            return
        self.told, left = True, self.left(total)
        end = time.strftime("%Y-%m-%d %H:%M", time.gmtime(time.time() + left))
        tqdm.write(f"estimate: {time_text(left)} to go, expected end {end} UTC")

    def bar(self, epochs: int, pairs: int, done: float, shown: bool) -> tqdm:
        """The bar of this epoch over its pairs, of which `done` are; none where nobody looks (no terminal)."""
        return tqdm(
            total=pairs, initial=round(done), desc=f"epoch {self.epoch + 1}/{epochs}", unit="pair", leave=False,
            smoothing=0.02, disable=None if shown else True, bar_format=BAR,
        )  # fmt: skip
