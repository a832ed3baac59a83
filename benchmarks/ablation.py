"""What each choice of the training is worth: every one switched alone, the same seconds of training, held-out hours.

    python -m benchmarks.ablation                                          # screening: demo and era5, one seed
    python -m benchmarks.ablation --seeds 0 1 2 --stores demo era5 idaho --choices history_0 muon_off
    python -m benchmarks.ablation --train False --docs docs/ablation.md    # only the tables, also into the document

A row of the table is the reference set with one thing changed. The seconds of an optimizer step are measured first, in
that very configuration, and the number of steps is what then fits into --budget. Constants are changed as on the
command line of train_deterministic.py; what is no constant is replaced in this process (`choices`, below). Finished
runs are in --json and are not run again; a run with other constants, another budget or another revision of the code is
another run. Stores are made once under --work. Validation runs only at the end, outside the budget: the last averaged
weights are scored.
"""

import statistics as stats
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal
from unittest import mock

import numpy as np

import train_deterministic
from benchmarks.ablation_choices import Choice, choices
from benchmarks.ablation_score import STORES, headline, make_store, score, suits
from benchmarks.ablation_table import add_run, find, read_runs, table, write_between
from data.command import nearest, run
from data.store import Store
from data.times import parse_duration, show_duration
from training.schedule import pair_tasks, rollout_tasks, two_phases

REFERENCE = {
    "batch_size": 4, "accumulate": 2, "base_features": 32, "levels": 2, "blocks": 4, "width": 2.0, "rollout_width": 8.0,
    "rollout_hours": 12.0, "rollout_lr": 0.5, "memory": "fast",
    # these came after the other rows and stand in rows of their own
    "shift": False, "sharpen": False, "restrain": False,
}  # fmt: skip
# of network, loss and training; one more where the same constants begin to give other runs. 1: two blocks on every
# level; 2: they stand on the coarsest cells; 3: the spectral term compares powers; 4: and in roll-outs those of changes
REVISION = 4
# constants that came with the revision as it is, and what a run without the name has
LATER = {"shift": False, "sharpen": False, "restrain": False, "rollout_accumulate": 0, "edge_weight": 1.0}
PARTS = 5  # epochs come in fives, of which `rollout_parts` of the choice (1: 20 %) train on the model's own forecasts
TIMED = 5  # optimizer steps of each kind that are timed; the first does not count
UNUSED = {"validate_hours": 0.01, "save_every": 60.0, "preview_every": 0}  # the shortest validation, at the end
NOT_COMPARED = (
    "zarr",
    "run_dir",
    "epochs",
    "rollout_epochs",
    "validate_every",
    "cache_gb",
    "seed",
    "memory_gb",
    "empty_cache_every",
    "memory",
    "tensorboard",
    "quiet",
    "patience",
    "skip_steps",
    "explode",
    *UNUSED,
)


@dataclass
class Config:
    stores: tuple[str, ...] = ("demo", "era5")  # demo, era5, idaho, washita, radar
    choices: tuple[str, ...] = ()  # rows to make beside the reference; empty: all
    seeds: tuple[int, ...] = (0,)
    budget: float = 90.0  # seconds of optimizer steps of one run
    clock: Literal["wall", "cpu"] = "wall"  # that measures them; cpu: for one thread on a busy machine
    json: str = "benchmarks/results/ablation.json"  # the runs; each is added when it is finished
    docs: str = ""  # document that the tables are written into; empty: none
    work: str = "runs/ablation"  # folder for the stores and what is being trained
    data: str = "../shared/data"  # folder of the real data
    train: bool = True  # make the runs that are missing; False: only the tables


