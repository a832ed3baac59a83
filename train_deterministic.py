"""Train the residual UNet on pairs (t, t + lead) of a training store.

    python train_deterministic.py                                       # the constants below
    python train_deterministic.py --zarr data/hrrr.zarr --run_dir runs/hrrr --epochs 200
    torchrun --nproc_per_node=4 train_deterministic.py ...              # the same run on several GPUs

Run the same command again after any interruption: it goes on from the last save. Writes into run_dir: last.pt (to
resume), best.pt (the roll-out epochs' weights with the highest validation skill; enough to forecast), previous.pt,
log.jsonl (one line per validation) and loss_curves.png. Exit codes: 0 done, 2 an error in one line, 128 + n stopped by
signal n after a save.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from data.augment import Mirror, draw_flips, state_parity
from data.boundary import Boundary
from data.command import refuse_file_above, run
from data.dataset import Hours, Pairs, Split, find_pairs, longest_chains, read_ahead, split_by_date
from data.forcing import CLOCK_FEATURES, Forcing
from data.normalise import Statistics, compute_statistics, limiter
from data.quick_check import describe, mask_notes, quick_check
from data.store import Store
from data.times import hours_of, parse_duration, show_duration
from data.variables import lookup
from losses.weather import TERMS, WeatherLoss
from models.regression import fit_regression
from models.rollout import push
from models.unet import ResidualUNet
from plotting.curves import save_loss_curves
from training.checkpoint import FORMAT, newest_checkpoint, replace_file, save_checkpoint
from training.constants import RANGES, check_constants, check_data, check_resume
from training.device import choose_device, free_memory, half_precision, peak_memory_bytes
from training.log import ProgressLine, read_log, validation_line, write_log
from training.optimizer import Optimizer
from training.processes import Processes
from training.schedule import Batch, ema_decay, epochs_until, generator, learning_rate, plan_pairs, plan_rollouts
from training.signals import RunLock, StopRequest, exit_code
from verification.validation import Validation, physical_forecasts


@dataclass
class Config:
    # ---- data
    zarr: str = "data/hrrr.zarr"  # training store
    run_dir: str = "runs/hrrr"  # folder for everything that is written; the same folder resumes
    variables: list[str] = field(default_factory=list)  # names, space-separated; empty: all that the table knows
    train_end: str = ""  # last training time, ISO, UTC; empty: 70 % of the record
    val_end: str = ""  # last validation time; empty: 85 % of the record; after it, test
    gap: str = ""  # pause between the parts; empty: 24h, or less for records under 5 days
    lead: str = "1h"  # length of one step
    boundary: str = ""  # host store for the edge of the domain in roll-outs, on any grid; empty: none
    # ---- model
    history: int = 1  # past steps that the model sees; with 24 h or more it adds a linear regression on them
    base_features: int = 40  # features at half the resolution
    levels: int = 2  # halvings of the resolution below these cells
    memory: Literal["lean", "fast"] = "lean"  # lean: full CONUS below 1 GB; fast: keep what lean computes twice
    # ---- loss
    loss_weights: tuple[float, float, float, float] = (0.4, 0.3, 0.2, 0.1)  # L1, spectral, MSE, gradient
    detail: float = 10.0  # spectral term: weight of amplitude errors relative to phase errors
    # ---- optimizer
    epochs: int = 200  # passes over the training pairs
    until: str = ""  # local time such as 07:00: as many epochs, at most `epochs`, as end before it
    batch_size: int = 1  # pairs per forward pass
    accumulate: int = 16  # forward passes per optimizer step
    lr: float = 1.5e-3  # peak learning rate of AdamW; Muon's is twice as high; cosine decay
    weight_decay: float = 0.01  # decoupled weight decay
    clip: float = 1.0  # largest norm of the gradient
    # ---- augmentation
    flip: bool = True  # mirror training pairs in x and y at random
    noise: float = 0.05  # input noise, in standard deviations of the change over one step
    # ---- roll-outs
    rollout_epochs: int = 20  # last epochs, at most a fifth of all: training on the model's own forecasts
    rollout_hours: float = 24.0  # length of those forecasts, hours
    # ---- run
    validate_every: int = 5  # epochs between validations
    save_every: float = 10.0  # minutes between saves of last.pt
    seed: int = 0  # of initial weights, order, mirrors and noise


MAY_CHANGE = {"zarr", "run_dir", "epochs", "until", "memory", "validate_every", "save_every"}  # in a resumed run
CALIBRATED, SAMPLED = 6, 32  # leads at which the loss is calibrated, and pairs of fields for each
REGRESSED = 256  # training pairs that the linear regression is fitted to
MOST_SKIPPED = 10  # steps in a row without a finite gradient, after which the run stops


def main(cfg: Config) -> int:
    check_constants(cfg, RANGES)
    refuse_file_above(Path(cfg.run_dir), "run_dir")
    with Processes() as processes, RunLock(Path(cfg.run_dir)) if processes.first else nullcontext():
        return train(cfg, processes)


@dataclass
class Parts:
    """What a training step needs beside its batch."""

    cfg: Config
    optimizer: Optimizer
    loss: WeatherLoss
    forcing: Forcing
    limit: Callable
    statistics: Statistics
    mask: torch.Tensor | None  # (C, H, W) True where a variable is missing in every hour
    edge: Boundary | None
    lead: np.timedelta64


def learn(parts: Parts, batch: Batch, tensors: tuple, rng: torch.Generator) -> torch.Tensor:
    """One batch: forward, loss, backward, for each step of its forecasts. Adds the gradient to the optimizer's.

    tensors: initial times (B,), states (B, T, C, H, W), the truth (B, C, H, W) of each step with a gradient, and the
    boundary of each step before the last. Returns the sums of samples, loss and terms, on the device.
    """
    cfg, mask, scale, device = parts.cfg, parts.mask, parts.statistics.scale, parts.statistics.mean.device
    times, states, truth, edges = tensors
    parity = state_parity(parts.statistics.names, device)
    mirror = Mirror(draw_flips(rng), states.shape[-2:]) if cfg.flip else lambda x, parity: x

    def mirrored(x, parity):
        return mirror(x.to(device, non_blocking=True), parity)

    hidden = None if mask is None else mirrored(mask.float(), torch.ones_like(parity)).bool()
    states = mirrored(states, parity)
    noise = torch.randn(states.shape, generator=rng, device=device)
    states = torch.addcmul(states, noise if hidden is None else noise.masked_fill_(hidden, 0.0), cfg.noise * scale)
    del noise
    sums = torch.zeros(2 + len(TERMS), device=device)
    # `skip` steps without gradient, then `steps` with one each: the state is detached from step to step
    for k in range(batch.skip + batch.steps):
        fields, clock = parts.forcing(times + k * parts.lead)
        fields = mirrored(fields, parts.forcing.parity)
        with torch.set_grad_enabled(k >= batch.skip):
            change = parts.optimizer.network(states, fields, clock)
        pred = change.detach().mul_(scale).add_(states[:, -1])  # the residual: x(t + lead) = x(t) + scale * change
        del fields
        state, _ = parts.limit(pred, hidden, count=False)  # what a forecast goes on from; the loss sees it
        if k + 1 < batch.skip + batch.steps:
            edge = None if parts.edge is None else mirrored(edges[k], parity)
            states = push(states, state if edge is None else parts.edge.nudge(state, edge))
        else:
            states = None
        if k >= batch.skip:
            target = mirrored(truth[k - batch.skip], parity) / scale
            beyond = (state - pred).sign_().to(torch.int8)
            error = torch.div(state, scale, out=pred).sub_(target)  # in the memory of the prediction and the change
            del state, pred
            loss, terms, gradient = parts.loss(error, target, None if hidden is None else ~hidden, k + 1)
            gradient.masked_fill_(beyond * gradient > 0, 0.0)  # a value beyond a bound is as good as the bound
            torch.mul(gradient, batch.share, out=error)
            del target, gradient, beyond
            change.backward(error)
            parts.optimizer.collect()
            sums += len(times) * torch.stack([loss.new_ones(()), loss, *(terms[n].mean() for n in TERMS)])
        change = pred = error = state = None
    return sums


def train(cfg: Config, processes: Processes) -> int:
    # ------------------------------------------------------------------------ setup
    run_dir, device = Path(cfg.run_dir), choose_device()
    last_path, best_path, log_path = run_dir / "last.pt", run_dir / "best.pt", run_dir / "log.jsonl"
    previous, note = newest_checkpoint(run_dir, device)
    if note:
        print(f"note: {note}")
    if previous:
        cfg = replace(cfg, epochs=previous["config"]["epochs"]) if cfg.until else cfg
        check_resume(asdict(cfg), previous["config"], MAY_CHANGE, last_path)
    elif cfg.until:
        epochs_until(cfg.until, 1.0, 1)  # a mistyped time shows at once

    # ------------------------------------------------------------------------ data
    store, lead = Store(cfg.zarr), parse_duration(cfg.lead, "lead")
    names = store.choose(cfg.variables, "name another with --variables")
    store.notes += quick_check(store, names)
    dates = cfg.train_end, cfg.val_end, cfg.gap
    split = Split.from_dict(previous["split"]) if previous else split_by_date(store.times, lead, *dates, cfg.history)
    starts = {p: find_pairs(store.times, lead, getattr(split, p), cfg.history) for p in ("train", "validation", "test")}
    split_table = {**split.as_dict(), "pairs": {p: len(times) for p, times in starts.items()}}
    print(describe(store, names, split, starts, lead, cfg.history), flush=True)
    if previous:
        found = {"variables": names, "grid": list(store.grid.shape), "pairs": split_table["pairs"]}
        before = {"grid": previous["grid"]["shape"], "pairs": previous["split"]["pairs"]}
        check_data(found, {"variables": previous["variables"], **before}, cfg.zarr)
        if previous["epoch"] >= cfg.epochs:
            done = f"{previous['epoch']} epochs, {previous['step']} steps"
            print(f"this run is finished: {done}; {best_path} is its result")
            return 0
        statistics, mask = Statistics.from_dict(previous["statistics"]), previous["grid"]["mask"]
    else:
        inside = [(store.times >= first) & (store.times <= last) for first, last in (split.train, split.validation)]
        statistics, mask = compute_statistics(store, names, *(np.sort(store.times[i]) for i in inside), lead)
    for note in store.notes + mask_notes(names, mask):
        print(f"note: {note}")
    statistics, mask = statistics.to(device), None if mask is None else mask.to(device)
    hours = Hours(store, names, statistics, mask, free_memory() // 2 // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    pairs = Pairs(hours, starts["train"], lead, cfg.history)
    forcing, limit = Forcing(store.grid, lead, tuple(names), mask, device), limiter(statistics, mask)
    rollout_epochs = min(cfg.rollout_epochs, cfg.epochs // 5)
    wanted = max(1, round(cfg.rollout_hours / hours_of(lead)))
    longest, chain_starts = longest_chains(store.times, lead, split.train, cfg.history, wanted)
    chains = Pairs(hours, chain_starts, lead, cfg.history)
    edge = Boundary(cfg.boundary, store, statistics, mask) if cfg.boundary else None
    if edge and rollout_epochs:
        edge.refuse_missing(chains.times, lead, longest, "a --boundary store that covers the training part")

    # ------------------------------------------------------------------------ model, loss, optimizer
    scale, valid = statistics.scale, None if mask is None else ~mask
    torch.manual_seed(cfg.seed)
    regression = cfg.history * lead >= np.timedelta64(24, "h")
    sizes = len(names), len(forcing.names), CLOCK_FEATURES, cfg.base_features, cfg.levels, cfg.history
    model = ResidualUNet(*sizes, scale, cfg.memory == "lean", regression).to(device, memory_format=torch.channels_last)
    if regression and not previous:
        sampled = np.linspace(0, len(pairs) - 1, min(REGRESSED, len(pairs))).round().astype(int)
        tensors = ((x.to(device) for x in pairs[i]) for i in sampled)
        model.regression.copy_(fit_regression(tensors, scale, valid))
    loss_fn = WeatherLoss(cfg.loss_weights, cfg.detail, groups=2 if cfg.memory == "lean" else 1)

    def sampled(k: int) -> Iterator:
        """Fields (1, C, H, W) k steps apart, of the training part, in the units of the loss."""
        cases = Pairs(hours, find_pairs(store.times, lead, split.train, 0, k), k * lead, 0)
        for i in np.linspace(0, len(cases) - 1, SAMPLED).round().astype(int):
            yield tuple(x.reshape(1, *x.shape[-3:]).to(device) / scale for x in cases[i])

    loss_fn.set_usual(truth for _, truth in sampled(1))
    for k in sorted({round(longest**x) for x in np.linspace(0, 1, CALIBRATED)}):  # leads in steps
        loss_fn.calibrate(k, sampled(k), valid)
    optimizer = Optimizer(model, cfg.lr, cfg.weight_decay, cfg.clip, half_precision(device))
    if previous:
        optimizer.load(previous["model"], previous["ema"], previous["optimizer"])
    parts = Parts(cfg, optimizer, loss_fn, forcing, limit, statistics, mask, edge, lead)

    def read(batch: Batch) -> tuple:
        """What `learn` needs of the store for a batch."""
        data, end = (chains if batch.skip + batch.steps > 1 else pairs), batch.skip + batch.steps
        times, states, truth = data.batch(batch.starts, range(batch.skip, end))
        return times, states, truth, [edge.fields(times, k * lead) for k in range(1, end)] if edge else []

    # ------------------------------------------------------------------------ the plan of an epoch
    def plan(epoch: int) -> list:
        """Optimizer steps, each a list of batches; the seed and the epoch alone decide."""
        rng = generator(cfg.seed, 1, epoch)
        if epoch < cfg.epochs - rollout_epochs:
            return plan_pairs(len(pairs), cfg.batch_size, cfg.accumulate, rng)
        return plan_rollouts(len(chains), len(pairs), cfg.batch_size, cfg.accumulate, longest, rng)

    # ------------------------------------------------------------------------ a trial, then how many epochs until ...
    milliseconds, counts = [], []
    for steps in (plan(0), plan(cfg.epochs - 1)):
        began = time.monotonic()
        try:
            for batch in processes.share(steps[0]):
                learn(parts, batch, read(batch), generator(0, device=device))
        except torch.OutOfMemoryError as error:
            lean = "--memory lean, or " if cfg.memory == "fast" else ""
            raise ValueError(f"memory: a {cfg.memory} step does not fit on {device}, expected room for it. Fix: {lean}"
                             "a smaller --batch_size or --base_features") from error  # fmt: skip
        milliseconds.append(processes.highest(round(1000 * (time.monotonic() - began))))  # the slowest sets the pace
        counts.append(len(steps))
    optimizer.clear()
    if cfg.until and not previous:
        share = rollout_epochs / cfg.epochs
        per_epoch = ((1 - share) * counts[0] * milliseconds[0] + share * counts[1] * milliseconds[1]) / 1000
        cfg = replace(cfg, epochs=epochs_until(cfg.until, per_epoch, cfg.epochs))
        rollout_epochs = min(cfg.rollout_epochs, cfg.epochs // 5)
        print(f"training plans {cfg.epochs} epochs to end before {cfg.until} local time")
    phases = (cfg.epochs - rollout_epochs) * counts[0], rollout_epochs * counts[1]
    millions, peak = sum(p.numel() for p in model.parameters()) / 1e6, peak_memory_bytes(device) / 1e9
    print(f"model: {millions:.2f} million parameters in {str(half_precision(device))[6:]} on {device}, peak memory "
          f"{peak:.2f} GB\n{sum(phases)} steps of {cfg.accumulate} x {cfg.batch_size} pairs in "
          f"{cfg.epochs} epochs, the last {rollout_epochs} on forecasts of up to {hours_of(longest * lead):g} h",
          flush=True)  # fmt: skip

    # ------------------------------------------------------------------------ validation: skill over persistence
    held_out = Pairs(hours, starts["validation"], lead, cfg.history)
    forecast, truth = physical_forecasts(held_out, forcing, limit, statistics)
    with_truth = partial(find_pairs, store.times, lead, split.validation, cfg.history)  # for so many steps
    validate = Validation(names, forecast, truth, with_truth, lead, valid, max(cfg.batch_size, 4), processes)

    # ------------------------------------------------------------------------ resume
    epoch, step, best = 0, 0, -math.inf
    sums, position = np.zeros(4 + len(TERMS)), {"batch": 0}  # samples, loss, terms; then steps and their norms
    if previous:
        epoch, step, position = previous["epoch"], previous["step"], dict(previous["position"])
        best, sums = position["best"], np.array(position["sums"])
        print(f"resumed at step {step} (epoch {epoch + 1} of {cfg.epochs})", flush=True)
    processes.same(step, "last.pt at step")
    log = read_log(log_path, epoch)
    grid = {"shape": list(store.grid.shape), "dims": list(store.grid.dims), "forcing": forcing.names,
            "mask": None if mask is None else mask.cpu(), **store.facts()}  # fmt: skip

    def save(path: Path, keep_previous: bool = False) -> None:
        if processes.first:
            save_checkpoint({
                "format": FORMAT, "model": model.state_dict(), "ema": optimizer.ema.state_dict(),
                "optimizer": optimizer.state_dict(), "scheduler": {"phases": list(phases)}, "step": step,
                "epoch": epoch, "position": {"batch": position["batch"], "best": best, "sums": sums.tolist()},
                "accumulation": cfg.accumulate * cfg.batch_size, "config": asdict(cfg), "variables": names,
                "statistics": statistics.as_dict(), "lead": cfg.lead, "grid": grid, "split": split_table,
            }, path, keep_previous)  # fmt: skip

    # ------------------------------------------------------------------------ training
    # A kill or an error saves nothing: the same command goes on from last.pt, at most save_every minutes old. What
    # comes next depends on the counters alone, so the result is that of a run without the interruption.
    progress = ProgressLine(sum(phases), step, samples_per_step=cfg.accumulate * cfg.batch_size)
    began = saved = time.monotonic()
    waited, skipped = 0.0, 0
    with StopRequest() as stop:
        while epoch < cfg.epochs:
            steps = plan(epoch)[position["batch"] :]
            queue = read_ahead(read, [batch for group in steps for batch in processes.share(group)])
            for group in steps:
                step_sums = torch.zeros(2 + len(TERMS), device=device)
                for number in processes.share(list(range(len(group)))):
                    asked = time.monotonic()
                    batch, tensors = next(queue)
                    waited += time.monotonic() - asked
                    step_sums += learn(parts, batch, tensors, generator(cfg.seed, 2, step, number, device=device))
                processes.sum_(*(p.grad for p in model.parameters()), step_sums)
                # the one wait for the device
                *step_sums, norm = torch.cat([step_sums, optimizer.clip_gradients()[None]]).tolist()
                if math.isfinite(norm):
                    optimizer.step(learning_rate(step, *phases), ema_decay(step, phases[0]))
                    sums += [*step_sums, 1.0, norm]
                    skipped = 0
                else:
                    optimizer.clear()
                    skipped += 1
                    progress.write(f"note: training skipped step {step}: its gradient is not finite")
                if skipped >= MOST_SKIPPED:
                    raise ValueError(
                        f"loss: not finite in {skipped} steps in a row up to step {step}, expected finite "
                        f"values. Fix: a lower --lr with another --run_dir, or check {cfg.zarr}"
                    )
                step += 1
                position["batch"] += 1
                skill = log[-1]["score"] if log else None
                progress.update(step, f"epoch {epoch + 1}/{cfg.epochs}", sums[1] / max(sums[0], 1), skill)
                stopped = processes.highest(stop.received or processes.orphaned)
                if stopped or stop.take_save() or time.monotonic() - saved > 60 * cfg.save_every:
                    save(last_path, keep_previous=True)
                    saved = time.monotonic()
                if stopped:
                    progress.write(f"stopped at step {step} after a save; the same command goes on")
                    return exit_code(stopped)
            epoch, position["batch"] = epoch + 1, 0
            if epoch % cfg.validate_every and epoch < cfg.epochs:
                continue

            # ---------------------------------------------------------------- validate, log, save
            scores, tuning = validate(optimizer.ema), epoch > cfg.epochs - rollout_epochs
            if tuning and not any(r["own_forecasts"] for r in log):
                best = -math.inf  # roll-out epochs are sharper, with a higher RMSE: start a new best
            better, best = scores["score"] > best, max(best, scores["score"])
            samples, loss, *terms, done, norms = sums.tolist()
            log.append({
                "epoch": epoch, "step": step, "samples": epoch * len(pairs), "loss": loss / max(samples, 1),
                "terms": {n: t / max(samples, 1) for n, t in zip(TERMS, terms, strict=True)},
                "lr": learning_rate(step - 1, *phases) * cfg.lr, "grad_norm": norms / max(done, 1), **scores,
                "samples_per_s": progress.samples_per_s, "data_wait": waited / (time.monotonic() - began),
                "peak_memory_bytes": peak_memory_bytes(device),
                "rollout_hours": validate.steps * hours_of(lead), "split": split_table, "own_forecasts": tuning,
            })  # fmt: skip
            sums[:] = 0
            units = {n: lookup(n).units for n in names}
            left = progress.seconds_left(step)
            progress.write(validation_line(log[-1], units, show_duration(lead), cfg.epochs, left, better))
            if scores["alarm"]:
                progress.write(scores["alarm"])
            if processes.first:
                if better:
                    save(best_path)
                write_log(log, log_path)
                replace_file(run_dir / "loss_curves.png", partial(save_loss_curves, log))
            save(last_path, keep_previous=True)  # last: killed before it, the run validates again
            saved = time.monotonic()
    progress.close()
    print(f"done: best mean skill in validation {best:+.3f}; wrote {best_path}, {last_path}, log.jsonl and "
          f"loss_curves.png. Next: .venv/bin/python infer_iterative.py --checkpoint {best_path} --zarr {cfg.zarr} "
          f"--init_time test --out {run_dir / 'forecast.zarr'}")  # fmt: skip
    return 0


if __name__ == "__main__":
    run(Config, main, __doc__)
