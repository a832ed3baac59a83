"""Train the residual UNet on pairs (t, t + lead) of a training store.

    python train_deterministic.py                                       # the constants below
    python train_deterministic.py --zarr data/hrrr.zarr --run_dir runs/hrrr --epochs 200
    python train_deterministic.py --zarr data/hrrr.zarr --run_dir runs/hrrr --epochs 200   # again: goes on

Writes into run_dir: last.pt (to resume), best.pt (highest validation skill; enough to forecast), previous.pt,
log.jsonl (one line per validation) and loss_curves.png.
"""

import copy
import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from data.boundary import Boundary
from data.command import refuse_file_above, run
from data.dataset import Hours, Series, Split, find_pairs, longest_chains, read_ahead, split_by_date
from data.describe import describe, mask_notes
from data.forcing import CLOCK_FEATURES, Forcing
from data.normalise import Statistics, clip_physical, denormalise, limiter, normalise
from data.quick_check import quick_check
from data.statistics import compute_statistics
from data.store import Store
from data.times import hours_of, parse_duration, show, show_duration
from data.variables import lookup
from losses.weather import WeatherLoss
from models.rollout import rollout
from models.unet import ResidualUNet
from plotting.curves import save_loss_curves
from train_step import Learner
from training.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from training.constants import refuse_constants
from training.device import autocast, choose_device, peak_memory_bytes, release
from training.lock import RunLock
from training.log import add_step, empty_sums, loss_sums, read_log, validation_line, write_log
from training.optimizer import Optimizers
from training.rehearsal import longest_task, rehearse
from training.resume import refuse_other_data, refuse_other_run
from training.schedule import Task, generator, pair_tasks, rollout_tasks, two_phases, update_ema
from training.signals import StopRequest, say_stopped
from training.team import Team
from verification.validation import Validation


@dataclass
class Config:
    zarr: str = "data/hrrr.zarr"  # training store
    run_dir: str = "runs/hrrr"  # where everything is written; the same folder resumes
    variables: list[str] = field(default_factory=list)  # names, space-separated; empty: all the table knows
    train_end: str = ""  # last training time, ISO, UTC; empty: 70 % of the record
    val_end: str = ""  # last validation time; empty: 85 % of the record; after it, test
    gap: str = ""  # pause between the parts; empty: 24h, or less for records under 5 days
    lead: str = "1h"  # length of one step
    epochs: int = 200  # passes over the training pairs
    batch_size: int = 1  # pairs that go through the model together
    accumulate: int = 16  # batches per optimizer step
    base_features: int = 40  # features at full resolution
    levels: int = 2  # halvings of the resolution below the 2 x 2 stem
    blocks: int = 2  # residual blocks per level, down and up
    history: int = 1  # hours before the present one that the model sees: motion shows in two, not in one
    lr: float = 1.5e-3  # peak learning rate of AdamW (biases, inputs, outputs)
    muon_lr: float = 3e-3  # peak learning rate of Muon (weights between hidden features); 0: AdamW for all
    weight_decay: float = 0.01  # decoupled weight decay
    warmup: float = 0.03  # share of all optimizer steps with a rising learning rate
    width: float = 2.0  # cells over which L1, MSE and gradient see errors smoothed; finer detail is the spectral term's
    amplitude: float = 12.0  # weight of the amount of detail against its place in the spectral term
    clip: float = 1.0  # highest norm of the gradient
    rollout_epochs: int = 20  # last epochs (at most half of all): the model goes on from its own forecasts
    rollout_hours: float = 24.0  # length of those forecasts, hours
    rollout_lr: float = 0.5  # peak learning rates in those epochs, as a share of the others
    rollout_width: float = 8.0  # width from the second step of those forecasts on
    boundary: str = ""  # store that gives the edge of the domain in those epochs; empty: no boundary data
    level: float = 0.0  # K, random offset that temperatures and dew points of a pair share, standard deviation
    noise: float = 0.05  # noise on the input, in standard deviations of the change over one step
    flip: bool = True  # mirror training pairs in x and y
    season: float = 20.0  # days by which the day of the year told in training is off, standard deviation
    validate_every: int = 5  # epochs between validations
    validate_hours: float = 6.0  # length of the roll-out in each validation, hours
    save_every: float = 10.0  # minutes between saves of last.pt
    cache_gb: float = 4.0  # memory for decoded hours, GB
    memory: Literal["lean", "fast"] = "lean"  # lean: full CONUS below 1 GB; fast: keeps what lean computes twice
    memory_gb: float = 0.0  # refuse to begin where a step peaks above, GB; 0: no limit
    empty_cache_every: int = 0  # optimizer steps between returns of unused memory to the GPU; 0: only at validations
    seed: int = 0  # of initial weights, order, mirrors and noise


