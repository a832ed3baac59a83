"""A trained model as a prognostic model of NVIDIA's earth2studio, without importing earth2studio.

    from earth2_model import HourcastModel
    from earth2studio.data import DataArrayFile
    from earth2studio.io import ZarrBackend
    from earth2studio.run import deterministic

    model = HourcastModel.from_checkpoint("runs/hrrr/best.pt", "data/hrrr.zarr")
    deterministic(["2023-08-05T18:00"], 6, model, DataArrayFile("analysis.nc"), ZarrBackend("out.zarr"))

It has the members of earth2studio.models.px.base.PrognosticModel (written against version 0.19). The model needs the
time of day, so `time` is a dimension of its input, and the last hours, so `lead_time` has 1 + history entries.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from data.grid import Grid
from data.store import Store
from data.variables import lookup
from forecaster import Forecaster, load_model

Coords = OrderedDict[str, np.ndarray]
NAMES = {"REFC": "refc", "T2M": "t2m", "D2M": "d2m", "U10": "u10m", "V10": "v10m", "CAPE": "cape", "CIN": "cin"}
PLACE = 1.0  # m (or 1e-5 degrees), by which coordinates may differ


class HourcastModel:
    """One hour ahead (or whatever the step is), in earth2studio's words.

    Input x (..., time, lead_time, variable, y, x) in the units of data/variables.py, float32; output the same with one
    lead_time. The last two dimensions are hrrr_y, hrrr_x (m) on HRRR's Lambert grid, lat, lon on a regular grid, else
    y, x. Winds are those of the grid, as in HRRR. front_hook and rear_hook, (x, coords) -> (x, coords), run before and
    after every step of create_iterator.
    """

    def __init__(self, forecaster: Forecaster, grid: Grid):
        self.forecaster, self.grid = forecaster, grid
        self.forcing = forecaster.forcing(grid)
        self.front_hook: Callable = lambda x, coords: (x, coords)
        self.rear_hook: Callable = lambda x, coords: (x, coords)

    @classmethod
    def from_checkpoint(cls, checkpoint: str, store: str, device=None) -> "HourcastModel":
        """The model of a checkpoint on the grid of a training store."""
        return cls(load_model(checkpoint, device), Store(store).grid)

    @classmethod
    def load_default_package(cls):
        """ValueError: no weights are published; earth2studio asks for them by this name."""
        raise ValueError(
            "load_default_package: got no published weights, expected a folder of yours. "
            "Fix: export_model.py writes one; load_model(Package(FOLDER)) reads it"
        )

    @classmethod
    def load_model(cls, package) -> "HourcastModel":
        """The model of a folder that export_model.py wrote, opened as earth2studio.models.auto.Package."""
        path = package.resolve("model.safetensors")
        forecaster = load_model(path)
        return cls(forecaster, grid_of(forecaster.checkpoint, path))

    def to(self, device) -> "HourcastModel":
        """The same model on another device."""
        model = self.forecaster
        self.forecaster = Forecaster(model.checkpoint, model.path, torch.device(device))
        self.forcing = self.forecaster.forcing(self.grid)
        return self

    def input_coords(self) -> Coords:
        """What the model takes; empty arrays for dimensions of any length."""
        lead, history = self.forecaster.lead, self.forecaster.history
        names = [NAMES.get(lookup(n).name, n) for n in self.forecaster.names]
        return OrderedDict(
            {
                "batch": np.empty(0),
                "time": np.empty(0),
                "lead_time": np.arange(-history, 1) * lead,
                "variable": np.array(names),
                **domain(self.grid),
            }
        )

    def output_coords(self, input_coords: Coords) -> Coords:
        """The coordinates one step later; ValueError where `input_coords` is nothing the model can take."""
        wanted = self.input_coords()
        del wanted["batch"]
        dims = list(wanted)
        if list(input_coords)[-5:] != dims:
            raise ValueError(
                f"coords: got the dimensions {', '.join(input_coords)}, expected them to end in {', '.join(dims)}. "
                "Fix: map_coords or fetch_data with the model's input_coords()"
            )
        leads = np.asarray(input_coords["lead_time"])
        found = OrderedDict(input_coords, lead_time=leads - leads[-1])
        for dim in dims[1:]:
            if not same(np.asarray(found[dim]), wanted[dim]):
                raise ValueError(
                    f"coords: got {dim} {brief(found[dim])}, expected {brief(wanted[dim])}. "
                    "Fix: map_coords or fetch_data with the model's input_coords()"
                )
        return OrderedDict(input_coords, lead_time=leads[-1:] + self.forecaster.lead)

    def __call__(self, x: Tensor, coords: Coords) -> tuple[Tensor, Coords]:
        """One step: the fields one lead after the last of `x`, and their coordinates."""
        after = self.output_coords(coords)
        shape = tuple(len(v) for v in coords.values())
        if tuple(x.shape) != shape:
            raise ValueError(f"x: got the shape {tuple(x.shape)}, expected {shape}, as in coords. Fix: pass both alike")
        last = np.asarray(coords["lead_time"])[-1]
        now = np.asarray(coords["time"]).astype("datetime64[ns]") + last
        done = max(0, round(last / self.forecaster.lead))
        members = x.reshape(-1, len(now), *x.shape[-4:]).float()
        self._refuse_missing(members)
        steps = [[self._step(states, time, done) for states, time in zip(m, now, strict=True)] for m in members]
        out = torch.stack([torch.stack(m) for m in steps])[:, :, None]
        return out.reshape(*x.shape[:-4], 1, *x.shape[-3:]).to(x.device), after

    def create_iterator(self, x: Tensor, coords: Coords) -> Iterator[tuple[Tensor, Coords]]:
        """The initial fields, then one step after another without end."""
        self.output_coords(coords)
        coords = OrderedDict(coords)
        yield x[..., -1:, :, :, :], OrderedDict(coords, lead_time=np.asarray(coords["lead_time"])[-1:])
        while True:
            x, coords = self.front_hook(x, coords)
            after, told = self.rear_hook(*self(x, coords))
            x = torch.cat([x[..., 1:, :, :, :], after.to(x)], dim=-4)
            coords = OrderedDict(coords, lead_time=np.concatenate([coords["lead_time"][1:], told["lead_time"]]))
            yield after, told

    def _step(self, states: Tensor, time: np.datetime64, done: int) -> Tensor:
        """(1 + history, C, H, W) at hours up to `time`, `done` steps after the analysis, to the fields (C, H, W) one
        lead later."""
        sharpened = self.forecaster.sharpened(False, done)
        return next(self.forecaster.roll(states[None], time, self.forcing, 1, sharpened=sharpened))[0][0]

    def _refuse_missing(self, members: Tensor) -> None:
        """ValueError where a value is missing that is not masked."""
        bad = ~members.isfinite()
        if self.forecaster.mask is not None:
            bad &= ~self.forecaster.mask.to(bad.device)
        if bad.any():
            name = self.forecaster.names[int(bad.sum(dim=(0, 1, 2, 4, 5)).argmax())]
            raise ValueError(
                f"x: {name} has missing or infinite values, expected numbers. Fix: use other initial hours"
            )


def domain(grid: Grid) -> dict[str, np.ndarray]:
    """The two dimensions of a grid under the names that earth2studio's data sources use."""
    if grid.y is not None and grid.x is not None:
        lambert = grid.projection.get("grid_mapping_name") == "lambert_conformal_conic"
        names = ("hrrr_y", "hrrr_x") if lambert else ("y", "x")
        return dict(zip(names, (grid.y, grid.x), strict=True))
    if grid.latitude is not None and np.ptp(grid.latitude, axis=1).max() < 1e-6:
        return {"lat": grid.latitude[:, 0], "lon": grid.longitude[0] % 360.0}
    return {"y": np.arange(grid.shape[0]), "x": np.arange(grid.shape[1])}


