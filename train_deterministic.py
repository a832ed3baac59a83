"""Train the residual UNet on pairs (t, t + lead) of a training store.

    python train_deterministic.py                                       # the constants below
    python train_deterministic.py --zarr data/hrrr.zarr --run_dir runs/hrrr --epochs 200
    python train_deterministic.py --zarr data/hrrr.zarr --run_dir runs/hrrr --epochs 200   # again: goes on

Writes into run_dir: last.pt (to resume), best.pt (highest validation skill; enough to forecast), previous.pt,
log.jsonl (one line per validation) and loss_curves.png.
"""

import copy
import math
import os
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data.augment import add_noise, random_mirror
from data.command import refuse_file_above, run
from data.dataset import Hours, Pairs, Split, find_pairs, read_ahead, split_by_date
from data.describe import describe, mask_notes
from data.forcing import CLOCK_FEATURES, Forcing
from data.normalise import Statistics, clip_physical, denormalise, limiter, normalise
from data.quick_check import quick_check
from data.statistics import compute_statistics
from data.store import Store
from data.times import hours_of, parse_duration, show, show_duration
from data.variables import lookup
from losses.weather import WeatherLoss
from models.rollout import rollout, rollout_step
from models.unet import ResidualUNet
from plotting.curves import loss_curves
from training.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from training.device import autocast, choose_device, peak_memory_bytes
from training.lock import RunLock
from training.log import add_loss, empty_sums, read_log, validation_line, write_log
from training.resume import refuse_other_data, refuse_other_run
from training.schedule import generator, groups, update_ema, warmup_cosine
from training.signals import StopRequest
from verification.validation import change_sums, mean_skill, persistence_alarm, skill_table


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
    levels: int = 3  # halvings of the resolution
    blocks: int = 2  # residual blocks per level, down and up
    lr: float = 5e-4  # peak learning rate of AdamW
    weight_decay: float = 0.01  # decoupled weight decay of AdamW
    warmup: float = 0.03  # share of all optimizer steps with a rising learning rate
    clip: float = 1.0  # highest norm of the gradient
    noise: float = 0.05  # noise on the input, in standard deviations of the change over one step
    flip: bool = True  # mirror training pairs in x and y
    validate_every: int = 5  # epochs between validations
    validate_hours: float = 6.0  # length of the roll-out in each validation, hours
    save_every: float = 10.0  # minutes between saves of last.pt
    cache_gb: float = 4.0  # memory for decoded hours, GB
    seed: int = 0  # of initial weights, order, mirrors and noise


