"""Roll a trained checkpoint forward, step by step, into a forecast store.

    python infer_iterative.py                                           # the constants below
    python infer_iterative.py --checkpoint runs/hrrr/best.pt --zarr data/hrrr.zarr \\
        --init_time 2018-07-23T00 --hours 24 --out runs/hrrr/forecast.zarr
    python infer_iterative.py ... --init_time latest                    # or several times, or: test

Writes the forecast store --out (format: data/forecast_store.py), which opens with xarray.open_zarr. From Python:

    from infer_iterative import forecast, load_model

    ds = forecast(load_model("runs/demo/best.pt"), "runs/demo/store.zarr", init_time="2023-08-05T18", hours=6)
    ds.REFC.isel(init_time=0).sel(lead_time="3h").plot()
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from data.boundary import Boundary
from data.command import fault, run
from data.dataset import Hours, Pairs, Split, find_pairs, usual_step
from data.forcing import CLOCK_FEATURES, Forcing
from data.forecast_store import ForecastWriter, template
from data.grid import Grid
from data.metadata import attributes_of, coordinate_names, refuse_foreign
from data.normalise import Statistics, clip_physical, denormalise, limiter
from data.store import Store
from data.times import hours_of, parse_duration, parse_time, show, show_duration
from data.variables import lookup
from models.rollout import rollout
from models.unet import ResidualUNet
from training.checkpoint import file_hash, load_checkpoint
from training.device import choose_device
from training.weights import load_weights

KEPT = 500_000_000  # bytes of decoded hours that stay in memory
LONGEST = 876_600.0  # hours; valid times beyond the year 2262 have no datetime64[ns]


@dataclass
class Config:
    checkpoint: str = "runs/hrrr/best.pt"  # what train_deterministic.py wrote; best.pt alone is enough
    zarr: str = "data/hrrr.zarr"  # store with the initial hours
    init_time: list[str] = field(default_factory=lambda: ["latest"])  # ISO times, UTC; or: latest; or: test
    hours: float = 24.0  # length of the forecast
    test_starts: int = 12  # with `--init_time test`: at most this many, spread evenly over the test hours
    init_every: str = ""  # with `--init_time test`: instead, one every so often, such as 6h
    boundary: str = ""  # host store for the edge of the domain, on any grid; empty: no boundary data
    batch_size: int = 1  # initial times that are computed together: faster on small domains, for more memory
    out: str = "runs/hrrr/forecast.zarr"  # forecast store to write


class Forecaster:
    """The averaged weights of a checkpoint as a forecast model, in physical units.

    Attributes: checkpoint (its tables), path, device, names, lead (timedelta64), history, statistics, mask, network.
    """

    def __init__(self, checkpoint: dict, path: str, device: torch.device):
        self.checkpoint, self.path, self.device = checkpoint, str(path), device
        self.names: list[str] = list(checkpoint["variables"])
        self.lead = parse_duration(checkpoint["lead"], "lead")
        config = checkpoint["config"]
        self.history: int = config["history"]
        self.statistics = Statistics.from_dict(checkpoint["statistics"]).to(device)
        mask = checkpoint["grid"]["mask"]
        self.mask = None if mask is None else mask.to(device)
        self.limit = limiter(self.statistics, self.mask)
        sizes = len(self.names), len(checkpoint["grid"]["forcing"]), CLOCK_FEATURES
        shape = {k: config[k] for k in ("base_features", "levels", "history")}
        self.network = ResidualUNet(*sizes, **shape, lean=True, regression="regression" in checkpoint["ema"])
        try:
            self.network.load_state_dict(checkpoint["ema"])
        except RuntimeError as error:
            raise ValueError(
                f"{path}: its weights do not fit its constants, expected a checkpoint of this version of the code. "
                "Fix: use the version that wrote it, or train again"
            ) from error
        self.network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)

    def forcing(self, grid: Grid, where: str = "this grid") -> Forcing:
        """Sun, clock, terrain and masks of a grid; ValueError if it lacks some that the model was trained with."""
        forcing, trained = Forcing(grid, self.lead, tuple(self.names), self.mask, self.device), self.checkpoint["grid"]
        if self.mask is not None and tuple(self.mask.shape[1:]) != grid.shape:
            raise ValueError(
                f"{where}: got the grid {grid.shape}, expected {tuple(trained['shape'])} because the model was "
                "trained with a mask. Fix: use a store on the training grid"
            )
        if trained["forcing"] != forcing.names:
            raise ValueError(
                f"{where}: offers the forcing {', '.join(forcing.names) or 'none'}; the checkpoint expects "
                f"{', '.join(trained['forcing']) or 'none'}. Fix: add the missing coordinates or static fields to the "
                "store"
            )
        if tuple(trained["shape"]) != grid.shape:
            print(f"note: trained on {tuple(trained['shape'])} cells, forecast on {grid.shape}")
        return forcing

    @torch.no_grad()
    def roll(
        self, states: Tensor, init_times: np.ndarray, forcing: Forcing, steps: int, edge: Boundary | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Forecast `steps` leads from normalised states (B, 1 + history, C, H, W), the last at init_times (B,).

        Yields after each step the fields (B, C, H, W), physical units inside the bounds and NaN in masked cells, and
        the shares of clipped cells (B, C). ValueError for a field that is not finite. Float32 on a CPU, bfloat16 on a
        GPU."""
        clipped = None

        def finish(state: Tensor, k: int) -> Tensor:
            nonlocal clipped
            state, clipped = self.limit(state)
            if edge is None:
                return state
            return edge.nudge(state, edge.fields(init_times, (k + 1) * self.lead).to(self.device))

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            forcing_at = lambda k: forcing(init_times + k * self.lead)  # noqa: E731
            out = rollout(self.network, states.to(self.device), forcing_at, self.statistics.scale, finish, steps)
            for k, state in enumerate(out):
                fields = clip_physical(denormalise(state.float(), self.statistics, self.mask), tuple(self.names))
                sound = fields.isfinite() if self.mask is None else fields.isfinite() | self.mask
                if not sound.all():
                    first = init_times[int(sound.flatten(1).all(dim=1).int().argmin())]
                    raise ValueError(
                        f"the forecast from {show(first)} is not finite after {k + 1} steps, expected numbers. "
                        "Fix: use another checkpoint (previous.pt) or train with a lower --lr"
                    )
                yield fields, clipped


