"""What a training run does about trouble: find what was wrong in a step, leave it out, go back to a checkpoint."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data.times import show
from train_data import TrainingData
from train_step import Learner
from training.checkpoint import earlier_checkpoint, newest_checkpoint
from training.files import writing
from training.log import loss_sums
from training.progress import Progress
from training.schedule import Task, generator
from training.team import Team
from training.trouble import Exploded, OutOfMemory


def investigate(
    learn: Learner, data: TrainingData, starts: np.ndarray, group: list[Task], at: Progress, team: Team, run_dir: Path
) -> str:
    """Which initial times, which variable and which term, in words; the same in every process.

    Whoever finds it writes run_dir/fault_step_N.pt (load it with weights_only=True): the weights before the step, the
    task's states and targets in physical units, and every term of every step by variable.
    """
    text = ""
    numbers = list(range(len(group)))
    for number, task in zip(team.share(numbers), team.share(group), strict=True):
        learn.model.zero_grad(set_to_none=True)
        times, learn.seen = starts[list(task.starts)], []
        fields = data.read(starts, task)
        rng = generator(learn.constants.seed, 2, at.epoch, at.position["group"], number, device=learn.device)
        steps = range(task.skip, task.skip + task.steps)
        saved = [x.clone() for x in (data.series.states(times), *data.series.targets(times, steps))]
        learn(times, task, fields, rng, loss_sums(learn.loss.weights, learn.device))
        terms, learn.seen = learn.seen, None
        fault = offender(terms, data.names, task.skip) or bad_gradient(learn.model)
        if fault:
            whose = "" if team.first else f"_process_{team.rank}"
            path = run_dir / f"fault_step_{at.step}{whose}.pt"
            text = f"initial times {', '.join(map(show, times))}: {fault}; kept for a look in {path}"
            with writing(path, path):
                torch.save({"format": "fault", "what": fault, "step": at.step, "epoch": at.epoch,
                            "init_times": [show(t) for t in times], "variables": data.names, "terms": terms,
                            "states": saved[0], "targets": saved[1:], "model": learn.model.state_dict()},
                           path)  # fmt: skip
            break
    learn.model.zero_grad(set_to_none=True)
    every = ", ".join(show(starts[i]) for task in group for i in task.starts)
    return team.first_text(text) or f"initial times {every}: no single task is at fault, their sum is"


def offender(steps: list[dict[str, list[float]]], names: list[str], skip: int) -> str:
    """The first variable and term that is no number, in words; "" where all are numbers."""
    for k, terms in enumerate(steps):
        bad = {n: [t for t, values in terms.items() if not np.isfinite(values[c])] for c, n in enumerate(names)}
        bad = {n: t for n, t in bad.items() if t}
        if len(bad) == len(names) > 1:
            return f"every variable at lead step {skip + k + 1}: the model's output is not finite"
        if bad:
            variable, found = next(iter(bad.items()))
            return f"{variable} at lead step {skip + k + 1}, term {', '.join(found)}"
    return ""


def bad_gradient(model: torch.nn.Module) -> str:
    """The first weight whose gradient is no number, in words; "" where all are numbers."""
    for name, p in model.named_parameters():
        if p.grad is not None and not p.grad.isfinite().all():
            return f"all terms are finite, the gradient of {name} is not"
    return ""


def leave_out(why: str, at: Progress, cfg) -> None:
    """Count an optimizer step that is left out; ValueError where it is one too many."""
    why = f"step {at.step} of epoch {at.epoch + 1}: {why}"
    if at.guard["skipped"] >= cfg.skip_steps:
        raise ValueError(
            f"{why}. Expected finite numbers ({cfg.skip_steps} steps may be left out). Fix: look at these hours "
            f"(.venv/bin/python -m data.check_store {cfg.zarr}), lower --lr, or --skip_steps {cfg.skip_steps + 1}; "
            "the same command goes on from the last checkpoint"
        )
    at.guard["skipped"] += 1
    tqdm.write(f"note: left out {why} ({at.guard['skipped']} of at most {cfg.skip_steps})")


def after_setback(setback: Exception, cfg, rate: float, run_dir: Path, device: torch.device, team: Team) -> tuple:
    """The checkpoint or None, the constants and the factor on the learning rate with which to go on; ValueError where
    that has been tried."""
    exploded = isinstance(setback, Exploded)
    previous = earlier_checkpoint(run_dir, device) if exploded else newest_checkpoint(run_dir, device)[0]
    step = previous["step"] if previous else 0
    if exploded:
        if min(rate, previous["position"]["guard"]["rate"] if previous else 1.0) < 1:
            raise ValueError(f"the loss exploded again with half the learning rate: {setback}, expected it to fall. "
                             f"Fix: another --run_dir with a lower --lr; step {step} is saved")  # fmt: skip
        print(f"note: the loss exploded: {setback}; back to step {step}, once, with half the learning rate", flush=True)
        return previous, cfg, 0.5
    if cfg.memory == "lean" or (team.size > 1 and not isinstance(setback, OutOfMemory)):
        raise ValueError(f"memory: {setback}, expected room for a step. Fix: end what else runs on the device, or "
                         f"fewer processes; the same command goes on from step {step}")  # fmt: skip
    print(f"note: {setback}; going on from step {step} in lean mode, which needs less", flush=True)
    return previous, replace(cfg, memory="lean"), rate