def main(cfg: Config) -> None:
    rows = choices(base())
    for what, given, known in (("stores", cfg.stores, STORES), ("choices", cfg.choices, rows)):
        if unknown := [g for g in given if g not in known]:
            raise ValueError(
                f"{what}: got {unknown[0]}, expected some of {' '.join(known)}. Fix: {nearest(unknown[0], known)}"
            )
    rows = {n: c for n, c in rows.items() if n in ("reference", *cfg.choices) or not cfg.choices}
    stores = {name: paths for name in cfg.stores if (paths := make_store(name, Path(cfg.work), Path(cfg.data)))}

    # --- the runs that are missing ---
    jobs = [(s, n, seed) for seed in cfg.seeds for s in stores for n in rows if suits(rows[n].needs, stores[s][0])]
    keys = {job: key(cfg, rows[job[1]], *job) for job in jobs}
    missing = [job for job in jobs if find(read_runs(cfg.json), keys[job]) is None] if cfg.train else []
    print(f"{len(jobs)} runs, {len(missing)} of them to be made, {cfg.budget:g} s of training each", flush=True)
    for number, job in enumerate(missing, start=1):
        store, name, seed = job
        began = time.perf_counter()
        result = make_run(cfg, rows[name], store, stores[store], seed)
        add_run(Path(cfg.json), keys[job] | result)
        print(f"[{number}/{len(missing)}] {store} {name}, seed {seed}: {outcome(result, STORES[store].leads)}; "
              f"{time.perf_counter() - began:.0f} s in all", flush=True)  # fmt: skip

    # --- the tables ---
    runs = {job: found for job in jobs if (found := find(read_runs(cfg.json), keys[job]))}
    text = "\n\n".join(store_table(cfg, rows, store, runs) for store in stores)
    print(text)
    if cfg.docs:
        write_between(Path(cfg.docs), text)
        print(f"wrote {cfg.docs}")


def base() -> train_deterministic.Config:
    return replace(train_deterministic.Config(), **REFERENCE)


def key(cfg: Config, choice: Choice, store: str, name: str, seed: int) -> dict:
    """What makes a run the same run."""
    constants = asdict(replace(base(), **STORES[store].split, **choice.constants))
    constants = {k: v for k, v in constants.items() if k not in NOT_COMPARED and LATER.get(k, ...) != v}
    return {"revision": REVISION, "store": store, "choice": name, "seed": seed, "budget": cfg.budget,
            "clock": cfg.clock, "rollout_parts": choice.rollout_parts, "constants": constants}  # fmt: skip


def outcome(result: dict, leads: tuple[int, int, int]) -> str:
    if "failed" in result:
        return f"failed: {result['failed']}"
    figures = ", ".join(f"{k} {v:.3f}" for k, v in headline(result, leads).items() if v is not None)
    return f"{result['samples']} samples in {result['seconds']:.0f} s; {figures}"


def store_table(cfg: Config, rows: dict[str, Choice], store: str, runs: dict[tuple, dict]) -> str:
    leads, own = STORES[store].leads, {(n, seed): r for (s, n, seed), r in runs.items() if s == store}
    figures: dict = {n: {} for n in rows}
    for (n, seed), r in own.items():
        figures[n][seed] = None if "failed" in r else headline(r, leads)
    counts = {n: [r["samples"] for (m, _), r in own.items() if m == n and "samples" in r] for n in rows}
    lead = parse_duration(STORES[store].split.get("lead", base().lead), "lead")
    texts = dict(zip(("near", "middle", "far"), (show_duration(k * lead) for k in leads), strict=True))
    starts = next((len(r["start_times"]) for r in own.values() if "start_times" in r), 0)
    title = f"{store}: {cfg.budget:g} s of training a run, {starts} test start times"
    return table(title, texts, {n: c.text for n, c in rows.items()}, figures,
                 {n: sum(c) / max(len(c), 1) for n, c in counts.items()})  # fmt: skip


# --- one run ---


def make_run(cfg: Config, choice: Choice, store: str, paths: tuple[Path, Path], seed: int) -> dict:
    """Time the steps, train for the budget, score; {"failed": why} where the training or its forecast breaks down."""
    setup, constants = STORES[store], replace(base(), **STORES[store].split, **choice.constants)
    patches = [*choice.patches, (Store, "load", remembered)]
    with TemporaryDirectory(dir=cfg.work) as folder, changed(patches), open(f"{cfg.work}/log.txt", "a") as log:
        constants = replace(constants, zarr=str(paths[0]), run_dir=f"{folder}/run", seed=seed, **UNUSED)
        try:
            with redirect_stdout(log):
                steps, epochs, rollout_epochs = plan(constants, choice.rollout_parts, cfg)
                meter = Meter(steps, steps * (epochs - rollout_epochs), steps * rollout_epochs, CLOCKS[cfg.clock])
                began = time.process_time()
                train(replace(constants, epochs=epochs, rollout_epochs=rollout_epochs, validate_every=epochs), meter)
                cpu = time.process_time() - began
                result = score(Path(constants.run_dir) / "best.pt", paths[1], setup)
        except ValueError as error:
            traceback.print_exc(file=log)
            return {"failed": str(error)}
    n = len(meter.ends)
    seconds = (meter.ends[-1] - meter.ends[0]) * n / max(n - 1, 1)  # the first step has no beginning of its own
    return {"steps": n, "epochs": epochs, "samples": meter.samples,
            "seconds": round(seconds, 2), "seconds_per_sample": round(seconds / meter.samples, 5),
            "cpu_seconds": round(cpu, 1), **result}  # fmt: skip


