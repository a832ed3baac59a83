"""A trained model to call from Python: load it, forecast from any store, get an xarray Dataset.

    from infer_iterative import forecast, load_model

    model = load_model("runs/demo/best.pt")
    ds = forecast(model, "runs/demo/store.zarr", init_time="2023-08-05T18", hours=6)
    ds.REFC.isel(init_time=0).sel(lead_time="3h").plot()

What comes back is what infer_iterative.py writes to a forecast store (data/forecast_store.py), in memory.
"""

import math
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from data.boundary import Boundary, Yesterday
from data.dataset import Hours, Series
from data.forcing import CLOCK_FEATURES, Forcing
from data.forecast_store import plain
from data.grid import Grid
from data.metadata import KIND, attributes_of, coordinates_of
from data.normalise import Statistics, clip_physical, denormalise, limiter, normalise
from data.store import Store
from data.times import hours_of, parse_duration, parse_time, show
from data.variables import lookup
from models.rollout import rollout
from models.sharpen import Sharpening
from models.unet import ResidualUNet
from training.checkpoint import file_hash, load_checkpoint
from training.device import autocast, choose_device
from training.weights import load_weights

CENTURY = 876_600.0  # hours; valid times beyond the year 2262 have no datetime64[ns]


class Forecaster:
    """The averaged weights of a checkpoint as a forecast model, in physical units.

    Attributes: checkpoint (its tables), path, device, names, lead (timedelta64), history, statistics, mask, network.
    """

    def __init__(self, checkpoint: dict, path: str, device: torch.device):
        self.checkpoint, self.path, self.device = checkpoint, str(path), device
        self.names: list[str] = list(checkpoint["variables"])
        self.lead = parse_duration(checkpoint["lead"], "lead")
        constants = checkpoint["config"]
        self.history: int = constants["history"]
        self.statistics = Statistics.from_dict(checkpoint["statistics"]).to(device)
        mask = checkpoint["grid"]["mask"]
        self.mask = None if mask is None else mask.to(device)
        size = {k: constants[k] for k in ("base_features", "levels", "blocks", "history", "regression")}
        forcing = len(checkpoint["grid"]["forcing"])
        self.network = ResidualUNet(len(self.names), forcing, CLOCK_FEATURES, **size, lean=True).to(device)
        try:
            self.network.load_state_dict(checkpoint["ema"])
        except RuntimeError as error:
            raise ValueError(
                f"{path}: its weights do not fit its constants, expected a checkpoint of this version of the code. "
                "Fix: use the version that wrote it, or train again"
            ) from error
        self.network.eval().requires_grad_(False)
        held = checkpoint.get("held", [])  # variables that stay as they are (train_restrain.py)
        free = torch.tensor([n not in held for n in self.names], device=device)
        self.held, self.scale = ~free, self.statistics.scale * free[:, None, None]
        self.limit = limiter(self.statistics, self.mask)
        table = {k: x.to(device) for k, x in checkpoint.get("sharpening", {}).items()}
        self.sharpening = {kind: Sharpening.from_table(table, kind) for kind in ("free", "edge")}
        self.alone = float(table["alone"]) if "alone" in table else math.inf  # h, see data.boundary.Yesterday

    def forcing(self, grid: Grid, where: str = "this grid") -> Forcing:
        """Sun, clock, terrain and masks of a grid; ValueError where it lacks some that the model was trained with."""
        forcing = Forcing(grid, self.lead, self.statistics.names, self.mask, self.device)
        refuse_other_grid(self.checkpoint, forcing, grid, where)
        return forcing

    def yesterday(self, hours: Hours, times: np.ndarray, steps: int) -> Yesterday | None:
        """What the edge of forecasts without boundary data is drawn to, where sharpening was measured so (on records of
        more than a few days); None where `hours` has it for none of them."""
        edge = Yesterday(hours, self.statistics, self.mask, self.lead, steps, self.alone, ~self.held)
        return edge if edge.known(times).any() else None

    def sharpened(self, boundary: bool, first: int = 0) -> Callable[[Tensor, int], Tensor] | None:
        """What gives a state after step `first` + k its detail back; None where that was not measured for forecasts
        of this kind, with or without boundary data. Beyond the steps that were measured a state stays as it is."""
        measured = self.sharpening["edge" if boundary else "free"]
        return None if measured is None else lambda state, k: measured(state, first + k)

    @torch.no_grad()
    def roll(
        self, states: Tensor, init_times: np.ndarray, forcing: Forcing, steps: int,
        edge: Boundary | Yesterday | None = None, sharpened: Callable | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
        """Forecast `steps` leads from states (B, 1 + history, C, H, W) in physical units, the last at init_times (B,).
        edge: what the edge of the domain is drawn to; sharpened as in models/rollout.py.

        Yields after each step the fields (B, C, H, W), physical units inside the bounds and NaN where masked, and the
        shares of clipped cells (B, C). Raises ValueError where a field is not finite. Full precision on a CPU, bfloat16
        on a GPU."""
        init_times = np.atleast_1d(init_times)
        nudge = None if edge is None else lambda state, k: edge.draw(state, init_times, self.lead, k)
        stays = self.held.any() and not isinstance(edge, Boundary)
        analysis = clip_physical(states[:, -1].to(self.device), self.statistics.names) if stays else None
        with autocast(self.device):
            out = rollout(
                self.network, normalise(states.to(self.device), self.statistics, self.mask),
                lambda k: forcing(init_times + k * self.lead), self.scale, self.limit, steps, nudge,
                sharpened,
            )  # fmt: skip
            for k, (state, clipped) in enumerate(out):
                fields = denormalise(state.float(), self.statistics, self.mask)
                fields = clip_physical(fields, self.statistics.names)
                if stays:  # to the last digit: what is held is persistence
                    fields[:, self.held] = analysis[:, self.held]
                sound = fields.isfinite() if self.mask is None else fields.isfinite() | self.mask
                if not sound.all():
                    first = init_times[int(sound.flatten(1).all(dim=1).int().argmin())]
                    raise ValueError(
                        f"the forecast from {show(first)} is not finite after {k + 1} steps, expected numbers. "
                        "Fix: use another checkpoint (previous.pt) or train with a lower --lr"
                    )
                yield fields, clipped


def load_model(checkpoint: str | Path, device: str | torch.device | None = None) -> Forecaster:
    """The model of a checkpoint (best.pt, last.pt) or of a .safetensors file of export/model_card.py.

    device: a GPU where there is one, unless named. Nothing in the file can run code. ValueError for a file of another
    kind."""
    device = choose_device() if device is None else torch.device(device)
    load = load_weights if str(checkpoint).endswith(".safetensors") else load_checkpoint
    return Forecaster(load(checkpoint, device), str(checkpoint), device)


def forecast(
    model: Forecaster | str | Path,
    store: Store | str | Path,
    init_time: str | np.datetime64 | list = "latest",
    hours: float = 24.0,
    boundary: str = "",
    batch_size: int = 1,
    sharpen: bool = True,
    yesterday: bool = True,
) -> xr.Dataset:
    """A forecast from one or several hours of a training store, as infer_iterative.py would write it, in memory.

    `model`: what load_model gives, or a path; `init_time`: "latest", ISO times (UTC) or datetime64; `hours`: a
    multiple of the model's step; `boundary`: a store for the edge of the domain; `batch_size`: initial times that
    are computed together; `sharpen`: give back the detail that a step loses, as measured after training; `yesterday`:
    without boundary data, draw the edge to the day before, where training has measured it so. Dimensions
    (init_time, lead_time, y, x) under the store's names; `<variable>_clipped_share` beside each variable. ValueError
    for a time, variable or grid that the store lacks.
    """
    refuse_no_batch(batch_size)
    model = model if isinstance(model, Forecaster) else load_model(model)
    store = store if isinstance(store, Store) else Store(store)
    names = match_variables(model.checkpoint, store)
    steps = count_steps(hours, model.lead)
    times = _init_times(init_time, store)
    refuse_missing_history(store, times, model.lead, model.history)
    forcing = model.forcing(store.grid, store.path)
    mask = None if model.mask is None else model.mask.cpu()
    series = Series(Hours(store, names, mask, cache_gb=0.5), model.lead, model.history)
    edge = Boundary(boundary, store, model.statistics, model.mask) if boundary else None
    if edge:
        edge.refuse_missing(times, model.lead, steps, "fewer hours, or another init_time")
    elif yesterday:
        edge = model.yesterday(series.hours, times, steps)

    fields = np.full((len(names), len(times), steps + 1, *store.grid.shape), np.nan, np.float32)
    clipped = np.zeros((len(names), len(times), steps + 1), np.float32)
    sharpened = model.sharpened(bool(boundary)) if sharpen else None
    for batch, k, after, share in roll_out(model, series, times, forcing, steps, edge, batch_size, sharpened):
        fields[:, batch, k], clipped[:, batch, k] = after.swapaxes(0, 1), share.T
    attributes = describe(model, store, boundary, sharpened is not None, edge)
    return _dataset(names, store.grid, times, np.arange(steps + 1) * model.lead, fields, clipped, attributes)


def roll_out(
    model: Forecaster, series: Series, times: np.ndarray, forcing: Forcing, steps: int,
    edge: Boundary | Yesterday | None, batch_size: int = 1, sharpened: Callable | None = None,
) -> Iterator[tuple[slice, int, np.ndarray, np.ndarray]]:  # fmt: skip
    """The forecasts from `times`, `batch_size` of them together, from the analysis (lead 0) to the last lead.

    Yields (which of the times, lead index, fields (B, C, H, W) in physical units, clipped shares (B, C))."""
    for first in range(0, len(times), batch_size):
        batch = slice(first, min(first + batch_size, len(times)))
        states = series.states(times[batch]).to(model.device)
        analysis = clip_physical(states[:, -1], model.statistics.names)
        yield batch, 0, analysis.cpu().numpy(), np.zeros(analysis.shape[:2], np.float32)
        for k, (fields, clipped) in enumerate(model.roll(states, times[batch], forcing, steps, edge, sharpened)):
            yield batch, k + 1, fields.cpu().numpy(), clipped.cpu().numpy()


def _init_times(init_time, store: Store) -> np.ndarray:
    """The initial times, sorted, as datetime64[ns]; ValueError for one that the store does not hold."""
    if isinstance(init_time, str) and init_time == "latest":
        return store.times.max()[None]
    wanted = [init_time] if isinstance(init_time, str) else np.atleast_1d(init_time)
    times = [parse_time(str(t), "init_time") for t in wanted]
    if not times:
        raise ValueError("init_time: got an empty list, expected at least one time. Fix: init_time='latest'")
    for t in times:
        if not store.has(t):
            raise ValueError(
                f"init_time: {store.path} has no {show(t)}, expected a time of the store. "
                f"Nearest: {store.nearest_times(t)}. Fix: choose one of them, or 'latest'"
            )
    return np.unique(np.array(times, "datetime64[ns]"))


def _dataset(names, grid: Grid, times, leads, fields, clipped, attributes: dict) -> xr.Dataset:
    """The fields (C, init_time, lead_time, y, x) with coordinates and attributes as in a forecast store."""
    dims = ("init_time", "lead_time", *grid.dims)
    coordinates = coordinates_of(grid) | {
        "init_time": ("init_time", times, {"standard_name": "forecast_reference_time"}),
        "lead_time": ("lead_time", leads.astype("timedelta64[ns]"), {"standard_name": "forecast_period"}),
    }
    told = {"Conventions": "CF-1.10", "variables": list(names), **attributes, KIND: "forecast"}
    out = xr.Dataset(coords=coordinates, attrs={k: plain(v) for k, v in told.items()})
    valid = (out["init_time"] + out["lead_time"]).assign_attrs(standard_name="time", long_name="valid time, UTC")
    out = out.assign_coords(valid_time=valid)
    for c, n in enumerate(names):
        out[n] = (dims, fields[c], attributes_of(lookup(n), grid))
        long_name = f"share of {n} cells outside the physical bounds before clipping"
        out[f"{n}_clipped_share"] = (dims[:2], clipped[c], {"long_name": long_name, "units": "1"})
    return out


def describe(
    model: Forecaster, store: Store, boundary: str = "", sharpened: bool = False,
    edge: Boundary | Yesterday | None = None,
) -> dict:  # fmt: skip
    """The attributes that tell where a forecast came from."""
    checkpoint = model.checkpoint
    libraries = {name: version(name) for name in ("torch", "numpy", "zarr", "xarray")}
    perfect = bool(boundary) and Path(boundary).resolve() == Path(store.path).resolve()
    return {
        "title": "hourcast forecast", "source": f"residual UNet, {model.path}, started from {store.path}",
        "checkpoint_sha256": file_hash(model.path), "checkpoint_step": checkpoint["step"],
        "training_period": " to ".join(checkpoint["split"]["train"]), "lead": checkpoint["lead"],
        "split": checkpoint["split"], "statistics": checkpoint["statistics"], "constants": checkpoint["config"],
        "versions": {"python": sys.version.split()[0], **libraries},
        "boundary": f"{boundary}{' (perfect boundary: the truth itself)' if perfect else ''}",
        "edge": "boundary data" if boundary else f"after {edge.after:g} h the day before" if edge else "the forecast",
        "sharpened": "yes" if sharpened else "no", "held": " ".join(checkpoint.get("held", [])),
        "store_source": str(store.dataset.attrs.get("source", "")),
    }  # fmt: skip


def match_variables(checkpoint: dict, store: Store) -> list[str]:
    """The store's names of the checkpoint's variables, in its order; ValueError where one is missing."""
    try:
        return store.choose(checkpoint["variables"])
    except ValueError as error:
        wanted = " ".join(checkpoint["variables"])
        found = str(error).split(" Fix: ")[0]
        raise ValueError(
            f"the checkpoint is for the variables {wanted}; {found} Fix: use the kind of store it was trained on, or "
            "another checkpoint"
        ) from error


def count_steps(hours: float, lead: np.timedelta64) -> int:
    """`hours` in steps of one lead; ValueError where that is not a whole positive number."""
    steps = hours / hours_of(lead)
    if not (0.5 < steps < 1e6 and hours < CENTURY and abs(steps - round(steps)) < 1e-6):
        raise ValueError(
            f"hours: got {hours:g}, expected a positive multiple of the model's step of {hours_of(lead):g} hours, at "
            f"most 100 years. Fix: --hours {max(round(min(steps, 1e5)), 1) * hours_of(lead):g}"
            if np.isfinite(hours) else
            f"hours: got {hours}, expected a positive number. Fix: --hours 24"
        )  # fmt: skip
    return round(steps)


def refuse_no_batch(batch_size: int) -> None:
    """ValueError for a number of initial times below 1."""
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, expected at least 1. Fix: --batch_size 1")


def refuse_missing_history(store: Store, init_times: np.ndarray, lead, history: int) -> None:
    """ValueError where the store lacks one of the hours before an initial time that the model looks back on."""
    for t in init_times:
        for k in range(1, history + 1):
            if not store.has(t - k * lead):
                raise ValueError(
                    f"init_time: {store.path} has no {show(t - k * lead)}, expected it because the model sees the last "
                    f"{history + 1} times up to {show(t)}. Fix: another --init_time"
                )


def refuse_other_grid(checkpoint: dict, forcing: Forcing, grid: Grid, where: str) -> None:
    """ValueError where a grid does not offer the forcing or the mask the model was trained with."""
    trained = checkpoint["grid"]
    if trained["forcing"] != forcing.names:
        raise ValueError(
            f"{where}: offers the forcing {', '.join(forcing.names) or 'none'}; the checkpoint expects "
            f"{', '.join(trained['forcing']) or 'none'}. Fix: add the missing coordinates or static fields to the store"
        )
    if trained["mask"] is not None and tuple(trained["mask"].shape[1:]) != grid.shape:
        raise ValueError(
            f"{where}: got the grid {grid.shape}, expected {tuple(trained['shape'])} because the model was "
            "trained with a mask. Fix: use a store on the training grid"
        )
    if tuple(trained["shape"]) != grid.shape:
        print(f"note: trained on {tuple(trained['shape'])} cells, forecast on {grid.shape}")