def load_model(checkpoint: str | Path, device: str | torch.device | None = None) -> Forecaster:
    """The model of a checkpoint (best.pt, last.pt) or of a .safetensors file of export/.

    device: a GPU if there is one, unless named. Nothing in the file can run code. ValueError for another kind of
    file."""
    device = choose_device() if device is None else torch.device(device)
    load = load_weights if str(checkpoint).endswith(".safetensors") else load_checkpoint
    return Forecaster(load(checkpoint, device), str(checkpoint), device)


def forecast(
    model: Forecaster | str | Path, store: Store | str | Path, init_time: str | np.datetime64 | list = "latest",
    hours: float = 24.0, boundary: str = "", batch_size: int = 1,
) -> xr.Dataset:  # fmt: skip
    """A forecast from one or several hours of a training store, as infer_iterative.py would write it, in memory.

    `model`: what load_model gives, or a path; `init_time`: "latest", ISO times (UTC) or datetime64; `hours`: a
    multiple of the model's step; `boundary`: a host store for the edge of the domain; `batch_size`: initial times that
    are computed together. Dimensions (init_time, lead_time, y, x) under the store's names; `<variable>_clipped_share`
    beside each variable. ValueError for a time, variable or grid that the store lacks.
    """
    model = model if isinstance(model, Forecaster) else load_model(model)
    store = store if isinstance(store, Store) else Store(store)
    wanted = [init_time] if isinstance(init_time, str) else [str(t) for t in np.atleast_1d(init_time)]
    asked = Config(init_time=wanted, zarr=store.path)
    times, steps = choose_init_times(asked, store, model, count_steps(hours, model.lead))
    setup = prepare(model, store, times, steps, boundary, batch_size)
    names, *_, edge = setup
    fields = np.full((len(names), len(times), steps + 1, *store.grid.shape), np.nan, np.float32)
    clipped = np.zeros((len(names), len(times), steps + 1), np.float32)
    for batch, k, after, share in roll_out(model, times, steps, batch_size, *setup):
        fields[:, batch, k], clipped[:, batch, k] = after.swapaxes(0, 1), share.T
    dims, grid = ("init_time", "lead_time", *store.grid.dims), store.grid
    out = template(names, grid, times, np.arange(steps + 1) * model.lead, describe(model, store, edge, times))
    for c, n in enumerate(names):
        out[n] = (dims, fields[c], attributes_of(lookup(n), grid), coordinate_names(lookup(n), grid, "valid_time"))
        long_name = f"share of {n} cells outside the physical bounds before clipping"
        out[f"{n}_clipped_share"] = (dims[:2], clipped[c], {"long_name": long_name, "units": "1"})
    return out


