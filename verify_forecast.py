"""Score a forecast store against the truth and against forecasts that cost nothing.

    python verify_forecast.py --forecast runs/demo/forecast.zarr --zarr runs/demo/store.zarr --out runs/demo/scores.json

Prints RMSE, persistence and skill by lead time, the reflectivity scores and a PASS/FAIL certificate. Writes
scores.json and, beside it, skill_by_lead.png, spectra.png and maps_<VARIABLE>.png for two variables.
Truth is looked up by timestamp; lead times whose valid time the store lacks are skipped and counted.
"""

import json
import math
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import xarray as xr
from tqdm import tqdm

from data.command import nearest, refuse_file_above, run
from data.grid import read_grid, same_grid
from data.metadata import KIND
from data.store import Store, open_zarr
from data.times import hours_of, parse_time, show
from data.variables import lookup
from plotting.maps import forecast_panels
from plotting.scores import skill_by_lead, spectra
from verification.baselines import persistence, same_hour_yesterday
from verification.cases import Measure, add, case_sums, summary
from verification.report import certificate, certificate_text, error_tables, event_table, without_nan
from verification.scores import window_cells
from verification.spectra import BANDS, band_names


# -------------------------------------------------------------------------------------------------
@dataclass
class Config:
    """Constants; every one can be given on the command line."""

    forecast: str = "runs/hrrr/forecast.zarr"  # forecast store to score, written by infer_iterative.py
    zarr: str = "data/hrrr.zarr"  # store that holds the truth
    out: str = "runs/hrrr/scores.json"  # file to write; the figures go beside it
    variables: list[str] = field(default_factory=list)  # variables to score; none named: all of the forecast's
    figures: bool = True  # draw the figures


THRESHOLDS = (20.0, 30.0, 40.0)  # dBZ, events of reflectivity
WINDOWS = (9.0, 33.0, 57.0, 93.0)  # km, widths of the FSS windows before they are fitted to a small domain
PRINTED_WINDOW = 33.0  # km, the one shown in the printed table
USUAL_SPACING = (3000.0, 3000.0)  # m, where neither store has coordinates
MAPPED = ("REFC", "T2M")  # variables drawn as maps, in the table's names; the first two where these are absent
MAPPED_LEADS = (1, 6, 12, 24)  # h
CACHE_BYTES = 0.5e9  # truth hours kept decoded, since forecasts overlap
HOUR = np.timedelta64(1, "h")
# -------------------------------------------------------------------------------------------------


