"""What verify_forecast.py reads: the forecast store, the truth by timestamp, and which of them can be compared."""

import math
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import xarray as xr

from data.boundary import davies
from data.command import fault, nearest
from data.grid import Grid, horizontal, read_grid, same_grid
from data.metadata import KIND, conversion
from data.opening import find_times, open_zarr
from data.store import Store
from data.times import hours_of, parse_duration, parse_time, show
from data.variables import lookup
from verification.cases import Measure
from verification.scores import window_cells

THRESHOLDS = (20.0, 30.0, 40.0)  # dBZ, events of reflectivity
WINDOWS = (9.0, 33.0, 57.0, 93.0)  # km, widths of the FSS windows before they are fitted to a small domain
CACHE_BYTES = 0.5e9  # truth hours kept decoded, since forecasts overlap
HOUR = np.timedelta64(1, "h")
NONE = np.timedelta64(0, "ns")
LAYOUT = ("init_time", "lead_time")
MEMBERS = ("number", "member", "members", "ensemble", "realization", "sample", "ens")


class Fields:
    """Fields of forecast and truth as {name: (y, x) float32}, raised to the floor at which they are scored and in the
    units of the variables table."""

    def __init__(self, forecast: xr.Dataset, store: Store, names: list[str]):
        self.names, self.store, self.truth_names = names, store, store.choose(names)
        self.init_times, self.leads = forecast["init_time"].values, forecast["lead_time"].values
        self.variables = [forecast[name].variable for name in names]
        self.units = [conversion_of(name, forecast[name].attrs) for name in names]
        field_bytes = 4 * len(names) * math.prod(store.grid.shape)
        self.truth = lru_cache(maxsize=max(4, int(CACHE_BYTES / field_bytes)))(self.read_truth)
        self.forecast = lru_cache(maxsize=3)(self._read_forecast)
        # zarr reads the chunks of small fields together in a fraction of the time
        small = field_bytes * len(self.leads) < CACHE_BYTES / 4
        self._leads = lru_cache(maxsize=1)(lambda i: [v[i].values if small else v[i] for v in self.variables])

    def read_truth(self, time: np.datetime64) -> dict[str, np.ndarray]:
        """The truth at a time, {} if the store has none."""
        if not self.store.has(time):
            return {}
        return self._floored(self.store.load(time, self.truth_names))

    def index(self, init: np.datetime64, lead: np.timedelta64) -> tuple[int, int] | None:
        """The indices of an initial and a lead time, None if the forecast lacks one of them."""
        i, j = (np.flatnonzero(a == t) for a, t in ((self.init_times, init), (self.leads, lead)))
        return (int(i[0]), int(j[0])) if len(i) and len(j) else None

    def analysis(self, i: int) -> dict[str, np.ndarray]:
        """What was known at the i-th initial time: lead 0, or the truth if the forecast begins later."""
        zero = self.index(self.init_times[i], NONE)
        return self.forecast(*zero) if zero else self.truth(self.init_times[i])

    def in_units(self, forecast: xr.Dataset) -> xr.Dataset:
        """Some variables of the forecast, loaded, in the units of the variables table."""
        units = dict(zip(self.names, self.units, strict=True))
        return forecast.assign({n: v * units[n][0] + units[n][1] for n, v in forecast.load().data_vars.items()})

    def _read_forecast(self, i: int, j: int) -> dict[str, np.ndarray]:
        """The forecast of the i-th initial and the j-th lead time."""
        pairs = zip(self._leads(i), self.units, strict=True)
        return self._floored([np.float32(np.asarray(v[j]) * factor + offset) for v, (factor, offset) in pairs])

    def _floored(self, fields) -> dict[str, np.ndarray]:
        """max(x, floor) by variable, alike for forecast, truth and baselines; NaN stays."""
        pairs = zip(self.names, fields, strict=True)
        return {n: np.maximum(x, np.float32(lookup(n).scored_floor)) for n, x in pairs}


