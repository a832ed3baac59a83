"""The real-weather league: one recipe on every set, beside forecasts that cost nothing, in one table.

    python -m benchmarks.league
    python -m benchmarks.league --sets era5 radar --seeds 0 1 2
    python -m benchmarks.league --only_baselines True

Builds the stores, trains each set with the defaults of train_deterministic.py (only the constants of size and data in
benchmarks/league_sets.py differ), forecasts from test hours, scores and prints the table. Writes the stores, runs and
forecasts into --folder and all numbers into --json, where sets that are not run keep theirs. A training that is
finished is not repeated.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from platform import python_version

import numpy as np
import torch
import xarray as xr

from benchmarks.league_sets import HOUR, SETS, Set, call, make_store
from data.command import nearest, run
from data.variables import lookup
from verification import scores, spectra
from verification.extrapolation import extrapolate

FRAMES = 3  # fields, the analysis included, that tell extrapolation the motion
WEEK = 7  # days of training from which on each hour of the day has enough fields for a climatology of its own
DAY = np.timedelta64(24, "h")
LARGE = 5  # grid lengths, shortest wave in `power_ratio_above_5`
THRESHOLDS = {"REFC": (20,), "RAIN": (1, 5)}  # dBZ, mm
NO_ECHO = -10.0  # dBZ of a cell without rain
BASELINES = ("persistence", "climatology", "yesterday", "extrapolation")

Method = Callable[[str, np.datetime64, np.timedelta64], np.ndarray | None]  # (variable, initial time, lead) -> (y, x)


@dataclass
class Config:
    sets: list[str] = field(default_factory=lambda: list(SETS))  # which, in this order
    seeds: list[int] = field(default_factory=lambda: [0, 1])  # one training each
    data: str = "../shared/data"  # folder with the real data
    folder: str = "runs/league"  # stores, runs and forecasts
    json: str = "benchmarks/results/league.json"  # all numbers
    threads: int = 2  # CPU threads of each command
    only_baselines: bool = False  # build the stores and score the baselines alone; nothing is written to --json


def main(cfg: Config) -> None:
    for name in cfg.sets:
        if name not in SETS:
            raise ValueError(f"sets: got {name!r}, expected some of {' '.join(SETS)}. Fix: {nearest(name, SETS)}")
    if not cfg.seeds or cfg.threads < 1:
        raise ValueError(f"seeds, threads: got {cfg.seeds} and {cfg.threads}, expected one or more. Fix: --seeds 0 1")
    torch.set_num_threads(cfg.threads)
    data, folder = Path(cfg.data).resolve(), Path(cfg.folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in cfg.sets:
        one = SETS[name]
        stored = Record(make_store(name, data, folder, cfg.threads))
        result = results[name] = describe(one)
        result["baselines"] = {n: score(one, stored, method) for n, method in baselines(one, stored).items()}
        for seed in [] if cfg.only_baselines else cfg.seeds:
            seconds, forecast = forecast_of(name, data, folder, seed, cfg.threads)
            result["seeds"][str(seed)] = {"seconds": seconds, "scores": score(one, stored, read_forecast(forecast))}
        add_skill(result)
        if result["seeds"]:
            per_seed = [r["scores"] for r in result["seeds"].values()]
            result["mean"] = merged(per_seed, lambda x: float(np.mean(x)))
            result["spread"] = merged(per_seed, lambda x: float(np.max(x) - np.min(x)))
            save(Path(cfg.json), {name: result})
    print(table(results))


# ---- training and forecast, by the commands


def forecast_of(name: str, data: Path, folder: Path, seed: int, threads: int) -> tuple[dict, Path]:
    """Train if that is not done, then forecast: seconds of both, and the forecast store."""
    one = SETS[name]
    trained_on = make_store(one.train_on or name, data, folder, threads)
    run_dir = folder / f"{one.train_on or name}_seed{seed}"
    constants = {"seed": seed, **one.constants}
    record = run_dir / "league.json"
    if record.exists() and json.loads(record.read_text())["constants"] != constants:
        raise ValueError(f"{run_dir}: trained with other constants ({record}), expected those of "
                         "benchmarks/league_sets.py. Fix: another --folder, or remove this run")  # fmt: skip
    if not record.exists():
        print(f"training {run_dir}", flush=True)
        options = [v for k, x in constants.items() for v in (f"--{k}", *(x if isinstance(x, list) else [x]))]
        seconds = timed(["train_deterministic.py", "--zarr", trained_on, "--run_dir", run_dir, *options], threads)
        record.write_text(json.dumps({"constants": constants, "seconds": seconds, "versions": versions()}, indent=1))
    out = folder / f"{name}_seed{seed}_forecast.zarr"
    hours = max(one.leads) * one.step / HOUR
    command = ["infer_iterative.py", "--checkpoint", run_dir / "best.pt", "--zarr", folder / f"{name}.zarr",
               "--init_time", *one.starts.astype("datetime64[m]"), "--hours", hours, "--out", out]  # fmt: skip
    seconds = timed(command, threads)
    return {"training": json.loads(record.read_text())["seconds"], "forecast": seconds}, out


def timed(command: list, threads: int) -> float:
    """Run a command, whose output goes to a .log file beside what it writes; seconds that it took."""
    began = time.monotonic()
    call(command, Path(f"{command[command.index('--out' if '--out' in command else '--run_dir') + 1]}.log"), threads)
    return time.monotonic() - began


def read_forecast(path: Path) -> Method:
    """The forecasts of a store; ValueError if it lacks one."""
    dataset = xr.open_zarr(path, chunks=None, decode_timedelta=False)
    starts = dataset["init_time"].values
    leads = list(dataset["valid_time"].values[0] - starts[0])

    @lru_cache(maxsize=1)
    def fields(name: str, start: np.datetime64) -> np.ndarray:
        return dataset[name].values[list(starts).index(start)]

    return lambda name, start, lead: fields(name, start)[leads.index(lead)]


# ---- baselines


class Record:
    """The truth in memory: times, and (time, y, x) by variable."""

    def __init__(self, path: Path):
        with xr.open_zarr(path, chunks=None) as dataset:
            self.times = dataset["time"].values.astype("datetime64[ns]")
            self.fields = {str(n): v.values for n, v in dataset.data_vars.items() if v.ndim == 3}

    def at(self, name: str, time: np.datetime64) -> np.ndarray | None:
        """The field (y, x) of a time, None if the record lacks it."""
        found = np.flatnonzero(self.times == time)
        return self.fields[name][found[0]] if len(found) else None


def baselines(one: Set, record: Record) -> dict[str, Method]:
    """Forecasts that cost nothing, by name."""
    training = record.times <= np.datetime64(one.constants["train_end"], "ns")

    @lru_cache(maxsize=1)
    def moved(name: str, start: np.datetime64) -> np.ndarray | None:
        if name not in ("REFC", "RAIN"):
            return None
        frames = np.stack([record.at(name, start - k * one.step) for k in range(FRAMES - 1, -1, -1)])
        if name == "REFC":
            return extrapolate(frames, one.leads[-1])
        return from_dbz(extrapolate(to_dbz(frames), one.leads[-1]))

    def extrapolation(name: str, start: np.datetime64, lead: np.timedelta64) -> np.ndarray | None:
        fields = moved(name, start)
        return None if fields is None else fields[int(lead // one.step) - 1]

    return {
        "persistence": lambda name, start, lead: record.at(name, start),
        "climatology": lambda name, start, lead: climatology(
            record.fields[name][training], record.times[training], start + lead
        ),
        "yesterday": lambda name, start, lead: record.at(name, start + lead - DAY) if lead <= DAY else None,
        "extrapolation": extrapolation,
    }


def climatology(fields: np.ndarray, times: np.ndarray, valid: np.datetime64) -> np.ndarray | None:
    """Mean (y, x) of the training fields (time, y, x) at the hour of day of `valid`; None if there is none.

    On records under a week the hour before and the hour after count too, so that one day's weather counts less.
    """
    apart = (hour_of_day(times) - hour_of_day(valid) + 12) % 24 - 12
    if not (apart == 0).any():
        return None
    days = len(np.unique(times.astype("datetime64[D]")))
    return fields[np.abs(apart) <= (days < WEEK)].mean(axis=0, dtype=np.float64)


def hour_of_day(time: np.ndarray | np.datetime64) -> np.ndarray:
    return (time.astype("datetime64[h]") - time.astype("datetime64[D]")) // HOUR


def to_dbz(rain: np.ndarray) -> np.ndarray:
    """Rain (mm in an hour) as reflectivity, Z = 200 R^1.6 (Marshall and Palmer 1948)."""
    with np.errstate(divide="ignore"):
        return np.maximum(10 * np.log10(200 * np.maximum(rain, 0) ** 1.6), NO_ECHO)


def from_dbz(reflectivity: np.ndarray) -> np.ndarray:
    return np.where(reflectivity <= NO_ECHO, 0.0, (10 ** (reflectivity / 10) / 200) ** (1 / 1.6))


# ---- scores


def score(one: Set, record: Record, method: Method) -> dict:
    """{variable: {lead in steps: scores}} of one method; leads that it lacks are left out.

    All sums are taken over start times before any ratio or root. The cells are those that truth and analysis have:
    the same for every method.
    """
    out: dict[str, dict] = {}
    for name in one.variables:
        floor = lookup(name).scored_floor
        for lead in one.leads:
            cases = []
            for start in one.starts:
                truth, analysis = record.at(name, start + lead * one.step), record.at(name, start)
                given = method(name, start, lead * one.step)
                if given is None:
                    break
                scored = np.isfinite(truth) & np.isfinite(analysis)
                if lost := int((~np.isfinite(given) & scored).sum()):
                    raise ValueError(f"{one.title}: got a forecast of {name} from {start} without a value in {lost} "
                                     "cells that truth and analysis have. Fix: forecast again")  # fmt: skip
                cases.append((np.maximum(given, floor), np.maximum(truth, floor), scored))
            if len(cases) == len(one.starts):
                entry: dict = errors_and_events(cases, THRESHOLDS.get(name, ()))
                if lead in (one.leads[0], one.leads[-1]):
                    entry |= structure(cases, one.clear)
                out.setdefault(name, {})[str(lead)] = entry
    return out


def errors_and_events(cases: list, thresholds: tuple[int, ...]) -> dict[str, float]:
    """RMSE, bias, and CSI and frequency bias by threshold, of (forecast, truth, scored) cases."""
    sums = added([scores.error_sums(*case) for case in cases])
    out = {"rmse": scores.rmse(sums), "bias": scores.bias(sums)}
    for threshold in thresholds:
        events = added([scores.contingency(f, t, threshold, scored) for f, t, scored in cases])
        out |= {f"csi_{threshold}": scores.csi(events), f"frequency_bias_{threshold}": scores.frequency_bias(events)}
    return {k: number(x) for k, x in out.items()}


def structure(cases: list, clear: tuple[slice, slice]) -> dict:
    """Power ratio of all waves above LARGE grid lengths, power ratio and coherence by band of wavelength in grid
    lengths, and line index (dB) by period in cells; `clear`: cells without a mask."""
    found = [spectra.spectrum_sums(f[clear], t[clear], (1.0, 1.0), detail=True) for f, t, _ in cases]
    sums = added(found)
    large = [b for b, name in enumerate(spectra.BAND_NAMES) if int(name.split("-")[0]) >= LARGE]
    forecast, truth, _ = np.nansum(sums["bands"][:, large], axis=1)
    by_band = {"power_ratio": spectra.power_ratio(sums["bands"]), "coherence": spectra.coherence(sums["bands"])}
    return {
        f"power_ratio_above_{LARGE}": number(forecast / truth if truth else np.nan),
        **{k: dict(zip(spectra.BAND_NAMES, map(number, x), strict=True)) for k, x in by_band.items()},
        "line_index": dict(zip(map(str, spectra.PERIODS), map(number, spectra.line_index(sums["lines"])), strict=True)),
    }


def added(tables: list[dict[str, float]]) -> dict[str, float]:
    """Sums over cases, key by key."""
    return {k: sum(t[k] for t in tables) for k in tables[0]}


def number(x: float | None) -> float | None:
    """A float that JSON can hold: None if it is not finite."""
    return None if x is None or not np.isfinite(x) else float(x)


def add_skill(result: dict) -> None:
    """Skill, 1 - RMSE / RMSE of persistence, to the scores of all methods and seeds."""
    reference = result["baselines"]["persistence"]
    for by_name in [*result["baselines"].values(), *(r["scores"] for r in result["seeds"].values())]:
        for name, by_lead in by_name.items():
            for lead, entry in by_lead.items():
                entry["skill"] = number(scores.skill(entry["rmse"], reference[name][lead]["rmse"]))


def merged(trees: list, combine: Callable[[list[float]], float]) -> dict | float | None:
    """One tree from equal trees of numbers; None where one of them has none."""
    if isinstance(trees[0], dict):
        return {k: merged([t[k] for t in trees], combine) for k in trees[0]}
    return None if None in trees else combine(trees)


# ---- what is written


def describe(one: Set) -> dict:
    """What a set's numbers belong to."""
    return {
        "title": one.title, "constants": one.constants, "step_minutes": one.step / np.timedelta64(1, "m"),
        "init_times": [str(t) for t in one.starts.astype("datetime64[m]")], "versions": versions(),
        "baselines": {}, "seeds": {},
    }  # fmt: skip


