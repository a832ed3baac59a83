"""The training log: running sums between validations, log.jsonl, and the line a person reads."""

import json
import os
from pathlib import Path

import torch
from torch import Tensor

from training.files import writing


def empty_sums() -> dict:
    """Sums since the last validation; part of the checkpoint, so that a resumed run logs the same figures."""
    return {"samples": 0, "loss": 0.0, "terms": {}, "steps": 0, "grad_norm": 0.0}


def loss_sums(names, device) -> Tensor:
    """The sums of one optimizer step, all 0: samples, loss, and each of the named terms; on the device, so that nothing
    waits for it."""
    return torch.zeros(2 + len(names), dtype=torch.float64, device=device)


def add_loss(sums: Tensor, loss: Tensor, terms: dict[str, Tensor], samples: int) -> None:
    """Add one batch of `samples` pairs to `loss_sums`: its mean loss, and each term averaged over channels."""
    values = [loss.detach(), *(values.mean() for values in terms.values())]
    sums[0] += samples
    sums[1:] += torch.stack([v.double() for v in values]) * samples


def add_step(position: dict, sums: Tensor, names, norm: float) -> None:
    """Add the sums of an optimizer step, and its gradient's norm, to those since the last validation."""
    samples, loss, *terms = sums.tolist()
    position["samples"] += round(samples)
    position["loss"] += loss
    position["terms"] = {n: position["terms"].get(n, 0.0) + t for n, t in zip(names, terms, strict=True)}
    position["steps"] += 1
    position["grad_norm"] += norm


def averages(position: dict) -> dict:
    """The means since the last validation: loss and terms over pairs, the gradient's norm over steps."""
    samples, steps = position["samples"], position["steps"]
    if not samples:  # every step was left out
        return {"loss": None, "terms": {}, "grad_norm": None}
    terms = {name: total / samples for name, total in position["terms"].items()}
    return {"loss": position["loss"] / samples, "terms": terms, "grad_norm": position["grad_norm"] / steps}


def read_log(path: Path, epoch: int) -> list[dict]:
    """The records of log.jsonl of the first `epoch` epochs; later ones belong to work that will be done again."""
    if not path.exists():
        return []
    try:
        records = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        return [r for r in records if r["epoch"] <= epoch]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: got a line that is not a record of this log ({error}), expected one JSON object per line. "
            "Fix: repair it or move it away; training does not need it"
        ) from error


def write_log(records: list[dict], path: Path) -> None:
    """Write log.jsonl, one record per line, as a whole: to a temporary file, then renamed."""
    temporary = path.with_name(path.name + ".tmp")
    with writing(path, temporary):
        temporary.write_text("".join(json.dumps(r) + "\n" for r in records))
        os.replace(temporary, path)


def validation_line(record: dict, units: dict[str, str], lead: str, epochs: int, left: float, best: bool) -> str:
    """What a person reads at a validation: loss, mean skill over variables and leads, seconds `left`; then, one step
    ahead, the skill of each variable against persistence with both errors in its unit; then the skill at the end of the
    roll-out."""

    def skill(value: float | None) -> str:
        return "n/a" if value is None else f"{value:+.2f}"

    def errors(name: str) -> str:
        both = (record[kind][name] for kind in ("rmse", "persistence_rmse"))
        return f"{' against '.join('n/a' if x is None else f'{x:.3g}' for x in both)} {units[name]}".strip()

    loss = "n/a" if record["loss"] is None else f"{record['loss']:.4f}"
    if record.get("own_forecasts"):
        loss += " (on its own forecasts)"
    near = [f"{name} {skill(value)} ({errors(name)})" for name, value in record["skill"].items()]
    far = [f"{name} {skill(value)}" for name, value in record["rollout_skill"].items()]
    return (
        f"epoch {record['epoch']}/{epochs}  loss {loss}  mean skill {record['score']:+.3f}"
        f"{' (best)' if best else ''}  waiting for data {record['data_wait']:.0%}  {time_text(left)} left\n"
        f"  skill against persistence at {lead}: {', '.join(near)}\n"
        f"  and at {record['rollout_hours']:g} h: {', '.join(far)}"
    )


def time_text(seconds: float) -> str:
    """A duration as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