def open_forecast(path: str) -> xr.Dataset:
    """A forecast store, ours or another's, lazy, with dimensions (init_time, lead_time, rows, columns) and lead_time as
    timedelta64; ValueError if it is not one."""
    make = "make one with `.venv/bin/python infer_iterative.py --checkpoint FILE --zarr STORE --out FORECAST.zarr`"
    if "://" not in path and not Path(path).exists():
        raise fault(path, "no such forecast store", "a zarr directory", make)
    dataset = open_zarr(path)
    if (kind := dataset.attrs.get(KIND, "forecast")) != "forecast":
        raise fault(path, f"a {kind} store", "a forecast", make)
    _, run, lead = find_times(path, dataset)
    if run is None or lead is None:
        raise fault(path, "another kind of store, without initial and lead times", "a forecast", make)
    for name, found in zip(LAYOUT, (run, lead), strict=True):
        dataset = dataset.assign_coords({found.name: found})
        if found.ndim == 0:  # one run, or one lead
            dataset = dataset.expand_dims(found.name)
        dataset = dataset.rename({n: name for n in {found.name, *dataset[found.name].dims} if n != name})
    refuse_leads(path, dataset["lead_time"].values)
    inits, leads = (dataset[name].values for name in LAYOUT)
    if inits.dtype.kind != "M" or np.isnat(inits).any() or len(set(inits.tolist())) < len(inits):
        raise fault(f"{path}: init_time", f"{inits[:3]} ...", "times, each once", "write its CF units")
    valid = inits[:, None] + leads
    if "valid_time" in dataset.variables and not np.array_equal(np.ravel(dataset["valid_time"].values), valid.ravel()):
        raise fault(path, "a valid_time that is not init_time + lead_time", "their sum", make)
    fields = {}
    for name, v in dataset.data_vars.items():
        if {"init_time", "lead_time"} <= set(v.dims) and v.dtype.kind in "fiu" and v.ndim >= 4:
            refuse_members(path, dataset, v)
            v = v.squeeze([d for d in v.dims[:-2] if v.sizes[d] == 1 and d not in LAYOUT], drop=True)
            if v.ndim == 4:
                space = [d for d in v.dims if d not in LAYOUT]
                space = horizontal(dataset, space) or space
                fields[name] = v.transpose("init_time", "lead_time", *space)
    if not fields:
        raise fault(path, "no array (init_time, lead_time, rows, columns)", "at least one", make)
    return dataset.assign(fields)


def refuse_leads(path: str, leads: np.ndarray) -> None:
    """ValueError for lead times (ns) that occur twice or are below 0, or if none is above 0."""
    if len(np.unique(leads)) < len(leads) or leads.min() < NONE or leads.max() == NONE:
        raise fault(f"{path}: lead_time", f"{leads[:3]} ...", "times from 0 on, each once, one of them above 0",
                    "write them again")  # fmt: skip


def refuse_members(path: str, dataset: xr.Dataset, v: xr.DataArray) -> None:
    """ValueError for an ensemble: a score of one forecast is not that of many."""
    for dim in v.dims:
        standard = dataset[dim].attrs.get("standard_name") if dim in dataset.variables else ""
        if (str(dim).lower() in MEMBERS or standard == "realization") and v.sizes[dim] > 1:
            raise fault(path, f"the dimension {dim} of {v.sizes[dim]} members in {v.name}", "one forecast per time",
                        f"write one of them, ds.isel({dim}=0), or their mean, ds.mean({str(dim)!r})")  # fmt: skip


def conversion_of(name: str, attributes: dict) -> tuple[float, float]:
    """(factor, offset) to the unit of the variables table; ValueError for a unit that it does not know."""
    wanted, units = lookup(name).units, attributes.get("units")
    if wanted and units is None:
        print(f"note: {name} has no units attribute; read as {wanted}")
    if not wanted or units in (None, wanted):
        return 1.0, 0.0
    if (found := conversion(str(units), wanted)) is None:
        raise fault(name, f"the unit {units!r}", f"{wanted} or one that becomes it", "convert it and write it again")
    return found


def choose(path: str, forecast: xr.Dataset, variables: list[str]) -> list[str]:
    """The forecast's names of the variables to score; ValueError, with the nearest name, for one it does not have."""
    order = forecast.attrs.get("variables") or list(forecast.data_vars)
    names = [n for n in order if n in forecast.data_vars and forecast[n].dims[:2] == tuple(LAYOUT)]
    names = [n for n in names if forecast[n].ndim == 4]
    by_table, chosen = {lookup(n).name: n for n in names}, []
    for wanted in variables or names:
        name = wanted if wanted in names else by_table.get(lookup(wanted).name)
        if name is None:
            raise fault(path, f"no variable {wanted!r}", f"one of the forecast's. Nearest: {nearest(wanted, names)}",
                        "name another with --variables")  # fmt: skip
        chosen.append(name)
    return list(dict.fromkeys(chosen))