def versions() -> dict[str, str]:
    return {"python": python_version(), **{n: version(n) for n in ("torch", "numpy", "xarray", "zarr")}}


def save(path: Path, results: dict) -> None:
    """Put these sets into the file; other sets keep their numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | results, indent=1) + "\n")


def table(results: dict) -> str:
    """A line for each set, score and lead time."""
    out = [f"{'':<16}{'':<24}{'lead':>8}" + "".join(f"{m:>16}" for m in ("model", *BASELINES))]
    for key, result in results.items():
        one = SETS[key]
        for name, kind, leads in one.rows:
            for lead in leads:
                at = [name, str(lead), kind]
                cells = [show(pick(result.get("mean"), at), kind, pick(result.get("spread"), at))]
                cells += [show(pick(result["baselines"][m], at), kind) for m in BASELINES]
                label = f"{name} {kind.replace('_', ' ')}" + f" {lookup(name).units}" * (kind == "rmse")
                minutes = int(lead * one.step / np.timedelta64(1, "m"))
                when = f"{minutes} min" if minutes % 60 else f"{minutes // 60} h"
                out.append(f"{one.title:<16}{label:<24}{when:>8}" + "".join(f"{c:>16}" for c in cells))
    counts = {len(r["seeds"]) for r in results.values()}
    return "\n".join([*out, f"model: mean of {max(counts)} seeds (highest minus lowest)"])


def pick(tree: dict | None, path: list[str]) -> float | None:
    for key in path:
        tree = (tree or {}).get(key)
    return tree


def show(value: float | None, kind: str, spread: float | None = None) -> str:
    if value is None:
        return "-"
    return (
        f"{value:+.3f}" * (kind == "skill")
        + f"{value:.3f}" * (kind != "skill")
        + ("" if spread is None else f" ({spread:.3f})")
    )


if __name__ == "__main__":
    run(Config, main, __doc__)
