"""Fuzz cases that run the three commands: planted faults, training, roll-outs, scores."""

import json
from pathlib import Path

import numpy as np
import torch
import xarray as xr
import zarr
from hypothesis import strategies as st

import verify_forecast as verification
from benchmarks.fuzz_base import Kind, check, command, outcome, quiet
from benchmarks.fuzz_ground import (
    GROUNDS,
    HEADS,
    HOURS,
    START,
    accept,
    ground,
    infer,
    step_of,
    train,
    weather,
    write_weather,
)
from data.forecast_store import ForecastWriter
from data.normalise import transform
from data.store import Store
from data.variables import TABLE, lookup
from training.checkpoint import load_checkpoint, save_checkpoint

NAMES = st.lists(st.sampled_from([v.name for v in TABLE] + ["x1", "tcw"]), min_size=1, max_size=4, unique=True)

# fault: what must come of it, for a training that begins
PLANTED = {
    "none": "accepted", "mask": "accepted", "nan": "refused", "inf": "refused", "half mask": "refused",
    "all nan": "refused", "constant": "refused", "unit": "refused", "attribute": "refused", "duplicate": "refused",
    "kinds": "refused", "nat": "refused", "latitude": "refused", "chunk": "refused", "huge": "either",
    "nan in test": "accepted", "gap": "accepted", "reversed": "accepted",
}  # fmt: skip


@st.composite
def planted(draw) -> dict:
    """A sound store, one fault, and where it lies."""
    return {
        "names": draw(NAMES), "height": draw(st.integers(8, 23)), "width": draw(st.integers(8, 23)),
        "fault": draw(st.sampled_from(list(PLANTED))), "which": draw(st.integers(0, 3)),
        "hour": draw(st.one_of(st.integers(0, 27), st.integers(30, 33))), "y": draw(st.integers(0, 7)),
        "x": draw(st.integers(0, 7)), "history": draw(st.integers(0, 2)), "located": draw(st.booleans()),
    }  # fmt: skip


def play_planted(case: dict, folder: Path) -> str:
    """A fault that was planted is refused before the first step; without one, statistics are those of numpy."""
    path, shape, fault = folder / "s.zarr", (case["height"], case["width"]), case["fault"]
    name = case["names"][case["which"] % len(case["names"])]
    expected = PLANTED[fault]
    cells = np.s_[: case["y"] + 1, : case["x"] + 1]

    def spoil(variable: str, number: int, field: np.ndarray) -> np.ndarray:
        if variable != name:
            return field
        out, here = field.copy(), number == case["hour"]
        if fault == "mask" or (fault == "half mask" and number < max(case["hour"], 1)) or (fault == "nan" and here):
            out[cells] = np.nan
        if fault == "nan in test" and number == 38:
            out[cells] = np.nan
        if (fault, here) == ("inf", True):
            out[case["y"], case["x"]] = np.inf if case["which"] % 2 else -np.inf
        if (fault, here) == ("huge", True):
            out[case["y"], case["x"]] = 3e38
        if fault == "all nan":
            out[:] = np.nan
        if fault == "constant":
            out[:] = lookup(name).lower if np.isfinite(lookup(name).lower) else 1.0
        return out + 1e4 if fault == "unit" else out

    located = case["located"] or fault == "latitude"
    hours = [n for n in range(HOURS) if fault != "gap" or n != 5]
    write_weather(path, case["names"], shape, hours, spoil=spoil, located=located)
    edit(path, fault, name, case)
    if fault == "unit" and not np.isfinite(lookup(name).upper):
        expected = "accepted"  # without a unit in the table any number may be right
    if fault == "attribute" and not lookup(name).units:
        expected = "accepted"
    seen: list = []
    run_dir = folder / "run"
    code, said = accept("--zarr", path, "--run_dir", run_dir, "--variables", case["names"],
                        "--history", case["history"], seen=seen)  # fmt: skip
    check(not run_dir.exists(), "a run folder before the first step")
    if code == 0 and fault in ("none", "mask", "gap", "reversed", "nan in test"):
        compare_statistics(seen[0], path, case["names"])
        check((seen[0].mask is not None) == (fault == "mask"), "a mask where there is none, or none where there is one")
    return outcome(expected, code, said)


