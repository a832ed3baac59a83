"""What forecasts that know nothing, or have one fault, get in the certificate, on the test hours of the demo.

    python -m benchmarks.trivial                            # the demo's store
    python -m benchmarks.trivial --zarr STORE.zarr --json trivial.json

Writes each forecast as a forecast store with boundary data, scores it with verify_forecast.py, and prints a row a
forecast: the lines of the certificate that pass, fail, are undecided or n/a, and the line that names the fault. Exit
code 1 if a forecast passes the certificate, or if the truth fails a line of it.
"""

import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

import verify_forecast
from data.command import fault, run
from data.dataset import find_pairs, split_by_date
from data.forecast_store import ForecastWriter
from data.metadata import replace
from data.store import Store
from data.times import parse_duration
from verification.certificate import LEADS
from verification.climate import estimate
from verification.inputs import training_hours

HOUR = np.timedelta64(1, "h")
WEEK = np.timedelta64(7, "D")
SCORED = (0, 1, 2, 3, 5, 6, 11, 12, 23, 24)  # h: those that the certificate asks, and the hour before them
BLUR = 1.5  # cells, standard deviation of the Gaussian
SKILL = "skill over the best baseline"
NOISE = 0.3  # of the standard deviation of the hourly change, rms of the added noise


@dataclass
class Config:
    zarr: str = "runs/demo/store.zarr"  # hourly store to take the weather from
    train_end: str = "2023-07-18T11"  # end of the training part: the climatology sees no later hour
    val_end: str = "2023-08-12T12"  # end of the validation part: the test hours come after it
    init_every: str = "7h"  # distance between initial times
    json: str = ""  # file to write the table to


Make = Callable[[np.datetime64, np.timedelta64], np.ndarray]  # (initial time, lead) -> (C, y, x)


def main(cfg: Config) -> int:
    store = Store(cfg.zarr)
    names = store.choose([])
    hour = HOUR.astype("timedelta64[ns]")
    split = split_by_date(store.times, hour, cfg.train_end, cfg.val_end, "")
    inits = find_pairs(store.times, hour, split.test, history=2, steps=LEADS[-1] + 1)
    every = parse_duration(cfg.init_every, "init_every")
    inits = inits[(inits - inits[0]) % every == np.timedelta64(0, "ns")] if len(inits) else inits
    if len(np.unique(inits.astype("datetime64[D]"))) < 2 or not store.has(inits[0] - WEEK):
        raise fault(cfg.zarr, f"{len(inits)} initial times in the test part", "two days of them, and a week before",
                    "name a longer store, or an earlier --val_end")  # fmt: skip
    print(f"{len(inits)} initial times from {cfg.zarr}, {inits[0].astype('M8[h]')} to {inits[-1].astype('M8[h]')}")
    rows = []
    makes = forecasts(store, names, split.as_dict(), inits)
    for name, (make, line) in tqdm(makes.items(), desc="trivial forecasts", disable=None):
        with tempfile.TemporaryDirectory() as folder:
            lines = certify(Path(folder), cfg.zarr, store, names, split.as_dict(), inits, make)
        verdicts = {one["name"]: one["pass"] for one in lines}
        rows.append({"forecast": name, "names_it": line, "lines": verdicts})
    print(table(rows))
    if cfg.json:
        replace(Path(cfg.json), json.dumps({"constants": vars(cfg), "rows": rows}, indent=1) + "\n")
        print(f"wrote {cfg.json}")
    return int(not all(map(sound, rows)))