def main(cfg: Config) -> None:
    # What there is to score; everything is checked before anything is written.
    if Path(cfg.out).is_dir():
        raise ValueError(f"out: got {cfg.out}, a folder, expected a file to write. Fix: --out scores.json")
    refuse_file_above(Path(cfg.out).parent, "out")
    forecast = open_forecast(cfg.forecast)
    names = choose(cfg, forecast)
    store = Store(cfg.zarr)
    truth_names = store.choose(names)
    grid = read_grid(forecast, forecast[names[0]].dims[2:])
    check_grid(cfg, grid, store.grid)
    init_times, leads = forecast["init_time"].values, forecast["lead_time"].values
    valid = init_times[:, None] + leads
    cases = [(i, j) for i in range(len(init_times)) for j in range(len(leads)) if leads[j] > 0 * HOUR]
    scored_cases = [(i, j) for i, j in cases if store.has(valid[i, j])]
    if not scored_cases:
        raise ValueError(
            f"{cfg.zarr}: got no valid time of the forecast ({show(valid.min())} to {show(valid.max())}), expected at "
            f"least one among {show(store.times.min())} to {show(store.times.max())}. "
            "Fix: name the store that holds these hours with --zarr"
        )
    split = json.loads(forecast.attrs.get("split", "{}"))
    outside = outside_test(init_times, split)
    spacing = grid.spacing or store.grid.spacing or USUAL_SPACING
    cell_km = round(float(np.mean(spacing)) / 1000, 3)
    measures = {name: measure_of(name, spacing, cell_km, grid.shape) for name in names}
    zero = int(np.flatnonzero(leads == 0 * HOUR)[0])
    print(f"scoring {cfg.forecast} against {cfg.zarr}: {', '.join(names)}")
    print(f"initial times: {len(init_times)}, {show(init_times.min())} to {show(init_times.max())}; ", end="")
    print(f"{len(scored_cases)} cases; {len(cases) - len(scored_cases)} skipped for want of truth")
    if outside:
        where = " to ".join(split["test"]) if "test" in split else "not known"
        print(f"outside test ({where}): {len(outside)} of the initial times, {', '.join(show(t) for t in outside)}")
    if grid.spacing is None and store.grid.spacing is None:
        print(f"no coordinates: widths and wavelengths as for {cell_km:g} km")

    # Truth by timestamp; hours that overlapping forecasts share are decoded once.
    @lru_cache(maxsize=max(2, int(CACHE_BYTES / (4 * len(names) * math.prod(grid.shape)))))
    def truth_at(time: np.datetime64) -> dict[str, np.ndarray]:
        return floored(names, store.load(time, truth_names)) if store.has(time) else {}

    @lru_cache(maxsize=1)
    def analysis_of(i: int) -> dict[str, np.ndarray]:
        return load_lead(forecast, names, i, zero)

    # Sums over cases; one valid time in memory at a time.
    totals: dict = {name: {lead_key(leads[j]): {} for _, j in scored_cases} for name in names}
    for i, j in tqdm(scored_cases, desc="scoring", unit="case", disable=None):
        fields, analysis, truth = load_lead(forecast, names, i, j), analysis_of(i), truth_at(valid[i, j])
        for name, m in measures.items():
            what = f"{name}, initial time {show(init_times[i])}, valid {show(valid[i, j])}"
            f, a, t = fields[name], analysis[name], truth[name]
            scored = scored_cells(what, f, a, t)
            yesterday = same_hour_yesterday(lambda time, n=name: truth_at(time).get(n), valid[i, j], leads[j], scored)
            sums = {"forecast": case_sums(f, t, scored, m), "persistence": case_sums(persistence(a), t, scored, m)}
            if yesterday is not None:
                sums["yesterday"] = case_sums(yesterday, t, scored, m, structure=False)
                sums["forecast_beside_yesterday"] = case_sums(f, t, scored, m, structure=False)
            total = totals[name][lead_key(leads[j])]
            total.update({k: add(total[k], v) if k in total else v for k, v in sums.items()})

    # Scores, table, certificate.
    scores = {name: {lead: summary(t) for lead, t in by_lead.items()} for name, by_lead in totals.items()}
    windows = {n: [w * m.cell for w in m.windows] for n, m in measures.items() if m.windows}
    result = {
        "split": split,
        "init_times": [show(t) for t in init_times],
        "outside_test": [show(t) for t in outside],
        "skipped_without_truth": len(cases) - len(scored_cases),
        "bands_km": {n: [b * cell_km for b in band] for n, band in zip(band_names(), BANDS, strict=True)},
        "fss_windows_km": windows,
        "scores": scores,
        "certificate": certificate(scores),
    }

    # The file first: nothing that happens to the screen can lose it.
    out = Path(cfg.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".partial")
    temporary.write_text(json.dumps(without_nan(result), indent=1, allow_nan=False) + "\n")
    os.replace(temporary, out)

    print("\n" + error_tables(scores, {n: lookup(n).units for n in names}))
    for name, widths in windows.items():
        window = min(widths, key=lambda km: abs(km - PRINTED_WINDOW))
        print(f"\n{name}, thresholds in {lookup(name).units}, FSS over {window:g} km, persistence in brackets")
        print(event_table(scores[name], f"{window:g}"))
    print("\n" + certificate_text(result["certificate"]))
    print(f"\nwrote {out}")
    if cfg.figures:
        draw(out.parent, forecast, names, result, truth_at)


def open_forecast(path: str) -> xr.Dataset:
    """The forecast store, lazy, with lead_time as timedelta64; ValueError where it is not one."""
    fix = "Fix: make one with `python infer_iterative.py --checkpoint FILE --zarr STORE --out FORECAST.zarr`"
    if "://" not in path and not Path(path).exists():
        raise ValueError(f"{path}: no such forecast store, expected a zarr directory. {fix}")
    dataset = open_zarr(path)
    kind, fields = dataset.attrs.get(KIND), [v for v in dataset.data_vars.values() if v.ndim == 4]
    if kind != "forecast" or not fields or not {"init_time", "valid_time"} <= set(dataset.variables):
        raise ValueError(f"{path}: got {f'a {kind}' if kind else 'another kind of'} store, expected a forecast. {fix}")
    leads = dataset["valid_time"].values - dataset["init_time"].values[:, None]
    if np.isnat(leads).any() or (leads != leads[0]).any() or not (leads[0] == 0 * HOUR).any():
        raise ValueError(f"{path}: valid_time is not init_time + lead_time with a lead of 0, expected both. {fix}")
    return dataset.assign_coords(lead_time=leads[0])


