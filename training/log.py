"""log.jsonl, and what a run prints: a line per validation and its progress between them."""

import json
import math
import sys
import time
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from training.checkpoint import replace_file


def read_log(path: Path, epochs_done: int) -> list[dict]:
    """The records of log.jsonl up to epoch `epochs_done`; a resumed run computes the later ones again. A last line that
    is cut off is dropped; ValueError for any other line that is not a record."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if record["epoch"] <= epochs_done:
                records.append(record)
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise ValueError(
                f"{path}: line {number} is not a record of this log, expected a JSON object with an epoch. "
                "Fix: move the file away; training does not need it"
            ) from error
    return records


def write_log(log: list[dict], path: Path) -> None:
    """Write log.jsonl, one record per line. ValueError if the disk is full; then the old file is intact."""
    text = "".join(json.dumps(record) + "\n" for record in log)
    replace_file(path, lambda temporary: temporary.write_text(text))


def validation_line(
    record: dict, units: dict[str, str], lead_text: str, epochs: int, seconds_left: float, is_best: bool
) -> str:
    """The printed line of a validation.

    record: epoch, loss, score (mean skill) and, by variable, rmse, persistence_rmse and skill; None if there is no
    figure. units: by variable. lead_text: the lead of these errors, such as "1 h".
    """

    def number(value: float | None, form: str) -> str:
        return "n/a" if value is None else format(value, form)

    errors = [
        f"{name} {number(record['rmse'][name], '.3g')} {units[name]}".rstrip()
        + f" (persistence {number(record['persistence_rmse'][name], '.3g')}, skill {number(skill, '+.2f')})"
        for name, skill in record["skill"].items()
    ]
    return (
        f"epoch {record['epoch']} of {epochs}: loss {number(record['loss'], '.4f')}, "
        f"mean skill {number(record['score'], '+.3f')}{' (best)' if is_best else ''}; "
        f"RMSE at {lead_text}: {', '.join(errors)}; about {time_text(seconds_left)} left"
    )


def time_text(seconds: float) -> str:
    """A duration in words, rounded: 45 s, 12 min, 3 h 20 min."""
    if not math.isfinite(seconds):
        return "unknown time"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


class ProgressLine:
    """The progress of a run: a bar if stdout is a terminal, else a line at least every `print_every` seconds.

    total_steps, done_steps: optimizer steps of the run, and those done before. samples_per_step: for the samples/s.
    """

    def __init__(self, total_steps: int, done_steps: int, print_every: float = 30.0, samples_per_step: float = 1.0):
        self.total, self.first, self.step, self.samples = total_steps, done_steps, done_steps, samples_per_step
        self.started = self.updated = self.shown = time.monotonic()
        terminal = sys.stdout.isatty()
        self.bar = tqdm(total=total_steps, initial=done_steps, unit="step", file=sys.stdout) if terminal else None
        self.every = 0.5 if terminal else print_every

    def update(self, step: int, epoch_text: str, loss: float | Tensor, skill: float | None = None) -> None:
        """Take note of `step` steps done in all, and show it if it is time. A loss on a GPU is read only then."""
        now = time.monotonic()
        step_seconds, self.updated, self.step = now - self.updated, now, step
        if now + step_seconds - self.shown < self.every:  # there is time until after another such step
            return
        self.shown = now
        figures = f"loss {float(loss):.3f}" + ("" if skill is None else f", skill {skill:+.2f}")
        if self.bar is not None:
            self.bar.set_description(epoch_text, refresh=False)
            self.bar.set_postfix_str(figures, refresh=False)
            self.bar.update(step - self.bar.n)
            self.bar.refresh()
            return
        line = f"{epoch_text}, step {step} of {self.total}, {figures}"
        if step > self.first:
            left, clock = self.seconds_left(step), time.time()
            end, today = time.localtime(clock + left), time.localtime(clock)[:3]
            ends = time.strftime("%H:%M" if end[:3] == today else "%Y-%m-%d %H:%M", end)
            line += f", {self.samples_per_s:.3g} samples/s, about {time_text(left)} left, ends {ends}"
        self.write(line)

    def seconds_left(self, step: int) -> float:
        """Seconds from `step` steps done to the end, at the speed of this process so far; NaN before its first step."""
        done = step - self.first
        return (time.monotonic() - self.started) / done * (self.total - step) if done else math.nan

    @property
    def samples_per_s(self) -> float:
        """Samples per second since this process began, with all that it did; 0 before the first step."""
        return (self.step - self.first) * self.samples / max(time.monotonic() - self.started, 1e-9)

    def write(self, text: str) -> None:
        """Print text, above the bar if there is one."""
        if self.bar is not None:
            tqdm.write(text, file=sys.stdout)
        else:
            print(text, flush=True)

    def close(self) -> None:
        """End the bar."""
        if self.bar is not None:
            self.bar.close()
