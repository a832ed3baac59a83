"""How much of a perfect boundary's gain a coarse host with errors brings: forecasts without host, with it, with truth.

    python -m benchmarks.host --checkpoint runs/demo/best.pt --zarr runs/demo/other_seed.zarr
    python -m benchmarks.host ... --climate runs/demo/store.zarr --json benchmarks/results/host.json

The host is made of the truth in --zarr (data/synthetic_host.py). Scores leave out the strip along the edge. For each
variable and lead:

    share   (RMSE without host - RMSE with it) / (RMSE without host - RMSE with the truth at the edge)
    skill   1 - RMSE with host / RMSE of the climatology by hour of day, of the training hours in --climate
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.boundary import strip_width
from data.command import fault, run
from data.dataset import Split
from data.store import Store
from data.synthetic_host import coarse_times, write_host
from data.variables import lookup
from infer_iterative import Config as Forecast
from infer_iterative import choose_init_times, count_steps, forecast, load_model, match_variables
from verification.climate import Climatology, estimate

LEADS = (6, 12, 24)  # hours that are scored
HOUR = np.timedelta64(1, "h").astype("timedelta64[ns]")


@dataclass
class Config:
    checkpoint: str = "runs/demo/best.pt"  # model
    zarr: str = "runs/demo/other_seed.zarr"  # store with initial hours and truth
    climate: str = "runs/demo/store.zarr"  # store with the training hours, for the climatology
    init_every: str = "29h"  # distance of initial times: the hours of the day in turn
    batch_size: int = 5  # initial times that are computed together
    json: str = ""  # file for the figures; empty: none


def main(cfg: Config) -> None:
    model, store = load_model(cfg.checkpoint), Store(cfg.zarr)
    names, steps = match_variables(model.checkpoint, store), count_steps(LEADS[-1], model.lead)
    asked = Forecast(cfg.checkpoint, cfg.zarr, ["test"], init_every=cfg.init_every)
    times, _ = choose_init_times(asked, store, model, steps)
    coarse = coarse_times(store)
    times = times[(times >= coarse.min()) & (times + LEADS[-1] * HOUR <= coarse.max())]
    if len(times) == 0:
        raise fault(cfg.zarr, "no test hour with a day of truth after it", "some", "name a longer store")
    climate = climatology(Store(cfg.climate), Split.from_dict(model.checkpoint["split"]), model.names)

    inside = (..., *(slice(strip_width(store.grid.shape), -strip_width(store.grid.shape)),) * 2)
    floors = np.array([lookup(n).scored_floor for n in names], np.float32)[:, None, None]
    truth = {h: np.stack([store.load(t + h * HOUR, names) for t in times]) for h in LEADS}

    def rmse(fields: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Of (times, variables, y, x) by lead: (variables,) by lead."""
        errors = {h: (np.maximum(x, floors) - np.maximum(truth[h], floors))[inside] for h, x in fields.items()}
        return {h: np.sqrt(np.nanmean(np.square(e), axis=(0, 2, 3))) for h, e in errors.items()}

    pairs = list(zip(names, model.names, strict=True))  # the climatology has the names of the training store
    found = {"climatology": rmse({h: np.stack([[climate.at(m, t + h * HOUR) for _, m in pairs] for t in times])
                                  for h in LEADS})}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        host = write_host(Path(folder) / "host.zarr", store, names, coarse)
        for kind, boundary in (("none", ""), ("host", str(host)), ("perfect", cfg.zarr)):
            print(f"forecasts from {len(times)} initial times, boundary data: {kind}", flush=True)
            made = forecast(model, store, list(times), float(LEADS[-1]), boundary, cfg.batch_size)
            at = {h: made.sel(lead_time=h * HOUR) for h in LEADS}
            found[kind] = rmse({h: np.stack([at[h][n].values for n in names], axis=1) for h in LEADS})
    report(cfg, names, found, len(times))


def climatology(store: Store, split: Split, names: list[str]) -> Climatology:
    """Of the training hours in a store; ValueError if it has none."""
    stored, (first, last) = store.choose(names), split.train
    times = np.sort(store.times[(store.times >= first) & (store.times <= last)])
    if len(times) == 0:
        raise fault(store.path, "none of the model's training hours", "some", "--climate with the training store")
    return estimate(times, lambda t: dict(zip(names, store.load(t, stored), strict=True)))


def report(cfg: Config, names: list[str], rmse: dict, cases: int) -> None:
    """Print the table and write the JSON."""
    share = {h: (rmse["none"][h] - rmse["host"][h]) / (rmse["none"][h] - rmse["perfect"][h]) for h in LEADS}
    total = {h: float(np.mean((rmse["none"][h] - rmse["host"][h]) / rmse["none"][h])
                      / np.mean((rmse["none"][h] - rmse["perfect"][h]) / rmse["none"][h])) for h in LEADS}  # fmt: skip
    skill = {h: 1 - rmse["host"][h] / rmse["climatology"][h] for h in LEADS}
    print(f"{cases} initial times; share of the perfect boundary's gain, and skill over climatology, with the host")
    print(
        f"{'':10s}"
        + "".join(f"{f'share {h} h':>12s}" for h in LEADS)
        + "".join(f"{f'skill {h} h':>12s}" for h in LEADS)
    )
    for c, name in enumerate(names):
        print(f"{name:10s}" + "".join(f"{table[h][c]:12.2f}" for table in (share, skill) for h in LEADS))
    print(f"{'together':10s}" + "".join(f"{total[h]:12.2f}" for h in LEADS))
    print(f"skill over climatology above 0 at {LEADS[-1]} h: {int((skill[LEADS[-1]] > 0).sum())} of {len(names)}")
    if cfg.json:
        tables = {"share": share, "skill": skill, **{f"rmse_{k}": v for k, v in rmse.items()}}
        named = {k: {h: dict(zip(names, v.tolist(), strict=True)) for h, v in t.items()} for k, t in tables.items()}
        about = {"checkpoint": cfg.checkpoint, "zarr": cfg.zarr, "init_times": cases, "share_together": total}
        Path(cfg.json).write_text(json.dumps(about | named, indent=1) + "\n")


if __name__ == "__main__":
    run(Config, main, __doc__)