def main(cfg: Config) -> int:
    # ------------------------------------------------------------------------ what to forecast from what
    model, store = load_model(cfg.checkpoint), Store(cfg.zarr)
    init_times, steps = choose_init_times(cfg, store, model, count_steps(cfg.hours, model.lead))
    names, *rest = prepare(model, store, init_times, steps, cfg.boundary, cfg.batch_size)
    lead_times = np.arange(steps + 1) * model.lead
    some = ", ".join(map(show, init_times[:3])) + (" ..." if len(init_times) > 3 else "")
    print(f"forecast {' '.join(names)} of {cfg.zarr} with {cfg.checkpoint} on {model.device}, into {cfg.out}")
    print(f"initial times: {len(init_times)} ({some}); {hours_of(lead_times[-1]):g} h in {steps} steps", flush=True)
    first, last = Split.from_dict(model.checkpoint["split"]).train
    if seen := int(((init_times >= first) & (init_times <= last)).sum()):
        print(f"note: {seen} of them lie in the training hours ({show(first)} to {show(last)})")
    refuse_foreign(Path(cfg.out), "forecast")
    if Path(cfg.out).exists():
        print(f"note: {cfg.out} is replaced when the new forecast is complete")
    attributes = describe(model, store, rest[-1], init_times)
    if cfg.boundary:
        print(f"boundary data: {cfg.boundary}, {attributes['boundary_kind']}", flush=True)

    # ------------------------------------------------------------------------ the roll-out
    bar = tqdm(total=len(init_times) * steps, desc="roll-out", unit="step", disable=None)
    clipped_sum = np.zeros(len(names))
    with ForecastWriter(cfg.out, names, store.grid, init_times, lead_times, attributes) as out:
        for batch, k, fields, clipped in roll_out(model, init_times, steps, cfg.batch_size, names, *rest):
            for i, case, share in zip(range(batch.start, batch.stop), fields, clipped, strict=True):
                out.write(i, k, case, share)
            clipped_sum += clipped.sum(axis=0)
            bar.update(len(fields) if k else 0)
    bar.close()
    shares = ", ".join(f"{n} {s:.2%}" for n, s in zip(names, clipped_sum / (len(init_times) * steps), strict=True) if s)
    print(f"cells clipped to physical bounds, mean over steps: {shares or 'none'}")
    print(f"wrote {cfg.out}; open it with xarray.open_zarr({cfg.out!r})")
    return 0


def prepare(
    model: Forecaster, store: Store, times: np.ndarray, steps: int, boundary: str, batch_size: int
) -> tuple[list[str], Pairs, Forcing, Boundary | None]:
    """The store's names of the model's variables, its states, its forcing and the boundary data; ValueError if the
    store does not fit the model, or lacks an hour."""
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, expected at least 1. Fix: --batch_size 1")
    names = match_variables(model.checkpoint, store)
    store.refuse_other(model.checkpoint["grid"], "the model was trained on")
    for t in times:
        for k in range(1, model.history + 1):
            if not store.has(t - k * model.lead):
                raise ValueError(
                    f"init_time: {store.path} has no {show(t - k * model.lead)}, expected it because the model sees "
                    f"the last {model.history + 1} times up to {show(t)}. Fix: another --init_time"
                )
    forcing = model.forcing(store.grid, store.path)
    states = Pairs(Hours(store, names, model.statistics, model.mask, KEPT), times, model.lead, model.history)
    states.batch([0], range(0))  # a broken first hour shows before anything is made
    edge = Boundary(boundary, store, model.statistics, model.mask) if boundary else None
    if edge:
        edge.refuse_missing(times, model.lead, steps, "fewer --hours, or another --init_time")
    return names, states, forcing, edge


def roll_out(
    model: Forecaster, times: np.ndarray, steps: int, batch_size: int, names: list[str], states: Pairs,
    forcing: Forcing, edge: Boundary | None,
) -> Iterator[tuple[slice, int, np.ndarray, np.ndarray]]:  # fmt: skip
    """The forecasts from `times`, `batch_size` of them together, from the analysis (lead 0) to the last lead.

    Yields (which of the times, lead index, fields (B, C, H, W) in physical units, clipped shares (B, C))."""
    for first in range(0, len(times), batch_size):
        batch = slice(first, min(first + batch_size, len(times)))
        analysis = torch.stack([states.hours.physical(t) for t in times[batch]])
        yield batch, 0, clip_physical(analysis, tuple(names)).numpy(), np.zeros(analysis.shape[:2], np.float32)
        _, before, _ = states.batch(range(batch.start, batch.stop), range(0))
        for k, (fields, clipped) in enumerate(model.roll(before, times[batch], forcing, steps, edge)):
            yield batch, k + 1, fields.cpu().numpy(), clipped.cpu().numpy()