def plan(constants, rollout_parts: int, cfg: Config) -> tuple[int, int, int]:
    """(optimizer steps an epoch, epochs, those of them from own forecasts) that fit into the budget."""
    meter = Meter(TIMED, TIMED, TIMED, CLOCKS[cfg.clock], stop=TIMED * (1 + (rollout_parts > 0)))
    try:
        train(replace(constants, epochs=2, rollout_epochs=int(rollout_parts > 0), validate_every=2), meter)
    except Enough:
        pass
    durations, share = np.diff(meter.ends), rollout_parts / PARTS
    one, chain = stats.median(durations[: TIMED - 1]), stats.median(durations[-(TIMED - 1) :])
    total = cfg.budget / ((1 - share) * one + share * chain)
    fives = max(1, int(np.ceil(total / (PARTS * meter.whole))))
    return max(1, min(round(total / (PARTS * fives)), meter.whole)), PARTS * fives, rollout_parts * fives


def train(constants, meter: "Meter") -> None:
    with changed(meter.patches()):
        code = train_deterministic.main(constants)
    if code:
        sys.exit(code)


class Enough(Exception):
    """All steps that were to be timed are done."""


class Meter:
    """Cuts every epoch of a training to `steps` optimizer steps, with a schedule of `first` steps on pairs and `second`
    on own forecasts to match, counts samples with a gradient, and notes when each step ended. With `stop`, the training
    is for timing: it ends after so many steps, and every chain has the mean number of steps without gradient."""

    def __init__(self, steps: int, first: int, second: int, clock: Callable[[], float], stop: int = 0):
        self.steps, self.first, self.second, self.clock, self.stop = steps, first, second, clock, stop
        self.ends, self.samples, self.whole = [], 0, 0

    def patches(self) -> list[tuple]:
        optimizer_step = train_deterministic.Optimizers.step

        def step(optimizer) -> None:
            optimizer_step(optimizer)
            self.ends.append(self.clock())
            if len(self.ends) == self.stop:
                raise Enough

        def pairs(*args) -> list:
            groups = pair_tasks(*args)
            self.whole = len(groups)
            return self.counted((groups * (self.steps if self.stop else 1))[: self.steps])

        def chains(order, batch_size, accumulate, longest, count, rng) -> list:
            groups = rollout_tasks(order, batch_size, accumulate, longest, self.steps, rng)
            if self.stop:
                groups = [[replace(t, skip=(longest - t.steps) // 2) for t in g] for g in groups]
            return self.counted(groups)

        def factor(n, first, second, **rest) -> float:
            return two_phases(n, self.first, self.second, **rest)

        ours = {"pair_tasks": pairs, "rollout_tasks": chains, "two_phases": factor, "rehearse": lambda *_: 0}
        return [(train_deterministic.Optimizers, "step", step), *((train_deterministic, *p) for p in ours.items())]

    def counted(self, groups: list) -> list:
        self.samples += sum(len(task.starts) * task.steps for group in groups for task in group)
        return groups


def remembered(store: Store, time: np.datetime64, names: list[str]) -> np.ndarray:
    """Store.load that reads an hour once in the process, so that no step waits for the disk."""
    where = (str(store.path), str(time), *names)
    if where not in HOURS:
        HOURS[where] = LOAD(store, time, names)
    return HOURS[where].copy()


HOURS, LOAD = {}, Store.load
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@contextmanager
def changed(patches) -> Iterator[None]:
    """(object, attribute, value)s replaced while the context is open."""
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(mock.patch.object(*patch))
        yield


if __name__ == "__main__":
    run(Config, main, __doc__)