def edit(path: Path, fault: str, name: str, case: dict) -> None:
    """The faults that are made in a store that is there."""
    if fault not in ("attribute", "duplicate", "kinds", "nat", "latitude", "chunk", "reversed"):
        return
    group, hour = zarr.open_group(path, mode="r+"), case["hour"]
    if fault == "attribute":
        group[name].attrs["units"] = "furlong"
    if fault == "duplicate":
        group["time"][hour] = group["time"][(hour + 1) % HOURS]
    if fault == "kinds":
        group["forecast_hour"][hour] = 1
    if fault == "nat":
        group["time"][hour] = np.iinfo(np.int64).min
        group["time"].attrs["_FillValue"] = int(np.iinfo(np.int64).min)
    if fault == "latitude":
        group["latitude"][case["y"], case["x"]] = np.nan
    if fault == "chunk":
        (path / name / "c" / str(hour) / "0" / "0").unlink()
    if fault == "reversed":
        for array in [group["time"], *(group[n] for n in case["names"])]:
            array[:] = array[:][::-1]
    if fault in ("attribute", "nat"):
        with quiet():
            zarr.consolidate_metadata(path)


def compare_statistics(learn, path: Path, names: list[str]) -> None:
    """Mean and standard deviation of the training hours, computed with numpy from what the store holds."""
    dataset = xr.open_zarr(path, chunks=None)
    end = START + np.timedelta64(27, "h")
    for c, name in enumerate(learn.statistics.names):
        check(name in names, f"a variable that was not asked for: {name}")
        fields = dataset[name].sel(time=dataset.time[dataset.time <= end]).values
        x = transform(torch.from_numpy(fields), name).double().numpy()
        for kind, wanted in (("mean", np.nanmean(x)), ("std", np.nanstd(x))):
            got = float(getattr(learn.statistics, kind)[c])
            close = abs(got - wanted) <= 1e-4 * max(abs(wanted), np.nanstd(x))
            check(close, f"{kind} of {name}: got {got}, expected {wanted}")


# ---- training, and the forecast of a model whose heads are at zero ----------------------------------


@st.composite
def runs(draw) -> dict:
    """A small training with other constants each time."""
    return {
        "names": draw(NAMES), "height": draw(st.integers(8, 21)), "width": draw(st.integers(8, 21)),
        "step": draw(st.sampled_from(("1h", "5min"))), "located": draw(st.booleans()), "mask": draw(st.booleans()),
        "constants": {
            "epochs": draw(st.integers(1, 2)), "base_features": draw(st.integers(1, 4)),
            "levels": draw(st.integers(0, 2)), "blocks": draw(st.integers(1, 2)), "history": draw(st.integers(0, 2)),
            "batch_size": draw(st.integers(1, 3)), "accumulate": draw(st.sampled_from((1, 4, 16))),
            "rollout_epochs": draw(st.integers(0, 1)), "memory": draw(st.sampled_from(("lean", "fast"))),
            "noise": draw(st.sampled_from((0.0, 0.05))), "flip": draw(st.booleans()),
            "muon_lr": draw(st.sampled_from((0.0, 3e-3))),
            "width": draw(st.sampled_from((0.0, 2.0))), "season": draw(st.sampled_from((0.0, 20.0))),
            "cache_gb": draw(st.sampled_from((0.0, 1e-5, 1.0))), "seed": draw(st.integers(0, 2**31)),
        },
        "init": draw(st.integers(34, 39)), "steps": draw(st.integers(1, 3)),
    }  # fmt: skip


def play_run(case: dict, folder: Path) -> str:
    """It trains, says so when run again, and with its heads at zero forecasts the clipped analysis."""
    path, run_dir, names = folder / "s.zarr", folder / "run", case["names"]
    corner = np.s_[:3, :4]

    def spoil(name: str, number: int, field: np.ndarray) -> np.ndarray:
        if case["mask"] and name == names[0]:
            field[corner] = np.nan
        return field

    write_weather(path, names, (case["height"], case["width"]), range(HOURS), case["step"], spoil, case["located"])
    constants = [part for k, v in case["constants"].items() for part in (f"--{k}", v)]
    steps = 1.0 if case["step"] == "1h" else 1 / 12
    constants += ["--lead", case["step"], "--validate_hours", 2 * steps, "--rollout_hours", 3 * steps]
    code, said = train("--zarr", path, "--run_dir", run_dir, "--variables", names, *constants)
    check(code == 0, f"refused: {said}")
    records = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    check(records[-1]["epoch"] == case["constants"]["epochs"] and np.isfinite(records[-1]["loss"]), "the log")
    code, said = train("--zarr", path, "--run_dir", run_dir, "--variables", names, *constants)
    check(code == 0 and "this run is finished" in said, f"run again: {said}")
    checkpoint = load_checkpoint(run_dir / "best.pt")
    for head in HEADS:
        checkpoint["ema"][head].zero_()
    save_checkpoint(checkpoint, run_dir / "untrained.pt")
    init = START + case["init"] * np.timedelta64(60 if case["step"] == "1h" else 5, "m")
    code, said = infer("--checkpoint", run_dir / "untrained.pt", "--zarr", path, "--init_time", init,
                       "--hours", case["steps"] * steps, "--out", folder / "f.zarr")  # fmt: skip
    check(code == 0, f"no forecast: {said}")
    compare_persistence(folder / "f.zarr", Store(path), init, case["steps"])
    return "accepted"


