"""What the certificate says of weather that is right in every statistic and wrong in every place: a yardstick for it.

    python -m data.synthetic_storms --out runs/demo/third_seed.zarr --hours 3288 --seed 2 --start 2024-04-10T00
    python -m benchmarks.other_weather --forecast runs/demo/other_seed/forecast.zarr \\
        --other runs/demo/third_seed.zarr --zarr runs/demo/other_seed.zarr --json benchmarks/results/other_weather.json

Takes the times of a forecast store and puts the fields of another store at the same valid times in the place of the
forecast, then scores that against the truth. A line that such a forecast fails and that does not
ask for skill is one that these start times are too few for: chance decides.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import xarray as xr

import verify_forecast
from data.command import run
from data.forecast_store import ForecastWriter
from data.store import Store
from verification.inputs import open_forecast

ASKS_FOR_SKILL = ("skill", "RMSE", "FSS", "timing")  # in a line's name


@dataclass
class Config:
    forecast: str = "runs/demo/other_seed/forecast.zarr"  # forecast store whose times are taken
    other: str = "runs/demo/third_seed.zarr"  # store with the other weather
    zarr: str = "runs/demo/other_seed.zarr"  # store with the truth
    json: str = ""  # file for the certificate


def main(cfg: Config) -> None:
    given, other = open_forecast(cfg.forecast), Store(cfg.other)
    inits, leads = (given[k].values for k in ("init_time", "lead_time"))
    if missing := [t for t in np.unique(inits[:, None] + leads) if not other.has(t)]:
        raise ValueError(
            f"{cfg.other}: got no {str(missing[0])[:16]}, expected every valid time of {cfg.forecast} "
            f"({len(missing)} are missing). Fix: a longer store"
        )
    names = other.choose(list(given.attrs["variables"]))
    with TemporaryDirectory() as work:
        write(f"{work}/forecast.zarr", given, other, names)
        verify_forecast.main(
            verify_forecast.Config(f"{work}/forecast.zarr", cfg.zarr, f"{work}/scores.json", figures=False)
        )
        lines = json.loads(Path(f"{work}/scores.json").read_text())["certificate"]
    judged = [x for x in lines if not any(word in x["name"] for word in ASKS_FOR_SKILL)]
    failed = [x for x in judged if x["pass"] is False]
    print(f"\n{len(judged)} lines that do not ask for skill, {len(failed)} of them failed by chance:")
    for x in failed:
        print(f"  {x['name']}: {x['value']:.4g} (bar {x['bar']})")
    if cfg.json:
        told = {"forecast": cfg.forecast, "other": cfg.other, "truth": cfg.zarr, "starts": len(inits)}
        Path(cfg.json).write_text(json.dumps({**told, "judged": len(judged), "failed": failed}, indent=1) + "\n")


def write(path: str, given: xr.Dataset, other: Store, names: list[str]) -> None:
    """A forecast store with the times of `given` and the fields of `other`."""
    inits, leads = (given[k].values for k in ("init_time", "lead_time"))
    told = {k: given.attrs[k] for k in ("split", "statistics", "lead")}
    with ForecastWriter(path, names, other.grid, inits, leads, told) as out:
        for i, init in enumerate(inits):
            for k, lead in enumerate(leads):
                out.write(i, k, other.load(init + lead, names), np.zeros(len(names)))


if __name__ == "__main__":
    run(Config, main, __doc__)
