"""What verify_forecast.py reads: the forecast store, the truth by timestamp, and which of them can be compared."""

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import xarray as xr

from data.command import nearest
from data.grid import Grid, same_grid
from data.store import Store, open_zarr
from data.times import hours_of, parse_duration, parse_time, show
from data.variables import lookup
from verification.cases import Measure
from verification.scores import window_cells

THRESHOLDS = (20.0, 30.0, 40.0)  # dBZ, events of reflectivity
WINDOWS = (9.0, 33.0, 57.0, 93.0)  # km, widths of the FSS windows before they are fitted to a small domain
CACHE_BYTES = 0.5e9  # truth hours kept decoded, since forecasts overlap
HOUR = np.timedelta64(1, "h")
NONE = np.timedelta64(0, "ns")


class Fields:
    """Fields of forecast and truth as {name: (y, x) float32}, raised to the floor at which they are scored."""

    def __init__(self, forecast: xr.Dataset, store: Store, names: list[str]):
        self.names, self.store, self.truth_names = names, store, store.choose(names)
        self.variables = [forecast[name].variable for name in names]
        field_bytes = 4 * len(names) * math.prod(store.grid.shape)
        self.truth = lru_cache(maxsize=max(4, int(CACHE_BYTES / field_bytes)))(self.read_truth)
        self.forecast = lru_cache(maxsize=3)(self._read_forecast)
        # zarr reads the chunks of small fields together in a fraction of the time
        small = field_bytes * forecast.sizes["lead_time"] < CACHE_BYTES / 4
        self._leads = lru_cache(maxsize=1)(lambda i: [v[i].values if small else v[i] for v in self.variables])

    def read_truth(self, time: np.datetime64) -> dict[str, np.ndarray]:
        """The truth at a time, {} if the store has none."""
        if not self.store.has(time):
            return {}
        return self._floored(self.store.load(time, self.truth_names))

    def _read_forecast(self, i: int, j: int) -> dict[str, np.ndarray]:
        """The forecast of the i-th initial and the j-th lead time."""
        return self._floored([np.asarray(v[j]) for v in self._leads(i)])

    def _floored(self, fields) -> dict[str, np.ndarray]:
        """max(x, floor) by variable, alike for forecast, truth and baselines; NaN stays."""
        pairs = zip(self.names, fields, strict=True)
        return {n: np.maximum(x, np.float32(lookup(n).scored_floor)) for n, x in pairs}


def open_forecast(path: str) -> xr.Dataset:
    """The forecast store, lazy, with lead_time as timedelta64; ValueError if it is not one."""
    fix = "Fix: make one with `.venv/bin/python infer_iterative.py --checkpoint FILE --zarr STORE --out FORECAST.zarr`"
    if "://" not in path and not Path(path).exists():
        raise ValueError(f"{path}: no such forecast store, expected a zarr directory. {fix}")
    dataset = open_zarr(path)
    kind, fields = dataset.attrs.get("hourcast_kind"), [v for v in dataset.data_vars.values() if v.ndim == 4]
    if kind != "forecast" or not fields or not {"init_time", "valid_time"} <= set(dataset.variables):
        raise ValueError(f"{path}: got {f'a {kind}' if kind else 'another kind of'} store, expected a forecast. {fix}")
    leads = dataset["valid_time"].values - dataset["init_time"].values[:, None]
    if np.isnat(leads).any() or (leads != leads[0]).any() or not (leads[0] == NONE).any():
        raise ValueError(f"{path}: valid_time is not init_time + lead_time with a lead of 0, expected both. {fix}")
    return dataset.assign_coords(lead_time=leads[0])


def choose(path: str, forecast: xr.Dataset, variables: list[str]) -> list[str]:
    """The forecast's names of the variables to score; ValueError, with the nearest name, for one it does not have."""
    order = forecast.attrs.get("variables") or list(forecast.data_vars)
    names = [n for n in order if n in forecast.data_vars and forecast[n].dims[:2] == ("init_time", "lead_time")]
    names = [n for n in names if forecast[n].ndim == 4]
    by_table, chosen = {lookup(n).name: n for n in names}, []
    for wanted in variables or names:
        name = wanted if wanted in names else by_table.get(lookup(wanted).name)
        if name is None:
            raise ValueError(
                f"{path}: got no variable {wanted!r}, expected one of the forecast's. "
                f"Nearest: {nearest(wanted, names)}. Fix: name another with --variables"
            )
        chosen.append(name)
    return list(dict.fromkeys(chosen))