def compare_persistence(forecast: Path, store: Store, init: np.datetime64, steps: int) -> None:
    """Every lead time of a forecast is the analysis held inside the bounds, at the right time."""
    dataset = xr.open_zarr(forecast, chunks=None)
    check(dataset.init_time.values[0] == init and dataset.sizes["lead_time"] == steps + 1, "times of the forecast")
    names = dataset.attrs["variables"]
    fields = dict(zip(names, store.load(init, list(names)), strict=True))
    clipped = {n: np.clip(x, lookup(n).lower, lookup(n).upper) for n, x in fields.items()}
    if "D2M" in clipped and "T2M" in clipped:
        clipped["D2M"] = np.minimum(clipped["D2M"], np.where(np.isnan(clipped["T2M"]), np.inf, clipped["T2M"]))
    for name, wanted in clipped.items():
        got = dataset[name].values[0]
        check((np.isnan(got) == np.isnan(wanted)).all(), f"{name}: other cells are missing than in the analysis")
        close = np.allclose(got, wanted[None], rtol=1e-5, atol=1e-3, equal_nan=True)
        check(close, f"{name}: not persistence, by {np.nanmax(abs(got - wanted)):.3g}")


# ---- roll-outs of any weights ------------------------------------------------------------------------


@st.composite
def rolls(draw) -> dict:
    """A checkpoint with weights of any size, or one that is no number, and a length."""
    return {
        "ground": draw(st.sampled_from(list(GROUNDS))), "size": draw(st.integers(-3, 38)),
        "only": draw(st.sampled_from(("heads", "flow", "all"))), "seed": draw(st.integers(0, 2**32)),
        "bad": draw(st.sampled_from(("", "", "", "", "nan", "inf", "-inf"))),
        "steps": draw(st.sampled_from((1, 2, 6, 24, 240))), "init": draw(st.integers(1, 39)),
    }  # fmt: skip


def play_roll(case: dict, folder: Path) -> str:
    """What is written is finite and inside the bounds, what was outside is counted; else it is refused and an older
    forecast stays."""
    place, older = ground(case["ground"]), folder / "f.zarr"
    checkpoint, rng = load_checkpoint(place / "best.pt"), torch.Generator().manual_seed(case["seed"])
    chosen = {"heads": HEADS, "flow": HEADS[2:], "all": [n for n in checkpoint["ema"] if n != "scale"]}[case["only"]]
    for name in chosen:
        weight = checkpoint["ema"][name]
        weight.copy_(torch.randn(weight.shape, generator=rng) * 10.0 ** case["size"])
    if case["bad"]:
        checkpoint["ema"][chosen[0]].view(-1)[0] = float(case["bad"])
    save_checkpoint(checkpoint, folder / "c.pt")
    step, names = step_of(case["ground"]), GROUNDS[case["ground"]][0]
    init = START + np.timedelta64(round(case["init"] * step * 60), "m")
    sound = ["--checkpoint", place / "untrained.pt", "--zarr", place / "store.zarr", "--out", older]
    check(infer(*sound, "--init_time", init, "--hours", step)[0] == 0, "the sound forecast was refused")
    before = contents(older)
    code, said = infer(*sound, "--checkpoint", folder / "c.pt", "--init_time", init, "--hours", case["steps"] * step)
    if code:
        check("not finite" in said, f"refused for another reason: {said}")
        held = all(np.isfinite(lookup(n).upper) for n in names)  # a field without bounds may grow without bounds
        check(
            case["bad"] != "" or case["size"] > 4 or not held,
            f"weights of 1e{case['size']} give no finite forecast: {said}",
        )
        check(contents(older) == before, "the older forecast was changed")
        return "refused"
    dataset = xr.open_zarr(older, chunks=None)
    check(dataset.sizes["lead_time"] == case["steps"] + 1, "lead times")
    for name in names:
        values, share = dataset[name].values, dataset[f"{name}_clipped_share"].values
        check(bool(np.isfinite(values).all()), f"{name} is not finite")
        check(values.min() >= lookup(name).lower and values.max() <= lookup(name).upper, f"{name} out of bounds")
        check(bool(((share >= 0) & (share <= 1)).all()), f"clipped share of {name}")
        at_upper = (values[0, 1:] == lookup(name).upper).mean(axis=(1, 2)) > 0.9
        counted = share[0, 1:][at_upper] > 0.5
        check(lookup(name).piles_at == "upper" or bool(counted.all()), f"clipped cells of {name} were not counted")
    if {"T2M", "D2M"} <= set(names):
        check(bool((dataset.D2M.values <= dataset.T2M.values).all()), "dew point above temperature")
    return "accepted"


