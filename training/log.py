"""The training log: running sums between validations, log.jsonl, and the line a person reads."""

import json
import os
from pathlib import Path


def empty_sums() -> dict:
    """Sums since the last validation; part of the checkpoint, so that a resumed run logs the same figures."""
    return {"samples": 0, "loss": 0.0, "terms": {}, "steps": 0, "grad_norm": 0.0}


def add_loss(sums: dict, loss, terms: dict, samples: int) -> None:
    """Add one batch of `samples` pairs: its mean loss, and each term averaged over channels. The sums stay tensors on
    the device, so that nothing waits for it; `plain` makes them numbers."""
    sums["samples"] += samples
    sums["loss"] = sums["loss"] + loss.detach().double() * samples
    for name, values in terms.items():
        sums["terms"][name] = sums["terms"].get(name, 0.0) + values.mean().double() * samples


def plain(sums: dict) -> dict:
    """The sums as numbers."""
    terms = {name: float(value) for name, value in sums["terms"].items()}
    return sums | {"loss": float(sums["loss"]), "terms": terms}


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
    temporary.write_text("".join(json.dumps(r) + "\n" for r in records))
    os.replace(temporary, path)


def validation_line(record: dict, units: dict[str, str], lead: str, epochs: int, left: float, best: bool) -> str:
    """What a person reads at a validation: loss, score and seconds `left`; then, one step ahead, the skill of each
    variable against persistence with both errors in its unit; then the skill at the end of the roll-out."""

    def skill(value: float | None) -> str:
        return "n/a" if value is None else f"{value:+.2f}"

    def errors(name: str) -> str:
        return f"{record['rmse'][name]:.3g} against {record['persistence_rmse'][name]:.3g} {units[name]}".strip()

    near = [f"{name} {skill(value)} ({errors(name)})" for name, value in record["skill"].items()]
    far = [f"{name} {skill(value)}" for name, value in record["rollout_skill"].items()]
    return (
        f"epoch {record['epoch']}/{epochs}  loss {record['loss']:.4f}  score {record['score']:+.3f}"
        f"{' (best)' if best else ''}  {time_text(left)} left\n"
        f"  skill against persistence at {lead}: {', '.join(near)}\n"
        f"  and at {record['rollout_hours']:g} h: {', '.join(far)}"
    )


def time_text(seconds: float) -> str:
    """A duration as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
