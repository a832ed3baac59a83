"""How well could the synthetic weather be forecast from what is stored of it? The generator restarted as its own twin.

    python -m benchmarks.twin --json benchmarks/results/twin.json
    python -m benchmarks.twin --every 44 --sets twin    # a quick look

Of the record itself the twin is given the seven stored variables of two hours (or one), with ERROR added, and nothing
else; benchmarks/twin_estimate.py finds the hidden state. `carry` without innovations is the forecast. Beside it stand
the generator restarted from its whole true state, without innovations and with innovations of another draw: what the
next hour leaves open even then.
Scored by skill = 1 - RMSE / RMSE of persistence of the true fields, squares summed over cases, by FSS of REFC, and by
the RMSE of the edge band over that inside, as the certificate has it.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.twin_estimate import ERROR, HOUR, INNER, clock_hour, estimate, make_place
from data.command import run
from data.storm_physics import State, World, advance, carry, cycles, diagnose, first_state, hourly_spread, noise
from data.synthetic_storms import NAMES, SPIN_UP, VERSION, make_world, one_thread
from data.times import parse_time, show
from data.variables import lookup
from verification.lines import edge_scores, edge_sums
from verification.scores import error_sums, fss, fss_sums, rmse, skill

LEADS = (1, 2, 3)  # h
SETS = {  # name: (window in h, share of ERROR, are the cycles known?)
    "twin": (2, 1.0, False),
    "twin, no error": (2, 0.0, False),
    "twin, known cycles": (2, 1.0, True),
    "twin, one hour": (1, 1.0, False),
}


@dataclass
class Config:
    seed: int = 1  # of the record
    start: str = "2024-06-20T00"  # its first hour, UTC
    hours: int = 288  # its length
    size: int = 64  # cells on each side
    first: int = 12  # hours from the start to the first initial time
    every: int = 11  # hours between initial times: 24 of them meet every hour of the day
    iterations: int = 50  # of L-BFGS
    sets: tuple[str, ...] = tuple(SETS)  # rows to make
    json: str = ""  # file for the figures


def main(cfg: Config) -> None:
    if unknown := [s for s in cfg.sets if s not in SETS]:
        raise ValueError(f"sets: got {unknown[0]!r}, expected some of {' | '.join(SETS)}. Fix: --sets twin")
    start = parse_time(cfg.start, "start").astype("datetime64[s]")
    inits = range(cfg.first, cfg.hours - max(LEADS), cfg.every)
    if len(inits) == 0 or cfg.first < 1:
        raise ValueError(f"hours: got {cfg.hours}, expected some after --first {cfg.first} >= 1. Fix: --hours 288")
    print(f"seed {cfg.seed}, {len(inits)} initial times from {show(start + inits[0] * HOUR)} every {cfg.every} h")
    with one_thread():
        world, place = make_world(cfg.size, cfg.seed), make_place(cfg.size, cfg.seed + 1)
        climate = climate_of([cfg.seed + s for s in (1, 2, 3)], cfg.size, start)
        kept = [c + lead for c in inits for lead in (-1, 0, *LEADS)]
        record = dict(run_record(world, cfg.seed, start, max(kept) + 1, set(kept)))
        sums, seconds = {}, {}
        print(f"{'skill at 1 h':24s}{''.join(f'{n:>8s}' for n in NAMES)}   FSS(20 dBZ, 3 x 3) at 1, 2, 3 h   s/case")
        for name in ("persistence", "true state", "true state, other draw", *cfg.sets):
            began = time.perf_counter()
            cases = tqdm(inits, desc=name, unit="case", leave=False, disable=None)
            rows = [score(forecast(cfg, name, world, place, climate, record, start, c), record, c) for c in cases]
            sums[name] = {key: {k: sum(r[key][k] for r in rows) for k in rows[0][key]} for key in rows[0]}
            seconds[name] = round((time.perf_counter() - began) / len(inits), 2)
            gain = "".join(f"{skill(rmse(sums[name][n, 1]), rmse(sums['persistence'][n, 1])):+8.2f}" for n in NAMES)
            marks = "   ".join(f"{fss(sums[name]['FSS', k]):.2f}" for k in LEADS)
            print(f"{name:24s}{gain}   {marks:31s}   {seconds[name]:6.1f}", flush=True)
    report(cfg, sums, seconds, [show(start + c * HOUR) for c in inits])


# --- the record, its forecasts, their scores ---


def run_record(world: World, seed: int, start: np.datetime64, hours: int, kept: set) -> Iterator:
    """(hour, (state, {name: (size, size)})) of the `kept` hours, the very numbers that data.synthetic_storms stores."""
    state = first_state(world, np.random.default_rng((seed, 1)))
    for h in range(-SPIN_UP, hours):
        if h in kept:
            yield h, (state, stored(world, state, start + h * HOUR))
        state = advance(world, state, start + h * HOUR, np.random.default_rng((seed, 2, h + SPIN_UP)))


def stored(world: World, state: State, when: np.datetime64) -> dict[str, Tensor]:
    """The seven variables over the stored domain."""
    fields = diagnose(world, state, when)
    return {name: fields[name][INNER] for name in NAMES}


def forecast(cfg: Config, name: str, world, place, climate, record, start, c: int) -> dict[int, dict]:
    """{lead: {name: (size, size)}} of one row of the table from hour `c`."""
    state, fields = record[c]
    if name == "persistence":
        return dict.fromkeys(LEADS, fields)
    rng, when = np.random.default_rng((cfg.seed, 3, c)), start + c * HOUR
    if name in SETS:
        window, share, known = SETS[name]
        hours = range(c - window + 1, c + 1)
        analyses = [analysis(record[h][1], share, rng) for h in hours]
        given = replace(place, slow=cycles(world, when)) if known else place
        world, state = estimate(given, climate, analyses, [start + h * HOUR for h in hours], cfg.iterations)
    spread, m = hourly_spread(world) * (name == "true state, other draw"), world.amplitude.shape[1]
    out = {}
    for lead in LEADS:
        state = carry(world, state, when + (lead - 1) * HOUR, torch.stack([s * noise(rng, m) for s in spread]))
        out[lead] = stored(world, state, when + lead * HOUR)
    return out


def analysis(fields: dict[str, Tensor], share: float, rng: np.random.Generator) -> dict[str, Tensor]:
    """The stored variables with `share` of ERROR; no echo stays no echo."""
    out = {}
    for name in NAMES:
        field = fields[name]
        error = share * ERROR[name] * torch.from_numpy(rng.standard_normal(field.shape, dtype=np.float32))
        out[name] = field + error * (field.abs() if name in ("CAPE", "CIN") else 1)
    out["REFC"] = torch.where(fields["REFC"] > -9.9, out["REFC"].clamp(min=-9.8), fields["REFC"])
    return out


def score(fields: dict[int, dict], record: dict, c: int) -> dict[tuple, dict]:
    """Sums of one case by (variable, lead), for ("edge", variable) those of the edge band apart at the first lead, and
    for ("FSS", lead) those of REFC >= 20 dBZ in 3 x 3 cells."""
    out = {}
    for lead in LEADS:
        truth = record[c + lead][1]
        for name in NAMES:
            floor = lookup(name).scored_floor
            ours, true = fields[lead][name].clamp(min=floor), truth[name].clamp(min=floor)
            out[name, lead] = error_sums(ours, true)
            if lead == LEADS[0]:
                out["edge", name] = edge_sums(ours - true)
        out["FSS", lead] = fss_sums(fields[lead]["REFC"], truth["REFC"], 20.0, 3)
    return out


def report(cfg: Config, sums: dict, seconds: dict, inits: list[str]) -> None:
    """Prints what the rows are measured by and whether the generator leaves enough open; writes the JSON."""
    base = {(n, k): rmse(sums["persistence"][n, k]) for n in NAMES for k in LEADS}
    reference = {n: {k: base[n, k] for k in LEADS} for n in NAMES}
    result = {"generator_version": VERSION, "seed": cfg.seed, "start": cfg.start, "size": cfg.size, "init_times": inits,
              "analysis_error": ERROR, "iterations": cfg.iterations, "cores": os.cpu_count(),
              "seconds_per_case": seconds, "persistence_rmse": reference, "skill": {}, "fss": {},
              "edge_over_interior": {}}  # fmt: skip
    for row, s in sums.items():
        result["skill"][row] = {n: {k: skill(rmse(s[n, k]), base[n, k]) for k in LEADS} for n in NAMES}
        result["fss"][row] = {k: fss(s["FSS", k]) for k in LEADS}
        apart = {n: edge_scores(s["edge", n]) for n in NAMES}
        result["edge_over_interior"][row] = {n: x["edge_rmse"] / x["interior_rmse"] for n, x in apart.items()}
    print(f"{'RMSE of persistence':24s}{''.join(f'{base[n, 1]:8.2f}' for n in NAMES)}")
    for row, ratios in result["edge_over_interior"].items():
        print(f"edge / interior, {row:24s}{''.join(f'{x:8.2f}' for x in ratios.values())}")
    if "twin" in sums:
        best = max((result["skill"]["twin"][n][1], n) for n in NAMES if base[n, 1] > 0)
        verdict = "PASS" if best[0] <= 0.9 else "FAIL: the generator is too easy"
        print(f"largest skill of the twin: {best[0]:.2f} ({best[1]}), at most 0.90: {verdict}")
    if cfg.json:
        Path(cfg.json).parent.mkdir(parents=True, exist_ok=True)
        Path(cfg.json).write_text(json.dumps(result, indent=1) + "\n")
        print(f"wrote {cfg.json}")


def climate_of(seeds: list[int], size: int, start: np.datetime64, hours: int = 48) -> dict[int, list]:
    """By hour of the day, for temperature and dew point: (mean, slope on their air mass, spread of the rest), K."""
    rows = {h: [] for h in range(24)}
    for seed in seeds:
        world = make_world(size, seed)
        for h, (state, _) in run_record(world, seed, start, hours, set(range(hours))):
            now = diagnose(world, state, start + h * HOUR)
            t, d = state.air[0] - now["slow"]["warmth"], state.air[1] - 0.7 * now["slow"]["dew"]
            fields = (t, now["random"]["air"], d, torch.tanh(1.2 * now["random"]["moisture"] + 0.2))
            rows[clock_hour(start + h * HOUR)].append(torch.stack(fields)[INNER].flatten(1))
    return {h: [fit(*pair) for pair in torch.cat(r, 1).split(2)] for h, r in rows.items()}


def fit(y: Tensor, x: Tensor) -> tuple[float, float, float]:
    """Intercept, slope and residual spread of y on x."""
    slope = ((x - x.mean()) * (y - y.mean())).mean() / x.var()
    return float(y.mean() - slope * x.mean()), float(slope), float((y - slope * x).std())


if __name__ == "__main__":
    run(Config, main, __doc__)