def forecasts(store: Store, names: list[str], split: dict, inits: np.ndarray) -> dict[str, tuple[Make, str]]:
    """The forecasts by name, each with the beginning of the line of the certificate that names its fault."""
    truth = lambda time: store.load(time, names)  # noqa: E731
    by_name = lambda time: dict(zip(names, truth(time), strict=True))  # noqa: E731
    climate = estimate(training_hours(store.times, split), by_name)
    rng = np.random.default_rng(0)
    hours = [truth(t + k * HOUR) for t in inits[::4] for k in (0, 1)]
    change = np.std(np.subtract(hours[1::2], hours[::2]), axis=(0, 2, 3))[:, None, None]
    strip = max(1, min(25, int(0.08 * min(store.grid.shape))))
    edge = np.pad(np.zeros([n - 2 * strip for n in store.grid.shape], bool), strip, constant_values=True)
    week = lambda init, lead: truth(init + lead - WEEK)  # noqa: E731
    return {
        "persistence": (lambda init, lead: truth(init), "skill"),
        "climatology": (lambda init, lead: np.stack([climate.at(n, init + lead) for n in names]), "skill"),
        "another week's truth": (week, "skill"),
        "persistence with the true edge": (lambda init, lead: np.where(edge, truth(init + lead), truth(init)), "skill"),
        "truth to 3 h, then another week's": (
            lambda init, lead: truth(init + lead) if lead <= 3 * HOUR else week(init, lead), f"{SKILL} at 6 h"),
        "truth blurred by 1.5 cells": (lambda init, lead: blur(truth(init + lead), BLUR), "sharp"),
        "truth with noise of 2-5 cells": (
            lambda init, lead: truth(init + lead) + NOISE * change * fine_noise(rng, change.shape[0], edge.shape),
            "no noise"),
        "truth one hour late": (lambda init, lead: truth(init + lead - HOUR), "on time"),
        "truth": (lambda init, lead: truth(init + lead), ""),
    }  # fmt: skip


def blur(fields: np.ndarray, width: float) -> np.ndarray:
    """A Gaussian mean over rows and columns; beyond the edge the field is mirrored. fields (C, y, x)."""
    reach = int(np.ceil(4 * width))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    for axis in (1, 2):
        padded = np.pad(fields, [(reach, reach) if a == axis else (0, 0) for a in range(3)], mode="symmetric")
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=axis)
        fields = windows @ (kernel / kernel.sum())
    return fields


def fine_noise(rng: np.random.Generator, count: int, shape: tuple[int, int]) -> np.ndarray:
    """(count, y, x) noise of rms 1 whose waves are 2 to 5 cells long."""
    k = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :])
    modes = np.fft.rfft2(rng.normal(size=(count, *shape))) * ((k > 1 / 5) & (k <= 1 / 2))
    noise = np.fft.irfft2(modes, s=shape)
    return noise / noise.std(axis=(1, 2), keepdims=True)


def certify(
    folder: Path, zarr: str, store: Store, names: list[str], split: dict, inits: np.ndarray, make: Make
) -> list[dict]:
    """The certificate of one forecast, written and scored as any other."""
    path, out = folder / "forecast.zarr", folder / "scores.json"
    attributes = {"split": split, "lead": "1h", "boundary": f"{zarr} (perfect boundary: the truth itself)"}
    leads = np.array(SCORED) * HOUR
    with ForecastWriter(path, names, store.grid, inits, leads, attributes) as writer:
        for i, init in enumerate(inits):
            for j, lead in enumerate(leads):
                fields = make(init, lead) if lead > 0 * HOUR else store.load(init, names)
                writer.write(i, j, np.float32(fields), np.zeros(len(names)))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        verify_forecast.main(verify_forecast.Config(str(path), zarr, str(out), figures=False))
    shutil.rmtree(path)
    return json.loads(out.read_text())["certificate"]


def sound(row: dict) -> bool:
    """Whether the certificate identifies the forecast: the truth fails nothing, any other fails the line that names
    its fault."""
    verdicts = row["lines"]
    if not row["names_it"]:
        return all(v in ("PASS", "UNDECIDED") for v in verdicts.values())
    return "FAIL" in {v for line, v in verdicts.items() if line.startswith(row["names_it"])}


def table(rows: list[dict]) -> str:
    head = f"{'forecast':<36}{'PASS':>6}{'FAIL':>6}{'UNDEC.':>8}{'n/a':>5}   fails"
    lines = [head]
    for row in rows:
        verdicts = list(row["lines"].values())
        counts = [verdicts.count(v) for v in ("PASS", "FAIL", "UNDECIDED", "n/a")]
        failed = [line.split(":")[0].replace(SKILL, "skill") for line, v in row["lines"].items() if v == "FAIL"]
        lines.append(f"{row['forecast']:<36}{counts[0]:>6}{counts[1]:>6}{counts[2]:>8}{counts[3]:>5}   "
                     f"{', '.join(dict.fromkeys(failed)) or '-'}")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    run(Config, main, __doc__)
