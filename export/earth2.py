"""A trained model as a prognostic model of NVIDIA's earth2studio, without importing earth2studio.

    from earth2studio.data import DataArrayFile
    from earth2studio.io import ZarrBackend
    from earth2studio.run import deterministic
    from export.earth2 import HourcastModel

    model = HourcastModel.from_checkpoint("runs/hrrr/best.pt", "data/hrrr.zarr")
    deterministic(["2023-08-05T18:00"], 6, model, DataArrayFile("analysis.nc"), ZarrBackend("out.zarr"))

It has the members of earth2studio.models.px.base.PrognosticModel, version 0.19. The input has a dimension `time`,
because the model needs the time of day, and 1 + history entries of `lead_time`.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from data.grid import Grid
from data.normalise import normalise
from data.store import Store
from data.variables import lookup
from infer_iterative import load_model

Coords = OrderedDict[str, np.ndarray]
NAMES = {"REFC": "refc", "T2M": "t2m", "D2M": "d2m", "U10": "u10m", "V10": "v10m", "CAPE": "cape", "CIN": "cin"}
FIX = "Fix: map_coords or fetch_data with the model's input_coords()"


class HourcastModel:
    """One step ahead, with the interface of earth2studio.

    Input x (..., time, lead_time, variable, y, x) in the units of data/variables.py, float32; output the same with one
    lead_time. The last two dimensions are hrrr_y, hrrr_x (m) on HRRR's Lambert grid, lat, lon on a regular grid, else
    y, x. Winds are grid-relative. front_hook and rear_hook, (x, coords) -> (x, coords), run before and after every
    step of create_iterator.
    """

    def __init__(self, forecaster, grid: Grid):
        self.forecaster, self.grid = forecaster, grid  # forecaster: the result of infer_iterative.load_model
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
        raise ValueError("load_default_package: got no published weights, expected some. Fix: load_model(Package(DIR))")

    @classmethod
    def load_model(cls, package) -> "HourcastModel":
        """The model of an exported folder, opened as earth2studio.models.auto.Package."""
        path = package.resolve("model.safetensors")
        forecaster = load_model(path)
        return cls(forecaster, exported_grid(forecaster.checkpoint, path))

    def to(self, device) -> "HourcastModel":
        """The same model on another device."""
        model = self.forecaster
        self.forecaster = type(model)(model.checkpoint, model.path, torch.device(device))
        self.forcing = self.forecaster.forcing(self.grid)
        return self

    def input_coords(self) -> Coords:
        """The coordinates of the input; empty arrays for dimensions of any length."""
        lead, history = self.forecaster.lead, self.forecaster.history
        names = [NAMES.get(lookup(n).name, n) for n in self.forecaster.names]
        known = {"lead_time": np.arange(-history, 1) * lead, "variable": np.array(names), **domain(self.grid)}
        return OrderedDict(batch=np.empty(0), time=np.empty(0), **known)

    def output_coords(self, input_coords: Coords) -> Coords:
        """The coordinates one step later; ValueError if the model cannot take `input_coords`."""
        expected = self.input_coords()
        del expected["batch"]
        dims = list(expected)
        if list(input_coords)[-5:] != dims:
            raise ValueError(f"coords: got {', '.join(input_coords)}, expected ... {', '.join(dims)}. {FIX}")
        leads = np.asarray(input_coords["lead_time"])
        given = OrderedDict(input_coords, lead_time=leads - leads[-1])
        for dim in dims[1:]:
            if not same_coordinate(np.asarray(given[dim]), expected[dim]):
                raise ValueError(f"coords: got {dim} {brief(given[dim])}, expected {brief(expected[dim])}. {FIX}")
        return OrderedDict(input_coords, lead_time=leads[-1:] + self.forecaster.lead)

    def __call__(self, x: Tensor, coords: Coords) -> tuple[Tensor, Coords]:
        """One step: the fields one lead after the last of `x`, and their coordinates."""
        coords_after = self.output_coords(coords)
        shape = tuple(len(v) for v in coords.values())
        if tuple(x.shape) != shape:
            raise ValueError(f"x: got the shape {tuple(x.shape)}, expected {shape}, as in coords. Fix: pass both alike")
        now = np.asarray(coords["time"]).astype("datetime64[ns]") + np.asarray(coords["lead_time"])[-1]
        states = x.reshape(-1, *x.shape[-4:]).float()  # (members * times, 1 + history, C, H, W)
        self._refuse_missing(states)
        model = self.forecaster
        states = normalise(states.to(model.device), model.statistics, model.mask)
        times = np.tile(now, len(states) // max(len(now), 1))
        # one at a time: a full domain with many members would not fit into memory
        steps = [next(model.roll(states[[i]], times[[i]], self.forcing, 1))[0] for i in range(len(states))]
        return torch.stack(steps).reshape(*x.shape[:-4], 1, *x.shape[-3:]).to(x.device), coords_after

    def create_iterator(self, x: Tensor, coords: Coords) -> Iterator[tuple[Tensor, Coords]]:
        """The initial fields, then one step after another without end."""
        self.output_coords(coords)
        yield x[..., -1:, :, :, :], OrderedDict(coords, lead_time=np.asarray(coords["lead_time"])[-1:])
        while True:
            x, coords = self.front_hook(x, coords)
            fields, fields_coords = self.rear_hook(*self(x, coords))
            x = torch.cat([x[..., 1:, :, :, :], fields.to(x)], dim=-4)
            leads = np.concatenate([coords["lead_time"][1:], fields_coords["lead_time"]])
            coords = OrderedDict(coords, lead_time=leads)
            yield fields, fields_coords

    def _refuse_missing(self, states: Tensor) -> None:
        """ValueError if a value outside the mask is not finite."""
        bad = ~states.isfinite()
        if self.forecaster.mask is not None:
            bad &= ~self.forecaster.mask.to(bad.device)
        if bad.any():
            name = self.forecaster.names[int(bad.sum(dim=(0, 1, 3, 4)).argmax())]
            raise ValueError(f"x: {name} is not finite everywhere, expected numbers. Fix: use other initial hours")


def domain(grid: Grid) -> dict[str, np.ndarray]:
    """The two dimensions of a grid under the names that earth2studio's data sources use."""
    if grid.y is not None and grid.x is not None:
        lambert = grid.projection.get("grid_mapping_name") == "lambert_conformal_conic"
        names = ("hrrr_y", "hrrr_x") if lambert else ("y", "x")
        return dict(zip(names, (grid.y, grid.x), strict=True))
    if grid.latitude is not None and np.ptp(grid.latitude, axis=1).max() < 1e-6:
        return {"lat": grid.latitude[:, 0], "lon": grid.longitude[0] % 360.0}
    return {"y": np.arange(grid.shape[0]), "x": np.arange(grid.shape[1])}


