"""A model's forecast of real radar beside extrapolation and persistence: CSI at 20 dBZ, at full resolution.

    python -m benchmarks.radar --forecast runs/radar/forecast.zarr --json benchmarks/results/radar.json

The mean over the six analyses of benchmarks/extrapolation.py (frames 28 to 33, counted from 0, of the 40), over the
cells that truth and forecast have. The forecast store has to hold these initial times; benchmarks/fmi_radar.sh trains
on the frames before them and makes it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from benchmarks.extrapolation import EVENT, RADAR_LEADS, RADAR_STARTS, forecasts, radar_scores, read_radar
from data.command import run
from verification.inputs import open_forecast

MINUTES = np.timedelta64(5, "m")


@dataclass
class Config:
    forecast: str = "runs/radar/forecast.zarr"  # forecast store with the six initial times
    radar: str = "../shared/data/fmi_dbz_20160928.nc"  # the truth
    json: str = ""  # file for the figures


def main(cfg: Config) -> None:
    if not Path(cfg.forecast).exists():
        raise ValueError(
            f"{cfg.forecast}: no such forecast store, expected one from each of the six analyses. "
            "Fix: benchmarks/fmi_radar.sh STORE.zarr RUN_DIR makes RUN_DIR/forecast.zarr"
        )
    frames = read_radar(cfg.radar)
    with xr.open_dataset(cfg.radar) as dataset:
        times = dataset["time"].values.astype("datetime64[ns]")
    forecast = open_forecast(cfg.forecast)["REFC"]
    absent = [str(times[s])[:16] for s in RADAR_STARTS if times[s] not in forecast["init_time"].values]
    if absent:
        raise ValueError(
            f"{cfg.forecast}: got no forecast from {', '.join(absent)}, expected one from each of the six analyses. "
            "Fix: benchmarks/fmi_radar.sh makes it"
        )

    def model(past: np.ndarray, steps: int) -> np.ndarray:
        start = next(s for s in RADAR_STARTS if past[-1] is frames[s] or np.shares_memory(past[-1], frames[s]))
        return forecast.sel(init_time=times[start], lead_time=MINUTES * np.arange(1, steps + 1)).values

    rows = {"model": model, **forecasts()}
    result = {}
    print(f"CSI at {EVENT:g} dBZ (frequency bias)" + "".join(f"{5 * k:>9} min    " for k in RADAR_LEADS))
    for name, forecast_of in rows.items():
        result[name] = radar_scores(frames, forecast_of)
        pairs = zip(result[name]["csi"], result[name]["frequency_bias"], strict=True)
        print(f"  {name:<29}" + " ".join(f"{c:>9.4f} ({b:.2f})" for c, b in pairs))
    if cfg.json:
        Path(cfg.json).parent.mkdir(parents=True, exist_ok=True)
        Path(cfg.json).write_text(json.dumps(result, indent=1) + "\n")
        print(f"wrote {cfg.json}")


if __name__ == "__main__":
    run(Config, main, __doc__)
