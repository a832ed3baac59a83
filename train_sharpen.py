"""After training: which variables are held, by the validation part (train_restrain.py), and how much of its detail a
forecast from best.pt loses (models/sharpen.py), by forecasts from the whole record but its test part, since a few weeks
are one weather; kept in the file."""

import itertools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.boundary import Yesterday
from data.dataset import find_pairs, stack
from data.normalise import denormalise, limiter, normalise, piles
from data.times import hours_of
from models.rollout import rollout_step
from models.sharpen import Sharpening, count_bands, measure, powers
from models.unet import ResidualUNet
from train_data import SAMPLED, TrainingData
from train_restrain import find_held
from training.checkpoint import load_checkpoint, save_checkpoint
from training.device import autocast
from training.signals import StopRequest
from training.team import Team

ALONE = 12.0  # h, for which forecasts without boundary data are left alone (data.boundary.Yesterday)
HOURS = 24.0  # length of the forecasts; later steps are not sharpened
FEWEST = 72  # initial times that the validation part must have; a shorter record is learned by heart, and what its
# forecasts lose says nothing of other days
MOST, LEAST = 286, 4  # forecasts that are made: many of a small domain, few of a large one, which holds as much weather
CELLS = 1_200_000  # that all forecasts together have, between the two
MIXED = (5, 7, 11, 13, 17, 19)  # hours of the day from one forecast to the next: 1 would meet all 24 too, but so slowly
# that for a week or two storms are met in one stage of their life
TOGETHER = 2**15  # cells of the forecasts that are computed together


def measure_after(constants, team: Team, data: TrainingData, model: ResidualUNet) -> int:
    """Add to best.pt what is measured after training, where it has none and the constants want it: under "held" the
    variables that are held, under "sharpening", by kind of forecast ("free", and "edge" where there is a boundary
    store), what Sharpening.table names, and "alone": after how many hours the edge of the first kind was the day
    before's. Where it cannot be measured the file stays and a line says why. Returns the number of the signal that
    stopped it, or 0."""
    path = Path(constants.run_dir) / "best.pt"
    if not (team.first and path.exists()):
        return 0
    checkpoint = load_checkpoint(path, data.device)
    model.load_state_dict(checkpoint["ema"])
    if not constants.restrain:
        if checkpoint.pop("held", None):
            checkpoint.pop("sharpening", None)  # was measured with them held
            save_checkpoint(checkpoint, path)
    elif "held" not in checkpoint:
        try:
            checkpoint["held"] = find_held(data, model, constants.history)
        except ValueError as error:  # an hour that is not there or cannot be read: the training is done
            print(f"held: none; {error}")
        else:
            save_checkpoint(checkpoint, path)
    free = torch.tensor([n not in checkpoint.get("held", []) for n in data.names], device=data.device)
    if not constants.sharpen or "sharpening" in checkpoint:
        return 0
    steps, starts = choose_starts(data, constants.history)
    if not steps:
        print(f"sharpening: none; the validation part has no {FEWEST} initial times to measure on")
        return 0
    found = {}
    with StopRequest() as stop:
        yesterday = Yesterday(data.hours, data.statistics, data.mask, data.lead, steps, ALONE, free)
        for kind, edge in {"free": yesterday, **({"edge": data.edge} if data.edge else {})}.items():
            try:
                if kind == "edge":
                    edge.refuse_missing(starts, data.lead, steps, "a --boundary store that covers the whole record")
                found[kind] = of_forecasts(data, model, starts, steps, edge, free, stop)
            except ValueError as error:  # an hour that is not there or cannot be read: the training is done
                print(f"sharpening: none {TOLD[kind]}; {error}")
            if stop.received:
                return stop.received
    if found:
        tables = [s.table(kind) for kind, s in found.items()]
        tables += [{"alone": torch.tensor(ALONE)}] if "free" in found and yesterday.known(starts).any() else []
        save_checkpoint({**checkpoint, "sharpening": {n: x.cpu() for t in tables for n, x in t.items()}}, path)
        means = ", ".join(f"{float(s.gains.mean()):.3f} {TOLD[kind]}" for kind, s in found.items())
        print(f"sharpening: measured on {len(starts)} forecasts of {hours_of(steps * data.lead):g} h from "
              f"training and validation; factor on the amplitude at each step, mean over scales: {means}")  # fmt: skip
    return 0


TOLD = {"free": "without boundary data", "edge": "with it"}


def choose_starts(data: TrainingData, history: int) -> tuple[int, np.ndarray]:
    """The number of steps, and the initial times, spread over the training and the validation part; 0 where the latter
    has too few. Every so many hours that all hours of the day get their turn."""
    for steps in range(max(1, round(HOURS / hours_of(data.lead))), 0, -1):
        split = data.split.train, data.split.validation
        parts = [find_pairs(data.store.times, data.lead, part, history, steps) for part in split]
        if len(parts[1]) >= FEWEST:
            starts = np.concatenate(parts)
            count = min(max(round(CELLS / np.prod(data.store.grid.shape)), LEAST), MOST, len(starts))
            every = next(n for n in itertools.count(-(-len(starts) // count)) if n == 1 or n % 24 in MIXED)
            return steps, starts[::every]
    return 0, parts[1]


def of_forecasts(
    data: TrainingData, model, times: np.ndarray, steps: int, edge, free: Tensor, stop: StopRequest
) -> Sharpening | None:
    """models/sharpen.py's measure on forecasts from `times`; None where it was stopped. free (C,) bool: the variables
    that are not held; the others stay as they are."""
    size = max(1, TOGETHER // int(np.prod(data.store.grid.shape)))
    groups = [times[i : i + size] for i in range(0, len(times), size)]
    scale = data.statistics.scale * free[:, None, None]
    bar = tqdm(total=steps * len(groups), desc="sharpening", unit="step", disable=None, leave=False)

    def prepared(fields: Tensor) -> Tensor:
        return normalise(fields.to(data.device), data.statistics, data.mask)

    def step(i: int, k: int, states: Tensor) -> Tensor:
        bar.update()
        with torch.no_grad(), autocast(data.device):
            return rollout_step(model, states, *data.forcing(groups[i] + k * data.lead), scale)

    def nudge(i: int, k: int, state: Tensor) -> Tensor:
        return edge.draw(state.to(data.device), groups[i], data.lead, k)

    def truth(i: int, k: int) -> Tensor:
        return prepared(stack([data.hours(t + (k + 1) * data.lead) for t in groups[i]]))

    def physical(state: Tensor) -> Tensor:
        return denormalise(state, data.statistics)

    bands, piled = count_bands(data.store.grid.shape), piles(data.statistics)
    climate = torch.stack([powers(physical(x[:, -1]), bands, piled) for x, _ in data.samples(SAMPLED)]).mean(dim=0)
    with bar:
        found = measure(
            [prepared(data.series.states(group)).cpu() for group in groups], step, limiter(data.statistics, data.mask),
            truth, physical, climate, steps, piled, data.valid, nudge,
            lambda: bool(stop.received),
        )  # fmt: skip
    if found is None:
        return None
    gains, rim = (torch.where(free[:, None], x, 1.0) for x in (found.gains, found.rim))
    return Sharpening(gains, torch.where(free, found.shift, 0.0), rim)
