"""The stores of the ablation (benchmarks/ablation.py) and how one of its runs is scored.

Every run of a store is scored from the same test start times, whatever its history, in one batch, and by the functions
of verification/: squares and counts are summed over the cases before any ratio.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from data import build_hrrr, synthetic_storms
from data.dataset import Hours, Series, Split, find_pairs
from data.forcing import CLOCK_FEATURES, Forcing
from data.grid import Grid
from data.normalise import Statistics, clip_physical, denormalise, limiter, normalise
from data.store import Store
from data.times import parse_duration
from data.variables import lookup
from data.write import StoreWriter
from models.rollout import rollout
from models.sharpen import Sharpening
from models.unet import ResidualUNet
from training.checkpoint import load_checkpoint
from verification import lines, scores, spectra
from verification.cases import add

LONGEST_HISTORY = 2  # steps before a start time that have to be there, so that all runs have the same start times
EVENT, WINDOW, HEAVY = 20.0, 3, 30.0  # dBZ and cells of the FSS, dBZ of the frequency bias
LEAST_RATIO = 1e-3  # a power ratio below this counts as this, so that a dead field has a finite log


@dataclass(frozen=True)
class Setup:
    """How a store is made, split and scored. make(source, out) writes the store `out`."""

    make: Callable[[Path, Path], None]
    source: str = ""  # in the folder of real data; empty: none needed
    make_test: Callable[[Path, Path], None] | None = None  # a store of its own for the test; None: the test part
    split: dict = field(default_factory=dict)  # constants of train_deterministic.py
    leads: tuple[int, int, int] = (1, 6, 24)  # steps: the near, middle and far lead of the table
    starts: int = 12  # start times, at most


def storms(hours: int, seed: int, start: str) -> Callable[[Path, Path], None]:
    return lambda _, out: synthetic_storms.main(synthetic_storms.Config(str(out), hours, seed=seed, start=start))


def built(kind: str) -> Callable[[Path, Path], None]:
    return lambda source, out: build_hrrr.main(build_hrrr.Config(source=kind, path=str(source), out=str(out)))


def radar(source: Path, out: Path) -> None:
    """Means of 2 x 2 cells of the Finnish radar over 160 x 160 of these, all inside its coverage."""
    with xr.open_dataset(source) as dataset:
        frames = dataset["dbz"].transpose("time", "y", "x")[:, 540:860, 200:520].values
        times = dataset["time"].values
    rain = np.maximum(frames, 0).reshape(len(frames), 160, 2, 160, 2).mean(axis=(2, 4)).astype(np.float32)
    metres = 2000.0 * np.arange(160)
    with StoreWriter(out, ["REFC"], Grid((160, 160), y=metres, x=metres), {"source": f"{source.name}, 2 x 2"}) as store:
        for time, fields in zip(times, rain, strict=True):
            store.write(time, {"REFC": fields})


STORES = {
    "demo": Setup(storms(720, 0, "2024-05-20T00"), make_test=storms(288, 1, "2024-06-20T00")),
    "era5": Setup(  # the first 25 days to train and validate, the last 5 to test
        built("zarr"), "era5_uk_t2m_744h.nc", starts=24,
        split={"train_end": "2019-03-21T23", "val_end": "2019-03-25T23"},
    ),
    "idaho": Setup(
        built("grib"), "hrrr_grib", split={"train_end": "2018-07-22T22", "val_end": "2018-07-23T05"}, leads=(1, 3, 4)
    ),
    "washita": Setup(
        built("zarr"), "nldas_washita_120h.nc", leads=(1, 6, 12),
        split={"train_end": "1998-10-04T05", "val_end": "1998-10-04T18", "gap": "3h"},
    ),
    "radar": Setup(  # frames of 5 min: the first 28 to train and validate, the rest to test
        radar, "fmi_dbz_20160928.nc", leads=(1, 3, 6),
        split={"train_end": "2016-09-28T16:20", "val_end": "2016-09-28T17:00", "gap": "5min", "lead": "5min"},
    ),
}  # fmt: skip


def make_store(name: str, work: Path, data: Path) -> tuple[Path, Path] | None:
    """The stores to train on and to score on, made where they are missing; None where their data is absent."""
    setup, source = STORES[name], data / STORES[name].source
    if setup.source and not source.exists():
        print(f"{name}: skipped, {source} is absent")
        return None
    paths = [work / "stores" / f"{name}{end}.zarr" for end in ("", "_test")]
    for path, make in zip(paths, (setup.make, setup.make_test), strict=True):
        if make and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            make(source, path)
    return paths[0], paths[1] if setup.make_test else paths[0]


def suits(needs: tuple[str, ...], store: Path) -> bool:
    """Whether a choice can make a difference: it may be about variables that the store does not have."""
    return not needs or any(lookup(n).name in needs for n in Store(store).names)


def spread(starts: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the start times, evenly spread, with as many different hours of the day as there can be."""
    chosen, seen = [], set()
    hour_of = (starts.astype("datetime64[h]").astype(int) % 24).tolist()
    for place in np.linspace(0, len(starts) - 1, min(count, len(starts))):
        free = [i for i in range(len(starts)) if i not in chosen]
        fresh = [i for i in free if hour_of[i] not in seen] or free
        chosen.append(min(fresh, key=lambda i: abs(i - place)))
        seen.add(hour_of[chosen[-1]])
    return starts[sorted(chosen)]


