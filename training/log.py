"""The training log: running sums between validations, log.jsonl, and the line a person reads."""

import json
import os
from pathlib import Path


def empty_sums() -> dict:
    """Sums since the last validation; part of the checkpoint, so that a resumed run logs the same figures."""
    return {"samples": 0, "loss": 0.0, "terms": {}, "steps": 0, "grad_norm": 0.0}


def add_loss(sums: dict, loss, terms: dict, samples: int) -> None:
    """Add one batch of `samples` pairs: its mean loss, and each term averaged over channels."""
    sums["samples"] += samples
    sums["loss"] += float(loss.detach()) * samples
    for name, values in terms.items():
        sums["terms"][name] = sums["terms"].get(name, 0.0) + float(values.mean()) * samples


def read_log(path: Path, step: int) -> list[dict]:
    """The records of log.jsonl up to optimizer step `step`; later ones belong to work that was lost."""
    if not path.exists():
        return []
    try:
        records = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        return [r for r in records if r["step"] <= step]
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


def validation_line(record: dict, epochs: int, seconds_left: float, best: bool) -> str:
    """One line per validation: epoch, loss, skill and RMSE of each variable, roll-out skill, time left."""
    parts = [
        f"{name} {skill:+.2f} ({record['rmse'][name]:.3g} against {record['persistence_rmse'][name]:.3g})"
        for name, skill in record["skill"].items()
    ]
    far = record["rollout_skill"]
    lead = record["rollout_hours"]
    return (
        f"epoch {record['epoch']}/{epochs}  loss {record['loss']:.4f}  skill against persistence: {', '.join(parts)}"
        f"  | after {lead:g} h: {', '.join(f'{n} {s:+.2f}' for n, s in far.items())}"
        f"  | score {record['score']:+.3f}{' (best)' if best else ''}, {time_text(seconds_left)} left"
    )


def time_text(seconds: float) -> str:
    """A duration as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
