"""The real-weather league: one recipe on every set, beside simple baselines, in one table.

    python -m benchmarks.league
    python -m benchmarks.league --sets era5 radar --seeds 0 1 2
    python -m benchmarks.league --only_baselines True

Builds the stores, trains each set with the defaults of train_deterministic.py (only the constants of size and data in
benchmarks/league_sets.py differ), forecasts from test hours, scores and prints the table. Writes stores, runs and
forecasts into --folder and all numbers into --json, in which other sets keep theirs. A finished training is not
repeated.
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

from benchmarks.league_sets import HOUR, MINUTE, SETS, Set, call, make_store
from data.command import nearest, run
from data.grid import read_grid
from data.variables import lookup
from verification import scores, spectra
from verification.climate import estimate
from verification.extrapolation import extrapolate, reach_of

FRAMES = 3  # fields, the analysis included, that show extrapolation the motion
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
    only_baselines: bool = False  # build the stores and score the baselines alone; --json is not written


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
        record = Record(make_store(name, data, folder, cfg.threads))
        result = results[name] = describe(one)
        result["baselines"] = {n: score(one, record, method) for n, method in baselines(one, record).items()}
        for seed in [] if cfg.only_baselines else cfg.seeds:
            seconds, forecast = train_and_forecast(name, data, folder, seed, cfg.threads)
            result["seeds"][str(seed)] = {"seconds": seconds, "scores": score(one, record, stored(forecast))}
        add_skill(result)
        if result["seeds"]:
            trees = [r["scores"] for r in result["seeds"].values()]
            result["mean"] = merged(trees, lambda x: float(np.mean(x)))
            result["spread"] = merged(trees, lambda x: float(np.ptp(x)))
            save(Path(cfg.json), {name: result})
    print(table(results))


# ---- training and forecasts, by the commands


def train_and_forecast(name: str, data: Path, folder: Path, seed: int, threads: int) -> tuple[dict, Path]:
    """Train if that is not done, then forecast: seconds of both, and the forecast store."""
    one, trained_on = SETS[name], SETS[name].train_on or name
    run_dir, out = folder / f"{trained_on}_seed{seed}", folder / f"{name}_seed{seed}_forecast.zarr"
    constants, done = {"seed": seed, **one.constants}, run_dir / "league.json"
    if not done.exists():
        print(f"training {run_dir}", flush=True)
        store = make_store(trained_on, data, folder, threads)
        options = [x for k, v in constants.items() for x in (f"--{k}", *(v if isinstance(v, list) else [v]))]
        began = time.monotonic()
        command = ["train_deterministic.py", "--zarr", store, "--run_dir", run_dir, *options]
        call(command, Path(f"{run_dir}.log"), threads)
        facts = {"constants": constants, "seconds": time.monotonic() - began, "versions": versions()}
        done.write_text(json.dumps(facts, indent=1))
    trained = json.loads(done.read_text())
    if trained["constants"] != constants:
        raise ValueError(f"{done}: got the run of other constants, expected those of benchmarks/league_sets.py. "
                         "Fix: another --folder, or remove this run")  # fmt: skip
    began = time.monotonic()
    call(["infer_iterative.py", "--checkpoint", run_dir / "best.pt", "--zarr", folder / f"{name}.zarr", "--init_time",
          *one.starts.astype("datetime64[m]"), "--hours", one.leads[-1] * one.step / HOUR, "--out", out],
         out.with_suffix(".log"), threads)  # fmt: skip
    return {"training": trained["seconds"], "forecast": time.monotonic() - began}, out


def stored(path: Path) -> Method:
    """The forecasts of a forecast store."""
    dataset = xr.open_zarr(path, chunks=None, decode_timedelta=False)
    starts, valid = dataset["init_time"].values, dataset["valid_time"].values

    @lru_cache(maxsize=1)
    def fields(name: str, start: np.datetime64) -> dict[np.datetime64, np.ndarray]:
        i = int(np.flatnonzero(starts == start)[0])
        return dict(zip(valid[i], dataset[name][i].values, strict=True))

    return lambda name, start, lead: fields(name, start)[start + lead]


# ---- baselines


class Record:
    """A store in memory: times, and (time, y, x) by variable."""

    def __init__(self, path: Path):
        with xr.open_zarr(path, chunks=None, consolidated=False) as dataset:
            self.times = dataset["time"].values.astype("datetime64[ns]")
            self.fields = {str(n): v.values for n, v in dataset.data_vars.items() if v.ndim == 3}
            self.spacing = np.mean(read_grid(dataset, dataset[next(iter(self.fields))].dims[1:]).spacing or 3000.0)  # m

    def at(self, name: str, time: np.datetime64) -> np.ndarray | None:
        """The field (y, x) of a time, None if the record lacks it."""
        found = np.flatnonzero(self.times == time)
        return self.fields[name][found[0]] if len(found) else None


def baselines(one: Set, record: Record) -> dict[str, Method]:
    """The simple baselines, by name. The climatology sees the training hours alone."""
    training = record.times[record.times <= np.datetime64(one.constants["train_end"], "ns")]
    climate = estimate(training, lambda time: {n: record.at(n, time) for n in one.variables})

    reach = reach_of(one.step, one.spacing or record.spacing)

    @lru_cache(maxsize=1)
    def moved(name: str, start: np.datetime64) -> np.ndarray:
        frames = np.stack([record.at(name, start - k * one.step) for k in range(FRAMES - 1, -1, -1)])
        if name == "RAIN":  # motion is sought, and echo moved, in dBZ
            return from_dbz(extrapolate(to_dbz(frames), one.leads[-1], reach))
        return extrapolate(frames, one.leads[-1], reach)

    return {
        "persistence": lambda name, start, lead: record.at(name, start),
        "climatology": lambda name, start, lead: climate.at(name, start + lead),
        "yesterday": lambda name, start, lead: record.at(name, start + lead - DAY),  # no lead is over a day
        "extrapolation": lambda name, start, lead: (
            moved(name, start)[int(lead // one.step) - 1] if name in ("REFC", "RAIN") else None
        ),
    }


def to_dbz(rain: np.ndarray) -> np.ndarray:
    """Rain (mm in an hour) as reflectivity, Z = 200 R^1.6 (Marshall and Palmer 1948)."""
    with np.errstate(divide="ignore"):
        return np.maximum(10 * np.log10(200 * np.maximum(rain, 0) ** 1.6), NO_ECHO)


def from_dbz(reflectivity: np.ndarray) -> np.ndarray:
    return np.where(reflectivity <= NO_ECHO, 0.0, (10 ** (reflectivity / 10) / 200) ** (1 / 1.6))


# ---- scores


def score(one: Set, record: Record, method: Method) -> dict:
    """{variable: {lead in steps: scores}} of one method; leads that it lacks are left out.

    Sums are taken over all start times before any ratio or root. The cells are those that truth and analysis have, the
    same for every method.
    """
    out: dict[str, dict] = {n: {} for n in one.variables}
    for name in one.variables:
        floor = lookup(name).scored_floor
        for lead in one.leads:
            cases = []
            for start in one.starts:
                truth, forecast = record.at(name, start + lead * one.step), method(name, start, lead * one.step)
                if forecast is None:
                    break
                scored = np.isfinite(truth) & np.isfinite(record.at(name, start))
                if lost := int((~np.isfinite(forecast) & scored).sum()):
                    raise ValueError(f"{one.title}: got a forecast of {name} from {start} without a value in {lost} "
                                     "cells that have truth, expected none. Fix: forecast again")  # fmt: skip
                cases.append((np.maximum(forecast, floor), np.maximum(truth, floor), scored))
            else:
                out[name][str(lead)] = errors_and_events(cases, THRESHOLDS.get(name, ()))
                if lead in (one.leads[0], one.leads[-1]):
                    out[name][str(lead)] |= structure([(f[one.clear], t[one.clear]) for f, t, _ in cases])
    return out


def errors_and_events(cases: list, thresholds: tuple[int, ...]) -> dict[str, float | None]:
    """RMSE, bias, and CSI and frequency bias by threshold, of (forecast, truth, scored) cases."""

    def added(tables: list[dict]) -> dict:
        return {k: sum(t[k] for t in tables) for k in tables[0]}

    sums = added([scores.error_sums(*case) for case in cases])
    out = {"rmse": scores.rmse(sums), "bias": scores.bias(sums)}
    for threshold in thresholds:
        events = added([scores.contingency(f, t, threshold, scored) for f, t, scored in cases])
        out |= {f"csi_{threshold}": scores.csi(events), f"frequency_bias_{threshold}": scores.frequency_bias(events)}
    return {k: number(x) for k, x in out.items()}


def structure(cases: list) -> dict:
    """Of (forecast, truth) cases without a mask: power ratio and coherence by band of wavelength (grid lengths), the
    power ratio of all longer waves than LARGE, and line index (dB) by period (cells); None if not available."""
    sums = [spectra.spectrum_sums(*case, (1.0, 1.0), detail=True) for case in cases]
    bands, lines = (sum(s[key] for s in sums) for key in ("bands", "lines"))
    bands = np.broadcast_to(bands, (3, len(spectra.BANDS)))
    forecast, truth = np.nansum(bands[:2, [low >= LARGE for low, _ in spectra.BANDS]], axis=1)
    by_band = {"power_ratio": spectra.power_ratio(bands), "coherence": spectra.coherence(bands)}
    return {
        f"power_ratio_above_{LARGE}": number(scores.ratio(forecast, truth)),
        **{k: dict(zip(spectra.BAND_NAMES, map(number, x), strict=True)) for k, x in by_band.items()},
        "line_index": dict(zip(map(str, spectra.PERIODS), map(number, spectra.line_index(lines)), strict=True)),
    }


def number(x: float) -> float | None:
    """A float that JSON can hold: None if it is not finite."""
    return float(x) if np.isfinite(x) else None


def add_skill(result: dict) -> None:
    """Skill, 1 - RMSE / RMSE of persistence, beside the RMSE of every method and seed."""
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
        "title": one.title, "constants": one.constants, "step_minutes": one.step / MINUTE,
        "init_times": [str(t) for t in one.starts.astype("datetime64[m]")], "versions": versions(), "seeds": {},
    }  # fmt: skip


def versions() -> dict[str, str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    libraries = {n: version(n) for n in ("torch", "numpy", "xarray", "zarr")}
    return {"python": python_version(), **libraries, "device": device}


def save(path: Path, results: dict) -> None:
    """Put these sets into the file; other sets keep their numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | results, indent=1) + "\n")