def check_grid(forecast_path: str, forecast: Grid, truth_path: str, truth: Grid) -> None:
    """ValueError unless the two stores have the same cells in the same order."""
    if not same_grid(forecast, truth):
        what = "the same shape with other latitudes or longitudes" if forecast.shape == truth.shape else truth.shape
        raise ValueError(
            f"{truth_path}: the truth's grid is {what}, expected the grid of {forecast_path}, {forecast.shape}. "
            "Fix: score against the store that the forecast was started from"
        )
    if {forecast.winds, truth.winds} == {"grid", "earth"}:
        raise ValueError(
            f"{truth_path}: its winds follow the {truth.winds}, expected those of {forecast_path}, which follow the "
            f"{forecast.winds}. Fix: score against the store that the forecast was started from"
        )


def find_cases(path: str, store: Store, valid: np.ndarray, leads: np.ndarray) -> tuple[list[tuple[int, int]], int]:
    """Indices (initial time, lead time) with truth, and how many are without; ValueError if all are.

    valid: (init_time, lead_time) datetime64; leads: (lead_time,) timedelta64."""
    cases = [(i, j) for i in range(len(valid)) for j in range(len(leads)) if leads[j] > NONE]
    scored = [(i, j) for i, j in cases if store.has(valid[i, j])]
    if not scored:
        raise ValueError(
            f"{path}: got no valid time of the forecast ({show(valid.min())} to {show(valid.max())}), expected at "
            f"least one among {show(store.times.min())} to {show(store.times.max())}. "
            "Fix: name the store that holds these hours with --zarr"
        )
    return scored, len(cases) - len(scored)


def step_of(forecast: xr.Dataset) -> np.timedelta64:
    """The model's step: the attribute `lead`, or else the shortest distance between lead times."""
    if forecast.attrs.get("lead"):
        return parse_duration(forecast.attrs["lead"], "lead")
    return np.diff(np.unique(forecast["lead_time"].values)).min(initial=np.timedelta64(10**9, "s").astype("m8[ns]"))


def outside_test(init_times: np.ndarray, split: dict) -> list[np.datetime64]:
    """The initial times before the start of the test part; all of them if it is not known. Later ones, perhaps of
    another store, are as unseen in training as the test part itself."""
    start = parse_time(split["test"][0], "split") if split.get("test") else None
    return [t for t in init_times if start is None or t < start]


def training_hours(times: np.ndarray, split: dict) -> np.ndarray:
    """The times of the truth store that lie in the training part, sorted."""
    if not split.get("train"):
        return times[:0]
    first, last = (parse_time(t, "split") for t in split["train"])
    return np.sort(times[(times >= first) & (times <= last)])


def measure_of(name: str, spacing: tuple[float, float], shape: tuple[int, int], statistics: dict) -> Measure:
    """How a variable is scored: reflectivity by thresholds and windows too, those fitted to the domain."""
    cell_km = round(float(np.mean(spacing)) / 1000, 3)
    common = {"cell": cell_km, "name": name, "std": statistics.get(name, {}).get("std")}
    if lookup(name).name != "REFC":
        return Measure(spacing, **common)
    windows = dict.fromkeys(window_cells(w, cell_km, shape) for w in WINDOWS)
    return Measure(spacing, THRESHOLDS, tuple(windows), **common)


def clipped_shares(forecast: xr.Dataset, name: str, cases: list[tuple[int, int]]) -> dict[str, float]:
    """Mean share of cells outside the physical bounds before clipping, by lead key; {} if the store has none."""
    variable, by_lead = f"{name}_clipped_share", {}
    if variable in forecast.data_vars:
        shares = forecast[variable].values
        for i, j in cases:
            by_lead.setdefault(lead_key(forecast["lead_time"].values[j]), []).append(float(shares[i, j]))
    return {lead: float(np.mean(values)) for lead, values in by_lead.items()}


def lead_key(lead: np.timedelta64) -> str:
    """A lead time in hours as the key in scores.json: "1", "0.5"."""
    return f"{hours_of(lead):g}"


def scored_cells(what: str, forecast, analysis, truth) -> np.ndarray | None:
    """Cells to score, None for all: those masked (NaN in all three) are left out. ValueError for any other NaN, and
    for infinite values, which would pass into every mean."""
    missing = np.isnan(truth)
    fix = "Fix: look for them with `.venv/bin/python -m data.check_store STORE.zarr`, then forecast again"
    if missing.all():
        raise ValueError(f"{what}: got truth missing in every cell, expected a field. {fix}")
    for source, x in (("forecast", forecast), ("analysis at lead 0", analysis), ("truth", truth)):
        if (odd := int((np.isnan(x) != missing).sum())) > 0:
            raise ValueError(f"{what}: got {odd} cells missing in only one of {source} and truth, expected none. {fix}")
        if (odd := int(np.isinf(x).sum())) > 0:
            raise ValueError(f"{what}: {source} has {odd} infinite values, expected numbers. {fix}")
    return ~missing if missing.any() else None