def contents(path: Path) -> dict:
    """Every file under a folder with its bytes."""
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


# ---- scores whose value is known ---------------------------------------------------------------------


@st.composite
def scores(draw) -> dict:
    """A forecast that is the truth plus a number, and perhaps a hole."""
    return {
        "ground": draw(st.sampled_from(list(GROUNDS))), "steps": draw(st.integers(1, 4)),
        "inits": sorted(draw(st.sets(st.integers(1, 39), min_size=1, max_size=3))),
        "bias": draw(st.sampled_from((0.0, 0.0, 0.5, -2.0, 8.0))),
        "hole": draw(st.sampled_from(("", "", "nan", "inf"))), "seed": draw(st.integers(0, 2**32)),
    }  # fmt: skip


def play_scores(case: dict, folder: Path) -> str:
    """A perfect forecast has no error, one that is off by a number has that as bias and RMSE; holes are refused."""
    place, (names, shape, _, _) = ground(case["ground"]), GROUNDS[case["ground"]]
    store, rng = Store(place / "store.zarr"), np.random.default_rng(case["seed"])
    step = np.timedelta64(round(step_of(case["ground"]) * 60), "m").astype("timedelta64[ns]")
    inits, leads = START + np.array(case["inits"]) * step, np.arange(case["steps"] + 1) * step
    free = [n for n in names if lookup(n).scored_floor == -np.inf]  # no floor that would hide the bias
    there = [(i, j) for i in range(len(inits)) for j in range(1, len(leads)) if store.has(inits[i] + leads[j])]
    hole = tuple(there[rng.integers(len(there))]) if case["hole"] and there else None
    attributes = {"lead": GROUNDS[case["ground"]][2], "split": load_checkpoint(place / "best.pt")["split"]}
    with ForecastWriter(folder / "f.zarr", names, store.grid, inits, leads, attributes) as out:
        for i, init in enumerate(inits):
            for j, lead in enumerate(leads):
                number = round((init + lead - START) / step)
                fields = np.stack([weather(n, number, shape) for n in names])
                off = [case["bias"] * (n in free and j > 0) for n in names]
                fields = fields + np.array(off, np.float32)[:, None, None]
                if (i, j) == hole:
                    fields[rng.integers(len(names)), rng.integers(shape[0]), rng.integers(shape[1])] = case["hole"]
                out.write(i, j, fields, np.zeros(len(names)))
    code, said = command(verification, "--forecast", folder / "f.zarr", "--zarr", place / "store.zarr",
                         "--out", folder / "s.json", "--figures", False)  # fmt: skip
    if hole or not there:
        check(not (folder / "s.json").exists(), "scores of a forecast with a hole")
        return outcome("refused", code, said)
    check(code == 0, f"refused: {said}")
    result = json.loads((folder / "s.json").read_text())
    check(result["skipped_without_truth"] == len(inits) * case["steps"] - len(there), "skipped cases")
    for name in names:
        wanted = case["bias"] if name in free else 0.0
        for lead, s in result["scores"][name].items():
            tolerance = 1e-4 if wanted else 0.0
            check(abs(s["rmse"] - abs(wanted)) <= tolerance and abs(s["bias"] - wanted) <= tolerance,
                  f"{name} at {lead} h: rmse {s['rmse']}, bias {s['bias']}, expected {wanted}")  # fmt: skip
    return "accepted"


PLANT = Kind(planted(), play_planted, 5)
RUN = Kind(runs(), play_run, 1)
ROLL = Kind(rolls(), play_roll, 2)
SCORES = Kind(scores(), play_scores, 2)