def grid_of(checkpoint: dict, path: str) -> Grid:
    """The grid that stands beside exported weights; ValueError where there is none."""
    table, fields = checkpoint["grid"], {k: v.cpu().numpy() for k, v in checkpoint["grid"]["fields"].items()}
    if not fields:
        raise ValueError(
            f"{path}: got no grid beside the weights, expected one. Fix: export_model.py with --zarr STORE"
        )
    static = {k: fields[k] for k in ("orography", "land_sea_mask") if k in fields}
    shape = next((v.shape for v in fields.values() if v.ndim == 2), tuple(table["shape"]))
    known = {k: fields.get(k) for k in ("latitude", "longitude", "y", "x")}
    return Grid(tuple(shape), tuple(table["dims"]), **known, projection=table["projection"], static=static)


def same(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether two coordinates are alike: places to a metre or 1e-5 degrees, the rest exactly."""
    if found.shape != wanted.shape:
        return False
    if wanted.dtype.kind != "f":
        return bool((found == wanted).all())
    return bool(np.allclose(found, wanted, rtol=0, atol=PLACE if np.abs(wanted).max() > 1000 else 1e-5))


def brief(values: np.ndarray) -> str:
    """A coordinate in a few words."""
    values = np.asarray(values)
    shown = ", ".join(str(v) for v in (values if len(values) < 9 else (values[0], "...", values[-1])))
    return f"[{shown}] ({len(values)})"