def exported_grid(checkpoint: dict, path: str) -> Grid:
    """The grid in a file of exported weights; ValueError if it has none."""
    table, fields = checkpoint["grid"], {k: v.cpu().numpy() for k, v in checkpoint["grid"]["fields"].items()}
    if not fields:
        raise ValueError(f"{path}: got no grid, expected one. Fix: python -m export.model_card with --zarr STORE")
    static = {k: fields[k] for k in ("orography", "land_sea_mask") if k in fields}
    shape = next((v.shape for v in fields.values() if v.ndim == 2), tuple(table["shape"]))
    known = {k: fields.get(k) for k in ("latitude", "longitude", "y", "x")}
    return Grid(tuple(shape), tuple(table["dims"]), **known, projection=table["projection"], static=static)


def same_coordinate(given: np.ndarray, expected: np.ndarray) -> bool:
    """Whether two coordinates agree: places to 1 m or 1e-5 degrees, all others exactly."""
    if given.shape != expected.shape:
        return False
    if expected.dtype.kind != "f":
        return bool((given == expected).all())
    return bool(np.allclose(given, expected, rtol=0, atol=1.0 if np.abs(expected).max() > 1000 else 1e-5))


def brief(values: np.ndarray) -> str:
    """A coordinate as short text for a message."""
    values = np.asarray(values)
    shown = ", ".join(str(v) for v in (values if len(values) < 9 else (values[0], "...", values[-1])))
    return f"[{shown}] ({len(values)})"