def choose(cfg: Config, forecast: xr.Dataset) -> list[str]:
    """The forecast's names of the variables to score."""
    dims = ("init_time", "lead_time")
    order = forecast.attrs.get("variables") or list(forecast.data_vars)
    names = [n for n in order if n in forecast.data_vars and forecast[n].ndim == 4 and forecast[n].dims[:2] == dims]
    by_table, chosen = {lookup(n).name: n for n in names}, []
    for wanted in cfg.variables or names:
        name = wanted if wanted in names else by_table.get(lookup(wanted).name)
        if name is None:
            raise ValueError(
                f"{cfg.forecast}: got no variable {wanted!r}, expected one of the forecast's. "
                f"Nearest: {nearest(wanted, names)}. Fix: name another with --variables"
            )
        chosen.append(name)
    return list(dict.fromkeys(chosen))


def check_grid(cfg: Config, forecast, truth) -> None:
    """ValueError where the two stores do not have the same cells in the same order."""
    if not same_grid(forecast, truth):
        what = "the same shape with other latitudes or longitudes" if forecast.shape == truth.shape else truth.shape
        raise ValueError(
            f"{cfg.zarr}: the truth's grid is {what}, expected the grid of {cfg.forecast}, {forecast.shape}. "
            "Fix: score against the store that the forecast was started from"
        )


def outside_test(init_times: np.ndarray, split: dict) -> list[np.datetime64]:
    """The initial times that are not in the test part of the record; all of them where it is not known."""
    if not split.get("test"):
        return list(init_times)
    first, last = (parse_time(t, "split") for t in split["test"])
    return [t for t in init_times if not first <= t <= last]


def measure_of(name: str, spacing: tuple[float, float], cell_km: float, shape: tuple[int, int]) -> Measure:
    """How a variable is scored: reflectivity by thresholds and windows too, those fitted to the domain."""
    if lookup(name).name != "REFC":
        return Measure(spacing)
    windows = dict.fromkeys(window_cells(w, cell_km, shape) for w in WINDOWS)
    return Measure(spacing, THRESHOLDS, tuple(windows), cell_km)


def lead_key(lead: np.timedelta64) -> str:
    """A lead time in hours as the key in scores.json: "1", "0.5"."""
    return f"{hours_of(lead):g}"


def load_lead(forecast: xr.Dataset, names: list[str], i: int, j: int) -> dict[str, np.ndarray]:
    """The (y, x) fields of one initial and one lead time, floored."""
    return floored(names, [forecast[name].variable[i, j].values for name in names])


def floored(names: list[str], fields) -> dict[str, np.ndarray]:
    """max(x, floor) by variable, alike for forecast, truth and baselines; NaN stays."""
    return {n: np.maximum(x, np.float32(lookup(n).scored_floor)) for n, x in zip(names, fields, strict=True)}


def scored_cells(what: str, forecast, analysis, truth) -> np.ndarray | None:
    """Cells to score, None for all: those masked, NaN in forecast and truth, are left out; other NaN is refused."""
    missing = np.isnan(truth)
    fix = "Fix: look for missing values with `python -m data.check_store STORE.zarr`, then forecast again"
    if missing.all():
        raise ValueError(f"{what}: got truth missing in every cell, expected a field. {fix}")
    for source, x in (("forecast", forecast), ("analysis at lead 0", analysis)):
        if (odd := int((np.isnan(x) != missing).sum())) > 0:
            raise ValueError(f"{what}: got {odd} cells missing in only one of {source} and truth, expected none. {fix}")
    return ~missing if missing.any() else None


def draw(folder: Path, forecast: xr.Dataset, names: list[str], result: dict, truth_at) -> None:
    """Write the figures and say where; the maps show the initial time with most of the first mapped variable."""
    figures = {"skill_by_lead": skill_by_lead(result), "spectra": spectra(result)}
    mapped = [n for n in names if lookup(n).name in MAPPED] or names[:2]
    hours = [h for h in MAPPED_LEADS if h * HOUR in forecast["lead_time"].values]
    leads = [h * HOUR for h in hours] or list(forecast["lead_time"].values[1:5])
    amount = [np.nanmean(forecast[mapped[0]].variable[i, 0].values) for i in range(forecast.sizes["init_time"])]
    init_time = forecast["init_time"].values[np.argmax(amount)]
    for n in mapped:
        figures[f"maps_{n}"] = forecast_panels(forecast, lambda t, n=n: truth_at(t).get(n), n, leads, init_time)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=120)
        print(f"wrote {folder / name}.png")


if __name__ == "__main__":
    run(Config, main, __doc__)
