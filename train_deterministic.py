"""Train the residual UNet on pairs (t, t + lead) of a training store.

    python train_deterministic.py                                       # the constants below
    python train_deterministic.py --zarr data/hrrr.zarr --run_dir runs/hrrr --epochs 200
    python train_deterministic.py --zarr data/hrrr.zarr --run_dir runs/hrrr --epochs 200   # again: goes on

Writes into run_dir: last.pt (to resume), best.pt (highest validation skill; enough to forecast), previous.pt,
log.jsonl (one line per validation) and loss_curves.png. Exit codes: 0 done, 2 an error in one line, 129, 130
and 143 stopped by a closed terminal, Ctrl-C and SIGTERM after a save (docs/faults.md: what is done about faults in the
night).
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

from data.cache import block_order
from data.command import refuse_file_above, run
from data.dataset import read_ahead
from data.forcing import CLOCK_FEATURES
from data.times import hours_of, show_duration
from data.variables import lookup
from losses.weather import WeatherLoss
from models.regression import fit_regression
from models.unet import ResidualUNet
from plotting.curves import save_loss_curves
from train_data import REGRESSED, TrainingData
from train_sharpen import measure_after
from train_step import Learner, accumulate
from train_trouble import after_setback, investigate, leave_out
from train_validation import build_validation, save_preview
from training.checkpoint import FORMAT, newest_checkpoint, save_checkpoint
from training.constants import refuse_constants
from training.device import choose_device, peak_memory_bytes, release
from training.files import remove_leftovers, writing
from training.lock import RunLock
from training.log import add_step, averages, empty_sums, read_log, validation_line, write_log
from training.optimizer import Optimizers
from training.progress import Progress
from training.rehearsal import rehearse
from training.resume import refuse_other_run
from training.schedule import Task, generator, pair_tasks, rollout_tasks, two_phases, update_ema
from training.signals import StopRequest, say_stopped
from training.team import Team
from training.trouble import Exploded, OutOfMemory, forget_loss, is_finite, watch


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
    blocks: int = 4  # residual blocks on the coarsest cells; finer levels have one down and one up
    history: int = 1  # hours before the present one that the model sees: motion shows in two, not in one
    regression: bool = False  # begin with a linear regression on those hours; worth it where history is a day
    lr: float = 1.5e-3  # peak learning rate of AdamW (biases, inputs, outputs)
    muon_lr: float = 3e-3  # peak learning rate of Muon (weights between hidden features); 0: AdamW for all
    weight_decay: float = 0.01  # decoupled weight decay
    warmup: float = 0.03  # share of all optimizer steps with a rising learning rate
    width: float = 2.0  # cells over which L1, MSE and gradient see errors smoothed; finer detail is the spectral term's
    amplitude: float = 12.0  # weight of the amount of detail against its place in the spectral term
    edge_weight: float = 1.0  # of errors in the outermost cells (25, at most 8 % of the side) in L1, MSE and gradient
    clip: float = 1.0  # highest norm of the gradient
    rollout_epochs: int = 20  # last epochs (at most half of all): the model goes on from its own forecasts
    rollout_hours: float = 24.0  # length of those forecasts, hours
    rollout_accumulate: int = 0  # batches per step in roll-outs, up to four of them hours in turn; 0: accumulate
    rollout_lr: float = 0.5  # peak learning rates in those epochs, as a share of the others
    rollout_width: float = 8.0  # width from the second step of those forecasts on
    rollout_amplitude: float = 12.0  # amplitude from the second step of a roll-out on
    boundary: str = ""  # store that gives the edge of the domain in those epochs; empty: no boundary data
    sharpen: bool = True  # at the end, measure how much detail forecasts lose, to give it back
    restrain: bool = True  # at the end, hold the variables that validation does not show to be better than persistence
    noise: float = 0.05  # noise on the input, in standard deviations of the change over one step
    flip: bool = True  # mirror training pairs in x and y
    shift: bool = True  # let the model's coarse cells lie anywhere on the grid, at random; against lines of their width
    season: float = 20.0  # days by which the day of the year told in training is off, standard deviation
    validate_every: int = 5  # epochs between validations
    validate_hours: float = 6.0  # length of the roll-out in each validation, hours
    preview_every: int = 50  # epochs between looks at a forecast in preview.png (at a validation); 0: none
    quiet: bool = False  # print errors only; log.jsonl has the rest
    save_every: float = 10.0  # minutes between saves of last.pt
    patience: float = 10.0  # minutes for which an hour of the store that cannot be read is tried again
    skip_steps: int = 0  # steps left out for such an hour or a loss that is not finite; one more ends the run
    explode: float = 20.0  # a loss so many times its mean, thrice in a row: once, back and half the rates; 0: never
    cache_gb: float = -1.0  # memory for decoded hours, GB; below 0: what is free
    tensorboard: bool = True  # event files in run_dir/tensorboard too, where tensorboard is installed
    memory: Literal["lean", "fast"] = "lean"  # lean: full CONUS below 1 GB; fast: keeps what lean computes twice
    half: bool = False  # bfloat16 on CPUs with matrix units for it: a third faster, less exact on short, smooth records
    memory_gb: float = 0.0  # refuse to begin where a step peaks above, GB; 0: no limit
    empty_cache_every: int = 0  # optimizer steps between returns of unused memory to the GPU; 0: only at validations
    seed: int = 0  # of initial weights, order, mirrors and noise


LOWEST = {
    "epochs": 1, "batch_size": 1, "accumulate": 1, "base_features": 1, "levels": 0, "blocks": 1, "history": 0,
    "muon_lr": 0.0, "rollout_epochs": 0, "width": 0.0, "rollout_width": 0.0, "amplitude": 0.0, "rollout_amplitude": 0.0,
    "noise": 0.0, "season": 0.0, "weight_decay": 0.0, "warmup": 0.0, "validate_every": 1, "save_every": 0.0,
    "cache_gb": -1.0, "seed": 0, "memory_gb": 0.0, "empty_cache_every": 0, "patience": 0.0, "skip_steps": 0,
    "explode": 0.0, "preview_every": 0, "rollout_accumulate": 0, "edge_weight": 0.0,
}  # fmt: skip
POSITIVE = ("lr", "clip", "validate_hours", "rollout_hours", "rollout_lr")


def main(cfg: Config) -> int:
    with Team(cfg.quiet) as team:
        return train(cfg, team)


def train(cfg: Config, team: Team) -> int:
    """Prepare, then train; again from the last checkpoint where the loss explodes or the memory runs out."""
    refuse_constants(cfg, LOWEST, POSITIVE)
    run_dir, device = Path(cfg.run_dir), choose_device()
    refuse_file_above(run_dir, "run_dir")
    with RunLock(run_dir) if team.first else nullcontext():
        previous, note = newest_checkpoint(run_dir, device)
        if note:
            print(f"note: {note}", flush=True)
        if previous:
            refuse_other_run(asdict(cfg), previous["config"], run_dir / "last.pt")
        if previous and previous["epoch"] > 0 and previous["config"]["epochs"] < cfg.epochs:
            told = f"{previous['config']['epochs']} epochs and goes on to {cfg.epochs}"
            print(f"note: this run was planned for {told}; the learning rate rises again, so it is not quite one of "
                  f"{cfg.epochs} from the start", flush=True)  # fmt: skip
        data = TrainingData(cfg, previous, device)
        if previous and previous["epoch"] >= cfg.epochs:
            if stopped := measure_after(cfg, team, data, build_model(cfg, data, fit=False)):
                return say_stopped(stopped, previous["step"], run_dir / "last.pt")
            done = f"{previous['epoch']} epochs, {previous['step']} steps"
            print(f"this run is finished: {done}; {run_dir / 'best.pt'} is its result")
            return 0
        rate = 1.0
        while True:
            try:
                return train_epochs(cfg, team, data, previous, rate)
            except (Exploded, OutOfMemory, torch.OutOfMemoryError) as error:
                setback = error.with_traceback(None)  # which would keep the memory
            release(device)
            team.highest(0)  # nobody reads before the first process has written
            previous, cfg, rate = after_setback(setback, cfg, rate, run_dir, device, team)


def train_epochs(cfg: Config, team: Team, data: TrainingData, previous: dict | None, rate: float) -> int:
    run_dir, device = Path(cfg.run_dir), data.device
    last_path, best_path = run_dir / "last.pt", run_dir / "best.pt"

    # ---- model, loss, optimizer; a step of each kind, before anything depends on it
    model = build_model(cfg, data, fit=previous is None)
    ema = copy.deepcopy(model).requires_grad_(False)
    parts = data.forcing, data.statistics, data.mask, data.edge, data.lead
    learn = Learner(model, build_loss(cfg, data, model.lean), *parts, cfg)
    new_optimizer = partial(Optimizers, model, model.hidden_matrices(), cfg.lr, cfg.muon_lr, cfg.weight_decay)
    total = cfg.epochs * data.steps_per_epoch
    parameters = sum(p.numel() for p in model.parameters())
    print(f"model: {parameters / 1e6:.2f} million parameters on {device}; {total} steps of {cfg.accumulate} x "
          f"{cfg.batch_size} pairs in {cfg.epochs} epochs, the last {data.rollout_epochs} from its own forecasts of up "
          f"to {hours_of(data.longest * data.lead):g} h", flush=True)  # fmt: skip
    rehearse(learn, data.read, data.largest_tasks(cfg), model, ema, new_optimizer(), cfg)

    # ---- resume
    optimizer = new_optimizer()
    second = data.rollout_epochs * data.steps_per_epoch
    at = Progress.of(previous) if previous else Progress()
    at.guard["rate"] = min(rate, at.guard["rate"])
    data.keep_hours(cfg, team, at)
    factor = partial(two_phases, first=total - second, second=second, warmup=cfg.warmup, factor=cfg.rollout_lr)
    optimizer.schedule(lambda n: at.guard["rate"] * factor(n))
    if previous:
        model.load_state_dict(previous["model"])
        ema.load_state_dict(previous["ema"])
        optimizer.load_state_dict(previous["optimizer"], previous["scheduler"])
        print(f"resumed at step {at.step} (epoch {at.epoch + 1} of {cfg.epochs})", flush=True)
    team.refuse_difference(at.step)
    if team.first:
        remove_leftovers(run_dir)
    log = read_log(run_dir / "log.jsonl", at.epoch)

    def save(path: Path, keep_previous: bool = False) -> None:
        optimizer_state, schedule_state = optimizer.state_dict()
        checkpoint = {
            "format": FORMAT, "model": model.state_dict(), "ema": ema.state_dict(), "optimizer": optimizer_state,
            "scheduler": schedule_state, **at.entries(cfg.seed), "accumulation": cfg.accumulate * cfg.batch_size,
            "config": asdict(cfg), "variables": data.names, "statistics": data.statistics.as_dict(), "lead": cfg.lead,
            "grid": data.grid, "split": data.split_table,
        }  # fmt: skip
        save_checkpoint(checkpoint, path, keep_previous=keep_previous)

    # ---- the loop: epochs of optimizer steps; counters alone decide order, mirrors and noise
    check = build_validation(cfg, data, team)
    pairs_per_step = len(data.pairs) / data.steps_per_epoch
    shown = team.first and not cfg.quiet
    with StopRequest() as stop:
        while at.epoch < cfg.epochs:
            starts, groups = plan(cfg, data, at.epoch)
            if at.epoch == cfg.epochs - data.rollout_epochs and not at.position["group"]:
                forget_loss(at.guard)  # that of roll-outs is another
            bar = at.bar(cfg.epochs, len(data.pairs), at.position["group"] * pairs_per_step, shown)
            groups = groups[at.position["group"] :]
            tasks = [task for group in groups for task in team.share(group)]
            reads = read_ahead(partial(data.try_to_read, starts), tasks)
            for group in groups:
                sums, lost = accumulate(learn, starts, group, reads, at, team)
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)
                if lost or not is_finite(norm, sums):
                    lost = lost or investigate(learn, data, starts, group, at, team, run_dir)
                    leave_out(lost, at, cfg)
                    optimizer.skip()
                else:
                    optimizer.step()
                    update_ema(ema, model, at.step)
                    add_step(at.position, sums, learn.loss.weights, float(norm))
                    watch(at.guard, float(sums[1] / sums[0]), cfg.explode)
                at.step += 1
                at.position["group"] += 1
                if cfg.empty_cache_every and at.step % cfg.empty_cache_every == 0:
                    release(device)
                bar.update(min(pairs_per_step, bar.total - bar.n))
                skill = f", skill {log[-1]['score']:+.3f}" if log else ""
                bar.set_postfix_str(f"loss {at.mean_loss:.3f}{skill}", refresh=False)
                at.tell_end(total)
                stopped = team.highest(stop.received or team.orphaned)
                due = not at.guard["high"] and time.monotonic() - at.saved > cfg.save_every * 60
                if team.first and (stopped or due):
                    save(last_path, keep_previous=True)
                    at.saved = time.monotonic()
                if stopped:
                    bar.close()
                    return say_stopped(stopped, at.step, last_path)
            bar.close()
            at.epoch += 1
            at.position["group"] = 0
            if at.epoch % cfg.validate_every and at.epoch < cfg.epochs:
                continue

            # ---- validation: the averaged weights, physical units, against persistence
            release(device)
            scores = check(ema)
            release(device)
            fine_tuned = cfg.epochs - data.rollout_epochs  # epochs before those from its own forecasts
            if at.epoch > fine_tuned and not any(r["epoch"] > fine_tuned for r in log):
                at.best = -math.inf  # a sharp forecast pays in RMSE: the best of the fine-tuned ones is what is wanted
            better, at.best = scores["score"] > at.best, max(at.best, scores["score"])
            log.append({
                "epoch": at.epoch, "step": at.step, "samples": at.epoch * len(data.pairs), **averages(at.position),
                "lr": optimizer.lr, **scores, "rollout_hours": check.steps * hours_of(data.lead),
                **at.timing(pairs_per_step), "peak_memory_bytes": peak_memory_bytes(device), "split": data.split_table,
                "own_forecasts": at.epoch > fine_tuned, "skipped_steps": at.guard["skipped"], "rate": at.guard["rate"],
            })  # fmt: skip
            at.position = {"group": 0, **empty_sums()}
            units = {n: lookup(n).units for n in data.names}
            tqdm.write(validation_line(log[-1], units, show_duration(data.lead), cfg.epochs, at.left(total), better))
            if scores["alarm"]:
                tqdm.write(scores["alarm"])
            # last.pt comes last: killed before it, the run validates again and writes the same files once more
            if team.first:
                if better:
                    save(best_path)
                write_log(log, run_dir / "log.jsonl")
                with writing(run_dir / "loss_curves.png", run_dir / "loss_curves.tmp.png"):
                    save_loss_curves(log, run_dir / "loss_curves.png")
                save(last_path, keep_previous=True)
                if cfg.preview_every and (at.epoch % cfg.preview_every == 0 or at.epoch == cfg.epochs):
                    save_preview(last_path, data, check.steps, cfg.history, run_dir / "preview.png")
            at.saved = time.monotonic()
            if stopped := team.highest(stop.received or team.orphaned):  # the signal came during validation
                return say_stopped(stopped, at.step, last_path)
    if stopped := measure_after(cfg, team, data, model):
        return say_stopped(stopped, at.step, last_path)
    print(f"done: best mean skill in validation {at.best:+.3f}; wrote {best_path}, {last_path}, log.jsonl and "
          f"loss_curves.png. Next: infer_iterative.py --checkpoint {best_path} --zarr {cfg.zarr} --init_time test "
          f"--out {run_dir / 'forecast.zarr'}")  # fmt: skip
    return 0


def build_model(cfg: Config, data: TrainingData, fit: bool) -> ResidualUNet:
    """The model with its initial weights, which the seed decides; fit: and those of its regression."""
    torch.manual_seed(cfg.seed)
    sizes = len(data.names), len(data.forcing.names), CLOCK_FEATURES, cfg.base_features, cfg.levels, cfg.blocks
    model = ResidualUNet(*sizes, cfg.history, data.statistics.scale, cfg.memory == "lean", cfg.regression)
    model.to(data.device)
    if cfg.regression and fit:
        model.regression.copy_(fit_regression(data.samples(REGRESSED), model.scale, data.valid))
    return model


def build_loss(cfg: Config, data: TrainingData, lean: bool) -> WeatherLoss:
    """The loss; its terms are in units of those of persistence over the training pairs."""
    weights = {"later": cfg.rollout_amplitude, "edge_weight": cfg.edge_weight}
    loss = WeatherLoss(tuple(data.grid["spacing"]), cfg.amplitude, lean=lean, **weights)
    changes = list(data.changes())
    for width in {cfg.width, cfg.rollout_width}:
        loss.set_reference(changes, data.valid, width)
    return loss


def plan(cfg: Config, data: TrainingData, epoch: int) -> tuple[np.ndarray, list[list[Task]]]:
    """The initial times of an epoch and its optimizer steps; counters alone decide."""
    rng = generator(cfg.seed, 1, epoch)
    if epoch < cfg.epochs - data.rollout_epochs:
        order = block_order(len(data.pairs), data.blocks[0], rng)
        return data.pairs, pair_tasks(order, cfg.batch_size, cfg.accumulate)
    order = block_order(len(data.chains), data.blocks[1], rng)
    batches = cfg.rollout_accumulate or cfg.accumulate
    groups = rollout_tasks(order, cfg.batch_size, batches, data.longest, data.steps_per_epoch, rng)
    return data.chains, groups


if __name__ == "__main__":
    run(Config, main, __doc__)