def main(cfg: Config) -> int:
    with Team() as team:
        return train(cfg, team)


def train(cfg: Config, team: Team) -> int:
    refuse_constants(cfg, LOWEST, POSITIVE)
    rollout_epochs = min(cfg.rollout_epochs, cfg.epochs // 2)
    run_dir, device = Path(cfg.run_dir), choose_device()
    refuse_file_above(run_dir, "run_dir")
    last_path, best_path = run_dir / "last.pt", run_dir / "best.pt"
    previous = load_checkpoint(last_path, device) if last_path.exists() else None
    if previous:
        refuse_other_run(asdict(cfg), previous["config"], last_path)

    # ---- data: what is there, how it is split, its statistics
    store = Store(cfg.zarr)
    names = store.choose(cfg.variables)
    store.notes += quick_check(store, names)
    if 2 ** (cfg.levels + 1) > max(store.grid.shape):
        raise ValueError(
            f"levels: got {cfg.levels}, expected at most {int(math.log2(max(store.grid.shape))) - 1} on "
            f"{store.grid.shape[0]} x {store.grid.shape[1]} cells. Fix: --levels 2"
        )
    lead = parse_duration(cfg.lead, "lead")
    if previous:
        split = Split.from_dict(previous["split"])
    else:
        split = split_by_date(store.times, lead, cfg.train_end, cfg.val_end, cfg.gap, cfg.history)
    parts = {p: find_pairs(store.times, lead, getattr(split, p), cfg.history) for p in ("train", "validation", "test")}
    split_table = {**split.as_dict(), "pairs": {p: len(t) for p, t in parts.items()}}
    print(describe(store, names, split, parts, lead, cfg.history), flush=True)
    if previous:
        refuse_other_data(previous, split_table, names, list(store.grid.shape), store.path)
        statistics, mask = Statistics.from_dict(previous["statistics"]), previous["grid"]["mask"]
    else:
        hours = [store.times[(store.times >= a) & (store.times <= b)] for a, b in (split.train, split.validation)]
        statistics, mask = compute_statistics(store, names, np.sort(hours[0]), lead, np.sort(hours[1]))
    for note in store.notes + mask_notes(names, mask):
        print(f"note: {note}")
    hours = Hours(store, names, mask if mask is None else mask.cpu(), cfg.cache_gb)
    series, pairs = Series(hours, lead, cfg.history), parts["train"]
    statistics, mask = statistics.to(device), None if mask is None else mask.to(device)
    forcing = Forcing(store.grid, lead, statistics.names, mask, device)
    grid = {"shape": list(store.grid.shape), "dims": list(store.grid.dims), "forcing": forcing.names, "mask": mask}
    grid["spacing"] = list(store.grid.spacing or (1.0, 1.0))
    longest, chains = 0, pairs
    if rollout_epochs:
        wanted = max(1, round(cfg.rollout_hours / hours_of(lead)))
        longest, chains = longest_chains(store.times, lead, split.train, cfg.history, wanted)
    edge = Boundary(cfg.boundary, store, statistics, mask) if cfg.boundary else None
    if edge and rollout_epochs:
        edge.refuse_missing(chains, lead, longest, "a --boundary store that covers the training part")

    if previous and previous["epoch"] >= cfg.epochs:
        print(f"this run is finished: {previous['epoch']} epochs, {previous['step']} steps; {best_path} is its result")
        return 0

    # ---- model, loss, optimizer
    torch.manual_seed(cfg.seed)
    model = ResidualUNet(
        len(names), len(forcing.names), CLOCK_FEATURES, cfg.base_features, cfg.levels, cfg.blocks, cfg.history,
        statistics.scale, cfg.memory == "lean",
    ).to(device)  # fmt: skip
    ema = copy.deepcopy(model).requires_grad_(False)
    new_optimizer = partial(Optimizers, model, model.hidden_matrices(), cfg.lr, cfg.muon_lr, cfg.weight_decay)
    steps_per_epoch = math.ceil(len(pairs) / (cfg.batch_size * cfg.accumulate))
    one_step = (cfg.epochs - rollout_epochs) * steps_per_epoch
    total, second = cfg.epochs * steps_per_epoch, rollout_epochs * steps_per_epoch
    loss_function = WeatherLoss(tuple(grid["spacing"]), cfg.amplitude, lean=model.lean)
    limit = limiter(statistics, mask)
    changes = [persistence_pair(series, t, statistics, mask) for t in pairs[:: max(len(pairs) // 48, 1)]]
    for width in {cfg.width, cfg.rollout_width}:
        loss_function.set_reference(changes, None if mask is None else ~mask, width)
    learn = Learner(model, loss_function, forcing, statistics, mask, edge, lead, cfg)

    def read(starts: np.ndarray, task: Task) -> tuple:
        """What the learner needs of the store: states, targets and, with a boundary store, its fields."""
        times, stop = starts[list(task.starts)], task.skip + task.steps
        edges = edge.fields(times, lead, stop) if edge is not None and stop > 1 else []
        return series.states(times), series.targets(times, range(task.skip, stop)), edges

    parameters = sum(p.numel() for p in model.parameters())
    print(f"model: {parameters / 1e6:.2f} million parameters on {device}; {total} steps of {cfg.accumulate} x "
          f"{cfg.batch_size} pairs in {cfg.epochs} epochs, the last {rollout_epochs} from its own forecasts of up "
          f"to {hours_of(longest * lead):g} h", flush=True)  # fmt: skip

    # ---- a step of each kind, before anything depends on it
    cases = [(pairs, Task(tuple(range(min(cfg.batch_size, len(pairs)))), 0, 1, 1.0))]
    if rollout_epochs:
        cases.append((chains, longest_task(min(cfg.batch_size, len(chains)), longest, cfg.accumulate)))
    rehearse(learn, read, cases, model, ema, new_optimizer(), cfg)

    # ---- resume
    optimizer = new_optimizer()
    optimizer.schedule(lambda n: two_phases(n, one_step, second, cfg.warmup, cfg.rollout_lr))
    step, epoch, position, best = 0, 0, {"group": 0, **empty_sums()}, -math.inf
    if previous:
        model.load_state_dict(previous["model"])
        ema.load_state_dict(previous["ema"])
        optimizer.load_state_dict(previous["optimizer"], previous["scheduler"])
        step, epoch, position, best = previous["step"], previous["epoch"], previous["position"], previous["rng"]["best"]
        torch.set_rng_state(previous["rng"]["torch"].cpu())
        print(f"resumed at step {step} (epoch {epoch + 1} of {cfg.epochs})", flush=True)
    weights = list(model.parameters())
    run_dir.mkdir(parents=True, exist_ok=True)
    log = read_log(run_dir / "log.jsonl", epoch)

    def checkpoint() -> dict:
        optimizer_state, schedule_state = optimizer.state_dict()
        return {
            "format": FORMAT, "model": model.state_dict(), "ema": ema.state_dict(), "optimizer": optimizer_state,
            "scheduler": schedule_state, "step": step, "epoch": epoch, "position": position,
            "accumulation": cfg.accumulate * cfg.batch_size,
            "rng": {"seed": cfg.seed, "torch": torch.get_rng_state(), "best": best},
            "config": asdict(cfg), "variables": names, "statistics": statistics.as_dict(), "lead": cfg.lead,
            "grid": grid, "split": split_table,
        }  # fmt: skip

    def plan(epoch: int) -> tuple[np.ndarray, list]:
        """The initial times of an epoch and its optimizer steps; counters alone decide."""
        rng = generator(cfg.seed, 1, epoch)
        if epoch < cfg.epochs - rollout_epochs:
            return pairs, pair_tasks(torch.randperm(len(pairs), generator=rng).tolist(), cfg.batch_size, cfg.accumulate)
        order = torch.randperm(len(chains), generator=rng).tolist()
        return chains, rollout_tasks(order, cfg.batch_size, cfg.accumulate, longest, steps_per_epoch, rng)

    @torch.no_grad()
    def forecast(network, time: np.datetime64, steps: int):
        states = normalise(series.states(time[None]).to(device), statistics, mask)
        with autocast(device):
            for state, _ in rollout(
                network, states, lambda k: forcing(time + k * lead), statistics.scale, limit, steps
            ):
                yield denormalise(state[0].float(), statistics)

    # ---- the loop: epochs of optimizer steps; counters alone decide order, mirrors and noise
    floor = torch.tensor([lookup(n).scored_floor for n in names], device=device)[:, None, None]
    check = Validation(
        names,
        forecast,
        lambda t: clip_physical(hours(t).to(device), statistics.names),
        lambda t: torch.maximum(hours(t).to(device), floor),
        lambda k: find_pairs(store.times, lead, split.validation, cfg.history, k),
        max(1, round(cfg.validate_hours / hours_of(lead))),
        lead,
        None if mask is None else ~mask,
        team,
    )
    told = {"unit": "pair", "smoothing": 0.02, "disable": None if team.first else True}
    bar = tqdm(total=cfg.epochs * len(pairs), initial=epoch * len(pairs), **told)
    started, waited, saved, first_step = time.monotonic(), 0.0, time.monotonic(), step
    with RunLock(run_dir) if team.first else nullcontext(), StopRequest() as stop:
        while epoch < cfg.epochs:
            starts, tasks = plan(epoch)
            tasks = tasks[position["group"] :]
            reads = read_ahead(partial(read, starts), [task for group in tasks for task in team.share(group)])
            for group in tasks:
                sums = loss_sums(loss_function.weights, device)
                for number in team.share(list(range(len(group)))):
                    asked = time.monotonic()
                    task, data = next(reads)
                    waited += time.monotonic() - asked
                    rng = generator(cfg.seed, 2, epoch, position["group"], number, device=device)
                    learn(starts[list(task.starts)], task, data, rng, sums)
                team.add_gradients(weights, sums)
                norm = torch.nn.utils.clip_grad_norm_(weights, cfg.clip)
                if not math.isfinite(norm):
                    raise ValueError(
                        f"the gradient is not finite at step {step} (initial times "
                        f"{', '.join(show(starts[i]) for task in group for i in task.starts)}), "
                        f"expected a number. Fix: lower --lr; the last good weights are in {last_path}"
                    )
                optimizer.step()
                update_ema(ema, model, step)
                step += 1
                if cfg.empty_cache_every and step % cfg.empty_cache_every == 0:
                    release(device)
                position["group"] += 1
                add_step(position, sums, loss_function.weights, float(norm))
                bar.update(len(pairs) / steps_per_epoch)
                skill = f", skill {log[-1]['score']:+.3f}" if log else ""
                bar.set_postfix_str(f"loss {position['loss'] / position['samples']:.3f}{skill}", refresh=False)
                stopped = team.highest(stop.received)
                if team.first and (stopped or time.monotonic() - saved > cfg.save_every * 60):
                    save_checkpoint(checkpoint(), last_path, keep_previous=True)
                    saved = time.monotonic()
                if stopped:
                    bar.close()
                    return say_stopped(stopped, step, last_path)
            epoch += 1
            position["group"] = 0
            if epoch % cfg.validate_every and epoch < cfg.epochs:
                continue

            # ---- validation: the averaged weights, physical units, against persistence
            release(device)
            scores = {**check(ema), "rollout_hours": check.steps * hours_of(lead)}
            if not any(r["epoch"] > cfg.epochs - rollout_epochs for r in log) and starts is not pairs:
                best = -math.inf  # a sharp forecast pays in RMSE: the best of the fine-tuned ones is what is wanted
            release(device)
            elapsed = time.monotonic() - started
            record = {
                "epoch": epoch, "step": step, "samples": epoch * len(pairs),
                "loss": position["loss"] / position["samples"],
                "terms": {k: v / position["samples"] for k, v in position["terms"].items()},
                "lr": optimizer.lr, "grad_norm": position["grad_norm"] / position["steps"], **scores,
                "samples_per_s": (step - first_step) * len(pairs) / steps_per_epoch / elapsed,
                "data_wait": waited / elapsed, "peak_memory_bytes": peak_memory_bytes(device), "split": split_table,
            }  # fmt: skip
            log.append(record)
            position = {"group": 0, **empty_sums()}
            better, best = record["score"] > best, max(best, record["score"])
            left = elapsed / max(step - first_step, 1) * (total - step)
            units = {n: lookup(n).units for n in names}
            tqdm.write(validation_line(record, units, show_duration(lead), cfg.epochs, left, better))
            if record["alarm"]:
                tqdm.write(record["alarm"])
            # last.pt comes last: killed before it, the run validates again and writes the same files once more
            if team.first:
                if better:
                    save_checkpoint(checkpoint(), best_path)
                write_log(log, run_dir / "log.jsonl")
                save_loss_curves(log, run_dir / "loss_curves.png")
                save_checkpoint(checkpoint(), last_path, keep_previous=True)
            saved = time.monotonic()
            if stopped := team.highest(stop.received):  # the signal came during validation
                return say_stopped(stopped, step, last_path)
    bar.close()
    print(f"done: best validation skill {best:+.3f}; wrote {best_path}, {last_path}, log.jsonl and loss_curves.png")
    return 0


def persistence_pair(series: Series, time: np.datetime64, statistics: Statistics, mask) -> list[torch.Tensor]:
    """The fields (1, C, H, W) at `time` and one lead later, in units of the change: the forecast and truth of
    persistence, whose loss is the unit of the terms."""
    fields = (series.states(time[None])[:, -1], series.targets(time[None], range(1))[0])
    return [normalise(x.to(statistics.mean.device), statistics, mask) / statistics.scale for x in fields]


LOWEST = {
    "epochs": 1, "batch_size": 1, "accumulate": 1, "base_features": 1, "levels": 0, "blocks": 1, "history": 0,
    "muon_lr": 0.0, "rollout_epochs": 0, "width": 0.0, "rollout_width": 0.0, "amplitude": 0.0, "noise": 0.0,
    "season": 0.0, "level": 0.0, "weight_decay": 0.0, "warmup": 0.0, "validate_every": 1, "save_every": 0.0,
    "cache_gb": 0.0, "seed": 0, "memory_gb": 0.0, "empty_cache_every": 0,
}  # fmt: skip
POSITIVE = ("lr", "clip", "validate_hours", "rollout_hours", "rollout_lr")


if __name__ == "__main__":
    run(Config, main, __doc__)