@torch.no_grad()
def score(checkpoint_path: Path, truth: Path, setup: Setup) -> dict:
    """{lead in steps: {variable: scores}} of the averaged weights, and the start times."""
    checkpoint, store = load_checkpoint(checkpoint_path), Store(truth)
    names, lead = store.choose(checkpoint["variables"]), parse_duration(checkpoint["lead"], "lead")
    test = Split.from_dict(checkpoint["split"]).test
    part = test if setup.make_test is None else (store.times.min(), store.times.max())
    starts = spread(find_pairs(store.times, lead, part, LONGEST_HISTORY, setup.leads[-1]), setup.starts)
    assert len(starts), "the test part has start times with truth to the far lead"
    statistics, constants = Statistics.from_dict(checkpoint["statistics"]), checkpoint["config"]
    assert checkpoint["grid"]["mask"] is None, "the stores of the ablation have no missing cells"
    forcing = Forcing(store.grid, lead, statistics.names, None)
    sizes = {k: constants[k] for k in ("base_features", "levels", "blocks", "history", "regression")}
    model = ResidualUNet(len(names), len(forcing.names), CLOCK_FEATURES, **sizes)
    model.load_state_dict(checkpoint["ema"])
    hours = Hours(store, names, None, cache_gb=1.0)
    floor = torch.tensor([lookup(n).scored_floor for n in names])[:, None, None]

    def true(k: int) -> torch.Tensor:
        return torch.stack([torch.maximum(hours(t + k * lead), floor) for t in starts])

    states = normalise(Series(hours, lead, constants["history"]).states(starts), statistics)
    sharpened = Sharpening.from_table(checkpoint.get("sharpening", {}), "free")
    scale = statistics.scale * torch.tensor([n not in checkpoint.get("held", []) for n in names])[:, None, None]
    steps = rollout(model, states, lambda k: forcing(starts + k * lead), scale, limiter(statistics),
                    setup.leads[-1], sharpened=sharpened)  # fmt: skip
    analysis, out = clip_physical(true(0), names), {}
    for k, (state, _) in enumerate(steps, start=1):
        if k in {1, 3, *setup.leads}:
            pred = torch.maximum(clip_physical(denormalise(state, statistics), names), floor)
            out[str(k)] = {n: variable_scores(n, *(x[:, c] for x in (pred, true(k), analysis)), store.grid.spacing)
                           for c, n in enumerate(names)}  # fmt: skip
    return {"start_times": [str(t.astype("datetime64[m]")) for t in starts], "scores": out}


def variable_scores(name: str, forecast, truth, analysis, spacing) -> dict:
    """The scores of one variable at one lead from fields (cases, y, x); None where one is not available."""
    total: dict | None = None
    for f, t, a in zip(forecast, truth, analysis, strict=True):
        case = {"errors": scores.error_sums(f, t), "persistence": scores.error_sums(a, t), "truth": scores.moments(t),
                "spectrum": spectra.spectrum_sums(f, t, spacing or (1.0, 1.0), modes=True)}  # fmt: skip
        modes = case["spectrum"].pop("modes")
        case["lines"] = lines.line_sums(modes)
        if lookup(name).name == "REFC":
            case["fss"] = scores.fss_sums(f, t, EVENT, WINDOW)
            case["persistence_fss"] = scores.fss_sums(a, t, EVENT, WINDOW)
            case["heavy"] = scores.contingency(f, t, HEAVY)
        total = case if total is None else add(total, case)
    error, reference = scores.rmse(total["errors"]), scores.rmse(total["persistence"])
    out = {
        "rmse": error, "persistence_rmse": reference, "skill": scores.skill(error, reference),
        "std_ratio": scores.std_ratio(total["errors"]), "drift": scores.drift(total["errors"], total["truth"]),
    }  # fmt: skip
    bands = zip(spectra.band_names(), spectra.power_ratio(total["spectrum"]), strict=True)
    out |= {f"power_{band}": ratio for band, ratio in bands}
    out["line"] = lines.line_index(total["lines"])["2"]
    if "fss" in total:
        out |= {"fss": scores.fss(total["fss"]), "persistence_fss": scores.fss(total["persistence_fss"]),
                "frequency_bias": scores.frequency_bias(total["heavy"])}  # fmt: skip
    return {k: None if v is None or not math.isfinite(v) else round(v, 4) for k, v in out.items()}


def headline(result: dict, leads: tuple[int, int, int]) -> dict[str, float | None]:
    """The figures of the table from what `score` returns; None where a store does not have one."""
    near, middle, far = (result["scores"][str(k)].values() for k in leads)

    def values(rows, key: str) -> list[float]:
        return [row[key] for row in rows if row.get(key) is not None]

    def mean(numbers: list[float]) -> float | None:
        return sum(numbers) / len(numbers) if numbers else None

    def power(rows) -> float | None:
        ratios = [r for band in spectra.band_names()[1:] for r in values(rows, f"power_{band}")]
        return mean([abs(math.log2(max(r, LEAST_RATIO))) for r in ratios])

    return {
        "skill_near": mean(values(near, "skill")), "worst_near": min(values(near, "skill"), default=None),
        "skill_middle": mean(values(middle, "skill")), "power_near": power(near), "power_far": power(far),
        "drift": max(map(abs, values(far, "drift")), default=None),
        "line": max((max(v, 0.0) for v in values(far, "line")), default=None), "fss": mean(values(near, "fss")),
    }  # fmt: skip