def open_on(path: str, variables: list[str], store: Store) -> tuple[xr.Dataset, list[str]]:
    """A forecast store with its cells in the order of the truth's, and its names of the variables to score; of
    another model's without a choice those that the truth has. ValueError if the cells are not the same."""
    forecast = open_forecast(path)
    names = choose(path, forecast, variables)
    if not variables and KIND not in forecast.attrs:
        truth = {lookup(n).name for n in store.names}
        if lacking := [n for n in names if lookup(n).name not in truth]:
            print(f"note: {store.path} has no {', '.join(lacking)}; not scored")
        names = [n for n in names if n not in lacking] or names
    dims = forecast[names[0]].dims[2:]
    for flips in product((1, -1), repeat=2):
        turned = forecast.isel({d: slice(None, None, f) for d, f in zip(dims, flips, strict=True) if f < 0})
        grid = read_grid(turned, dims)
        if grid.latitude is None or same_grid(grid, store.grid):
            break
    check_grid(path, grid, store.path, store.grid)
    return turned, names


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


def find_cases(fields: Fields) -> tuple[list[tuple[int, int]], int]:
    """Indices (initial time, lead time) with truth and an analysis, and how many are without; ValueError if all are."""
    store, valid = fields.store, fields.init_times[:, None] + fields.leads
    cases = [(i, j) for i in range(len(valid)) for j in np.flatnonzero(fields.leads > NONE)]
    known = [(fields.leads == NONE).any() or store.has(t) for t in fields.init_times]
    scored = [(i, int(j)) for i, j in cases if known[i] and store.has(valid[i, j])]
    if not scored:
        raise fault(
            store.path, f"no valid time of the forecast ({show(valid.min())} to {show(valid.max())})",
            f"at least one among {show(store.times.min())} to {show(store.times.max())}",
            "name the store that holds these hours with --zarr",
        )  # fmt: skip
    return scored, len(cases) - len(scored)


def step_of(forecast: xr.Dataset) -> np.timedelta64:
    """The model's step: the attribute `lead`, or else the shortest distance between lead times, 0 among them."""
    if forecast.attrs.get("lead"):
        return parse_duration(forecast.attrs["lead"], "lead")
    return np.diff(np.unique(np.append(forecast["lead_time"].values, NONE))).min()


def outside_test(init_times: np.ndarray, split: dict) -> list[np.datetime64]:
    """The initial times before the start of the test part; all of them if it is not known. Later ones, perhaps of
    another store, are as unseen in training as the test part itself."""
    start = parse_time(split["test"][0], "split") if split.get("test") else None
    return [t for t in init_times if start is None or t < start]


def training_hours(times: np.ndarray, split: dict, end: np.datetime64 | None = None) -> np.ndarray:
    """The times that lie in the training part, sorted; without one those before `end`, if it is given."""
    if split.get("train"):
        first, last = (parse_time(t, "split") for t in split["train"])
        return np.sort(times[(times >= first) & (times <= last)])
    return times[:0] if end is None else np.sort(times[times < end])


def measure_of(name: str, spacing: tuple[float, float], shape: tuple[int, int]) -> Measure:
    """How a variable is scored: reflectivity by thresholds and windows too, those fitted to the domain."""
    cell_km = round(float(np.mean(spacing)) / 1000, 3)
    if lookup(name).name != "REFC":
        return Measure(spacing, cell=cell_km)
    windows = dict.fromkeys(window_cells(w, cell_km, shape) for w in WINDOWS)
    return Measure(spacing, THRESHOLDS, tuple(windows), cell_km)


def strip_of(path: str, forecast: xr.Dataset, shape: tuple[int, int]) -> int:
    """Cells along the edge that boundary data gave: the attribute boundary_width, or the rule of data/boundary.py if
    the forecast says that it had boundary data and not how wide; 0 without."""
    width = forecast.attrs.get("boundary_width")
    if width is None:
        width = (davies(shape)[shape[0] // 2] > 1e-6).sum() // 2 if forecast.attrs.get("boundary") else 0
    elif not isinstance(width, int) or not 0 <= width < min(shape) / 2:
        raise fault(f"{path}: boundary_width", f"{width!r}", f"cells, under half of {min(shape)}", "write it again")
    return int(width)


def clipped_shares(forecast: xr.Dataset, names: list[str]) -> dict[str, np.ndarray]:
    """Share of cells outside the physical bounds before clipping, (init_time, lead_time) by variable; NaN if the store
    has none."""
    shape, held = (forecast.sizes["init_time"], forecast.sizes["lead_time"]), forecast.data_vars
    shares = {n: f"{n}_clipped_share" for n in names}
    return {n: held[s].values if s in held else np.full(shape, np.nan) for n, s in shares.items()}


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