def table(results: dict) -> str:
    """A line for each set, score and lead time."""
    out = [f"{'':<38}{'lead':>8}{'model':>17}" + "".join(f"{m:>15}" for m in BASELINES)]
    for key, result in results.items():
        for name, kind, leads in SETS[key].rows:
            for lead in leads:

                def text(tree: dict, at: tuple = (name, str(lead), kind)) -> str:
                    value = tree.get(at[0], {}).get(at[1], {}).get(at[2])
                    return "-" if value is None else f"{value:{'+' if at[2] == 'skill' else ''}.3f}"

                label = " ".join([f"{SETS[key].title:<15}", name, kind.replace("_", " ")])
                minutes = int(lead * SETS[key].step / MINUTE)
                when = f"{minutes} min" if minutes % 60 else f"{minutes // 60} h"
                model = text(result.get("mean", {}))
                if "spread" in result:
                    model += f" ({text(result['spread']).lstrip('+')})"
                columns = "".join(f"{text(result['baselines'][m]):>15}" for m in BASELINES)
                out.append(f"{label:<38}{when:>8}{model:>17}{columns}")
    return "\n".join([*out, "model: mean of the seeds (highest minus lowest); units as in data/variables.py"])


if __name__ == "__main__":
    run(Config, main, __doc__)