def describe(model: Forecaster, store: Store, edge: Boundary | None, init_times: np.ndarray) -> dict:
    """The attributes that tell where a forecast came from."""
    checkpoint = model.checkpoint
    libraries = {name: version(name) for name in ("torch", "numpy", "zarr", "xarray")}
    return {
        "title": "hourcast forecast",
        "history": f"python infer_iterative.py --checkpoint {model.path} --zarr {store.path}",
        "source": f"residual UNet, {model.path}, started from {store.path}",
        "checkpoint_sha256": file_hash(model.path), "checkpoint_step": checkpoint["step"],
        "training_period": " to ".join(checkpoint["split"]["train"]), "lead": checkpoint["lead"],
        "split": checkpoint["split"], "statistics": checkpoint["statistics"], "constants": checkpoint["config"],
        "versions": {"python": sys.version.split()[0], **libraries},
        **(edge.attributes(init_times) if edge else {"boundary": "", "boundary_width": 0}),
        "store_source": str(store.dataset.attrs.get("source", "")),
    }  # fmt: skip


def match_variables(checkpoint: dict, store: Store) -> list[str]:
    """The store's names of the checkpoint's variables, in its order; ValueError if one is missing."""
    try:
        return store.choose(checkpoint["variables"], "use the kind of store it was trained on, or another checkpoint")
    except ValueError as error:
        raise ValueError(f"the checkpoint is for the variables {' '.join(checkpoint['variables'])}; {error}") from error


def count_steps(hours: float, lead: np.timedelta64) -> int:
    """`hours` in steps of one lead; ValueError if that is not a whole positive number."""
    steps = hours / hours_of(lead)
    if not (0.5 < steps < 1e6 and hours < LONGEST and abs(steps - round(steps)) < 1e-6):
        near = max(round(min(steps, 1e5)), 1) * hours_of(lead) if np.isfinite(hours) else 24
        raise ValueError(
            f"hours: got {hours:g}, expected a positive multiple of the model's step of {hours_of(lead):g} hours, at "
            f"most 100 years. Fix: --hours {near:g}"
        )
    return round(steps)


def choose_init_times(cfg: Config, store: Store, model: Forecaster, steps: int) -> tuple[np.ndarray, int]:
    """The initial times as datetime64[ns], and the number of steps (fewer for `test` on a short record)."""
    if not cfg.init_time:
        raise ValueError("init_time: got nothing, expected ISO times, latest or test. Fix: --init_time latest")
    if cfg.init_every and cfg.init_time != ["test"]:
        got = f"{cfg.init_every} with --init_time {' '.join(cfg.init_time)}"
        raise fault("init_every", got, "it with test alone", "--init_time test, or no --init_every")
    if cfg.init_time == ["latest"]:
        return store.times.max()[None], steps
    if cfg.init_time == ["test"]:
        return choose_test_times(cfg, store, model, steps)
    times = []
    for text in cfg.init_time:
        if text in ("latest", "test"):
            raise fault("init_time", " ".join(cfg.init_time), f"{text} alone", f"--init_time {text}")
        times.append(parse_time(text, "init_time"))
        if not store.has(times[-1]):
            raise ValueError(
                f"init_time: {store.path} has no {text}, expected a time of the store. "
                f"Nearest: {store.nearest_times(times[-1])}. Fix: --init_time with one of them, or latest"
            )
    return np.unique(np.array(times, "datetime64[ns]")), steps


def choose_test_times(cfg: Config, store: Store, model: Forecaster, steps: int) -> tuple[np.ndarray, int]:
    """Test hours with truth for the whole forecast; if there are none, shorter forecasts, said."""
    first, lead = Split.from_dict(model.checkpoint["split"]).test[0], model.lead
    last = store.times.max()  # the end of the record, or of a later one: training has seen nothing after `first`
    inside = find_pairs(store.times, lead, (first, last), model.history)
    if len(inside) == 0:
        raise ValueError(
            f"init_time: {cfg.zarr} has no test hour ({show(first)} to {show(last)}) with truth one step later, "
            "expected some. Fix: name initial times with --init_time"
        )
    if cfg.test_starts < 1:
        raise ValueError(f"test_starts: got {cfg.test_starts}, expected at least 1. Fix: --test_starts 12")
    length = last - max(first, store.times.min())
    if length < steps * lead:
        steps = max(int(length / lead) // 2, 1)
        print(f"the test part is only {hours_of(length):g} hours long: forecasts of {steps * hours_of(lead):g} hours")
    in_time = inside <= last - steps * lead
    starts = inside[in_time] if in_time.any() else inside[:1]
    if cfg.init_every:
        every, step = parse_duration(cfg.init_every, "init_every"), usual_step(store.times)
        if every % step != np.timedelta64(0, "ns"):
            raise ValueError(
                f"init_every: got {cfg.init_every}, expected a multiple of {show_duration(step)}, the step of "
                f"{cfg.zarr}. Fix: --init_every {show_duration(step).replace(' ', '')}"
            )
        return starts[(starts - starts[0]) % every == np.timedelta64(0, "ns")], steps
    chosen = np.unique(np.linspace(0, len(starts) - 1, min(cfg.test_starts, len(starts))).round().astype(int))
    return starts[chosen], steps


if __name__ == "__main__":
    run(Config, main, __doc__)