def main(cfg: Config) -> int:
    check_constants(cfg)
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
    if 2**cfg.levels > max(store.grid.shape):
        raise ValueError(
            f"levels: got {cfg.levels}, expected at most {int(math.log2(max(store.grid.shape)))} on "
            f"{store.grid.shape[0]} x {store.grid.shape[1]} cells. Fix: --levels 3"
        )
    lead = parse_duration(cfg.lead, "lead")
    if previous:
        split = Split.from_dict(previous["split"])
    else:
        split = split_by_date(store.times, lead, cfg.train_end, cfg.val_end, cfg.gap)
    parts = {p: find_pairs(store.times, lead, getattr(split, p)) for p in ("train", "validation", "test")}
    split_table = {**split.as_dict(), "pairs": {p: len(t) for p, t in parts.items()}}
    print(describe(store, names, split, parts, lead), flush=True)
    if previous:
        refuse_other_data(previous, split_table, names, list(store.grid.shape), store.path)
        statistics, mask = Statistics.from_dict(previous["statistics"]), previous["grid"]["mask"]
    else:
        hours = [store.times[(store.times >= a) & (store.times <= b)] for a, b in (split.train, split.validation)]
        statistics, mask = compute_statistics(store, names, np.sort(hours[0]), lead, np.sort(hours[1]))
    for note in store.notes + mask_notes(names, mask):
        print(f"note: {note}")
    hours = Hours(store, names, mask if mask is None else mask.cpu(), cfg.cache_gb)
    pairs = Pairs(hours, parts["train"], lead)
    statistics, mask = statistics.to(device), None if mask is None else mask.to(device)
    forcing = Forcing(store.grid, lead, statistics.names, mask, device)
    grid = {"shape": list(store.grid.shape), "dims": list(store.grid.dims), "forcing": forcing.names, "mask": mask}
    grid["spacing"] = list(store.grid.spacing or (1.0, 1.0))

    # ---- model, loss, optimizer
    torch.manual_seed(cfg.seed)
    model = ResidualUNet(len(names), len(forcing.names), CLOCK_FEATURES, cfg.base_features, cfg.levels, cfg.blocks)
    model = model.to(device)
    ema = copy.deepcopy(model).requires_grad_(False)
    loss_function = WeatherLoss(tuple(grid["spacing"]))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=cfg.lr, betas=(0.9, 0.95), weight_decay=cfg.weight_decay, fused=True
    )
    steps_per_epoch = math.ceil(len(pairs) / (cfg.batch_size * cfg.accumulate))
    total = cfg.epochs * steps_per_epoch
    warmup = max(1, min(round(cfg.warmup * total), 1000))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: warmup_cosine(n, total, warmup))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"model: {parameters / 1e6:.2f} million parameters on {device}; {total} steps of {cfg.accumulate} x "
          f"{cfg.batch_size} pairs in {cfg.epochs} epochs", flush=True)  # fmt: skip

    # ---- resume
    step, epoch, position, best = 0, 0, {"group": 0, **empty_sums()}, -math.inf
    if previous:
        model.load_state_dict(previous["model"])
        ema.load_state_dict(previous["ema"])
        optimizer.load_state_dict(previous["optimizer"])
        scheduler.load_state_dict(previous["scheduler"])
        step, epoch, position, best = previous["step"], previous["epoch"], previous["position"], previous["rng"]["best"]
        torch.set_rng_state(previous["rng"]["torch"].cpu())
        if epoch >= cfg.epochs:
            print(f"this run is finished: {epoch} epochs, {step} steps; {best_path} is its result")
            return 0
        print(f"resumed at step {step} (epoch {epoch + 1} of {cfg.epochs})", flush=True)
    run_dir.mkdir(parents=True, exist_ok=True)
    log = read_log(run_dir / "log.jsonl", epoch)

    def checkpoint() -> dict:
        return {
            "format": FORMAT, "model": model.state_dict(), "ema": ema.state_dict(), "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(), "step": step, "epoch": epoch, "position": position,
            "accumulation": cfg.accumulate * cfg.batch_size,
            "rng": {"seed": cfg.seed, "torch": torch.get_rng_state(), "best": best},
            "config": asdict(cfg), "variables": names, "statistics": statistics.as_dict(), "lead": cfg.lead,
            "grid": grid, "split": split_table,
        }  # fmt: skip

    # ---- the loop: epochs of optimizer steps; counters alone decide order, mirrors and noise
    check = Validation(hours, parts["validation"], forcing, statistics, mask, cfg.validate_hours)
    bar = tqdm(total=cfg.epochs * len(pairs), initial=epoch * len(pairs), unit="pair", disable=None, smoothing=0.02)
    started, waited, saved, first_step = time.monotonic(), 0.0, time.monotonic(), step
    with RunLock(run_dir), StopRequest() as stop:
        while epoch < cfg.epochs:
            order = torch.randperm(len(pairs), generator=generator(cfg.seed, 1, epoch)).tolist()
            plan = groups(order, cfg.batch_size, cfg.accumulate)[position["group"] :]
            batches = read_ahead(pairs, [indices for group in plan for indices in group])
            for group in plan:
                size = sum(map(len, group))
                for _ in group:
                    asked = time.monotonic()
                    indices, (state, target, times) = next(batches)
                    waited += time.monotonic() - asked
                    rng = generator(cfg.seed, 2, epoch, indices[0])
                    fields, clock = forcing(times)
                    state, target, valid_mask = state.to(device), target.to(device), mask
                    if cfg.flip:
                        state, target, fields, valid_mask = random_mirror(
                            state, target, fields, mask, statistics.names, forcing.parity, rng
                        )
                    state, target = (normalise(x, statistics, valid_mask) for x in (state, target))
                    rng = generator(cfg.seed, 3, epoch, indices[0], device=device)
                    noisy = add_noise(state, statistics.scale, cfg.noise, valid_mask, rng)
                    with autocast(device):
                        pred = rollout_step(model, noisy, fields, clock, statistics.scale)
                    valid = None if valid_mask is None else ~valid_mask
                    loss, terms = loss_function(pred / statistics.scale, target / statistics.scale, valid)
                    (loss * (len(indices) / size)).backward()
                    add_loss(position, loss, terms, len(indices))
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)
                if not math.isfinite(norm):
                    raise ValueError(
                        f"the gradient is not finite at step {step} (initial times {', '.join(map(show, times))}), "
                        f"expected a number. Fix: lower --lr; the last good weights are in {last_path}"
                    )
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                update_ema(ema, model, step)
                scheduler.step()
                step += 1
                position["group"] += 1
                position["grad_norm"] += float(norm)
                position["steps"] += 1
                bar.update(size)
                bar.set_postfix_str(
                    f"loss {position['loss'] / position['samples']:.3f}{last_skill(log)}", refresh=False
                )
                if stop.received or time.monotonic() - saved > cfg.save_every * 60:
                    save_checkpoint(checkpoint(), last_path, keep_previous=True)
                    saved = time.monotonic()
                if stop.received:
                    bar.close()
                    name = signal.Signals(stop.received).name
                    print(f"stopped by {name} at step {step}; saved in {last_path}; the same command goes on")
                    return 128 + stop.received
            epoch += 1
            position["group"] = 0
            if epoch % cfg.validate_every and epoch < cfg.epochs:
                continue

            # ---- validation: the averaged weights, physical units, against persistence
            scores = check(ema)
            elapsed = time.monotonic() - started
            record = {
                "epoch": epoch, "step": step, "samples": epoch * len(pairs),
                "loss": position["loss"] / position["samples"],
                "terms": {k: v / position["samples"] for k, v in position["terms"].items()},
                "lr": scheduler.get_last_lr()[0], "grad_norm": position["grad_norm"] / position["steps"], **scores,
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
            if better:
                save_checkpoint(checkpoint(), best_path)
            write_log(log, run_dir / "log.jsonl")
            draw_curves(log, run_dir / "loss_curves.png")
            save_checkpoint(checkpoint(), last_path, keep_previous=True)
            saved = time.monotonic()
            if stop.received:  # the signal came during validation
                name = signal.Signals(stop.received).name
                print(f"stopped by {name} at step {step}; saved in {last_path}; the same command goes on")
                return 128 + stop.received
    bar.close()
    print(f"done: best validation skill {best:+.3f}; wrote {best_path}, {last_path}, log.jsonl and loss_curves.png")
    return 0


class Validation:
    """Scores a model on the validation pairs one step ahead, and on a few roll-outs of `validate_hours`."""

    STARTS = 8  # roll-outs, spread evenly over the validation part

    def __init__(self, hours, init_times, forcing, statistics, mask, validate_hours: float):
        self.hours, self.init_times, self.forcing, self.statistics, self.mask = (
            hours,
            init_times,
            forcing,
            statistics,
            mask,
        )
        self.lead, self.device = forcing.lead, forcing.device
        self.limit = limiter(statistics, mask)
        self.steps = min(max(1, round(validate_hours / hours_of(self.lead))), len(init_times))
        self.starts = self.chains(self.steps)
        while len(self.starts) == 0:  # a short validation part: shorter roll-outs
            self.steps -= 1
            self.starts = self.chains(self.steps)
        chosen = np.unique(np.linspace(0, len(self.starts) - 1, self.STARTS).round().astype(int))
        self.starts = self.starts[chosen]

    def chains(self, steps: int) -> np.ndarray:
        """Initial times from which `steps` pairs follow one another without a gap."""
        follow = [np.isin(self.init_times + k * self.lead, self.init_times) for k in range(steps)]
        return self.init_times[np.all(follow, axis=0)]

    def __call__(self, model) -> dict:
        near = self.sums(model, self.init_times, 1)
        far = self.sums(model, self.starts, self.steps)
        names = self.statistics.names
        out, leads = skill_table(near[0], names), [skill_table(s, names) for s in far]
        out["rollout_skill"], out["rollout_hours"] = leads[-1]["skill"], self.steps * hours_of(self.lead)
        out["score"] = mean_skill([out["skill"], *(t["skill"] for t in leads)])
        out["alarm"] = persistence_alarm(out["skill"], out["change_ratio"])
        return out

    def sums(self, model, starts: np.ndarray, steps: int) -> torch.Tensor:
        """(steps, 4, C): verification.validation.change_sums by step, summed over the initial times."""
        names, floors = self.statistics.names, [lookup(n).scored_floor for n in self.statistics.names]
        floor = torch.tensor(floors, device=self.device)[:, None, None]
        valid = None if self.mask is None else ~self.mask
        total = torch.zeros(steps, 4, len(names), dtype=torch.float64)
        for t in starts:
            analysis = self.hours(t).to(self.device)
            state = normalise(analysis, self.statistics, self.mask)[None]
            analysis = clip_physical(analysis, names)
            with autocast(self.device):
                states = rollout(model, state, lambda k, t=t: self.forcing(t + k * self.lead), self.statistics.scale,
                                 self.limit, steps)  # fmt: skip
                for k, (state, _) in enumerate(states):
                    truth = torch.maximum(self.hours(t + (k + 1) * self.lead).to(self.device), floor)
                    pred = denormalise(state[0].float(), self.statistics)
                    total[k] += change_sums(pred, analysis, truth, valid).cpu()
        return total


def check_constants(cfg: Config) -> None:
    """Refuse constants that cannot train, each in one line."""
    for name, low in (("epochs", 1), ("batch_size", 1), ("accumulate", 1), ("base_features", 1), ("levels", 0),
                      ("blocks", 1), ("validate_every", 1), ("noise", 0.0), ("weight_decay", 0.0), ("warmup", 0.0),
                      ("cache_gb", 0.0), ("save_every", 0.0), ("seed", 0)):  # fmt: skip
        if not low <= getattr(cfg, name) < math.inf:
            raise ValueError(f"{name}: got {getattr(cfg, name)}, expected at least {low}. Fix: --{name} {low}")
    for name in ("lr", "clip", "validate_hours"):
        if not 0 < getattr(cfg, name) < math.inf:
            raise ValueError(
                f"{name}: got {getattr(cfg, name)}, expected a positive number. Fix: give one with --{name}"
            )


def last_skill(log: list[dict]) -> str:
    return f", skill {log[-1]['score']:+.3f}" if log else ""


def draw_curves(log: list[dict], path: Path) -> None:
    temporary = path.with_suffix(".tmp.png")
    loss_curves(log).savefig(temporary, dpi=110)
    os.replace(temporary, path)


if __name__ == "__main__":
    run(Config, main, __doc__)
