"""How well extrapolation forecasts reflectivity: our own optical flow beside pysteps' and persistence.

    python -m benchmarks.extrapolation --json benchmarks/results/extrapolation.json

1. Real radar, 5-minute frames, 28 September 2016, Finland: CSI at 20 dBZ at +5, +15 and +30 min, the mean over the six
   analyses RADAR_STARTS (frames 28 to 33, counted from 0), over the cells that truth and forecast have.
2. Synthetic storms, hourly: FSS at 20 dBZ in 3 x 3 cells at 1, 2 and 3 h, sums over start times every 3 h, for our
   flow also with the other rules for air from beyond the domain: the analysis is kept there, or there is no echo.

pysteps is included where it and opencv are installed: pip install pysteps opencv-python-headless.
"""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from data import synthetic_storms
from data.command import run
from data.store import Store
from verification import extrapolation, scores

RADAR_STARTS = range(28, 34)  # index of the analysis among the 40 frames
RADAR_LEADS = (1, 3, 6)  # frames of 5 min
RADAR_HISTORIES = (3, 6)  # frames, the analysis included, that show the motion
STORE_LEADS = (1, 2, 3)  # hours
EVENT = 20.0  # dBZ
FSS_WINDOW = 3  # cells
BORDER = 64  # cells around the domain, more than any trajectory goes, that stand for "beyond" in the other rules

Forecast = Callable[[np.ndarray, int], np.ndarray]  # (frames (n, y, x), steps) -> (steps, y, x)


@dataclass
class Config:
    radar: str = "../shared/data/fmi_dbz_20160928.nc"  # variable dbz (time, y, x), NaN where there is no coverage
    store: str = ""  # hourly training store with REFC; empty: 288 hours of synthetic storms, seed 1, 64 x 64 cells
    history: int = 3  # hours of the store that show the motion, the analysis included
    every: int = 3  # hours between start times
    json: str = ""  # file for the figures


def main(cfg: Config) -> None:
    result = {"pysteps": extrapolation.pysteps_installed(), "radar": {}, "store": {}}
    frames = read_radar(cfg.radar)
    print(f"real radar, CSI at {EVENT:g} dBZ (frequency bias)   " + "".join(f"{5 * k:>9} min    " for k in RADAR_LEADS))
    rows = {"persistence": (forecasts()["persistence"], 1)}
    rows |= {f"{m}, {n} frames": (forecasts()[m], n) for m in forecasts() if m not in rows for n in RADAR_HISTORIES}
    for name, (forecast, history) in rows.items():
        started = time.perf_counter()
        row = result["radar"][name] = radar_scores(frames, forecast, history)
        seconds = (time.perf_counter() - started) / len(RADAR_STARTS)
        cells = (f"{c:>9.4f} ({b:.2f})" for c, b in zip(row["csi"], row["frequency_bias"], strict=True))
        print(f"  {name:<39}" + " ".join(cells) + f"   {seconds:.1f} s a start")
    with tempfile.TemporaryDirectory() as folder:
        path = cfg.store or f"{folder}/storms.zarr"
        if not cfg.store:
            synthetic_storms.main(synthetic_storms.Config(path, hours=288, seed=1, start="2024-06-20T00"))
        hours = read_store(path)
    print(
        f"hourly store, FSS at {EVENT:g} dBZ, {FSS_WINDOW} x {FSS_WINDOW} cells"
        + "".join(f"{k:>8} h" for k in STORE_LEADS)
    )
    for name, forecast in (forecasts() | other_rules()).items():
        row = result["store"][name] = store_scores(hours, forecast, cfg.history, cfg.every)
        print(f"  {name:<37}" + "".join(f"{v:>10.4f}" for v in row))
    if cfg.json:
        Path(cfg.json).parent.mkdir(parents=True, exist_ok=True)
        Path(cfg.json).write_text(json.dumps(result, indent=1) + "\n")
        print(f"wrote {cfg.json}")


def forecasts() -> dict[str, Forecast]:
    """By name: persistence, our extrapolation, and pysteps' where it is installed."""
    methods = ["own", "pysteps"] if extrapolation.pysteps_installed() else ["own"]
    by_name = {m: lambda frames, steps, m=m: extrapolation.extrapolate(frames, steps, m) for m in methods}
    return {"persistence": lambda frames, steps: np.repeat(frames[-1:], steps, axis=0)} | by_name


def other_rules() -> dict[str, Forecast]:
    """Our extrapolation with another value where a trajectory begins beyond the domain."""

    def bordered(frames: np.ndarray, steps: int, beyond: float) -> np.ndarray:
        flow = np.pad(extrapolation.motion(frames), ((0, 0), (BORDER, BORDER), (BORDER, BORDER)), "edge")
        analysis = np.pad(frames[-1], BORDER, constant_values=beyond)
        moved = extrapolation.transport(analysis, flow, steps)[:, BORDER:-BORDER, BORDER:-BORDER]
        return np.where(np.isnan(moved), frames[-1], moved)

    return {
        "own, beyond: the analysis is kept": lambda frames, steps: bordered(frames, steps, np.nan),
        "own, beyond: no echo": lambda frames, steps: bordered(frames, steps, float(np.nanmin(frames))),
    }


def read_radar(path: str | Path) -> np.ndarray:
    """(time, y, x) float32 in dBZ."""
    with xr.open_dataset(path) as dataset:
        return dataset["dbz"].transpose("time", "y", "x").values.astype(np.float32)


def read_store(path: str | Path) -> np.ndarray:
    """Hourly REFC (time, y, x) float32 in dBZ."""
    store = Store(path)
    return np.stack([store.load(t, ["REFC"])[0] for t in store.times])


def radar_scores(frames: np.ndarray, forecast: Forecast, history: int = RADAR_HISTORIES[0]) -> dict[str, list[float]]:
    """CSI and frequency bias by RADAR_LEADS, each the mean over RADAR_STARTS."""
    values = np.zeros((len(RADAR_STARTS), 2, len(RADAR_LEADS)))
    for row, start in zip(values, RADAR_STARTS, strict=True):
        moved = forecast(frames[start + 1 - history : start + 1], max(RADAR_LEADS))
        for column, lead in enumerate(RADAR_LEADS):
            truth, field = frames[start + lead], moved[lead - 1]
            table = scores.contingency(field, truth, EVENT, np.isfinite(truth) & np.isfinite(field))
            row[:, column] = scores.csi(table), scores.frequency_bias(table)
    csi, bias = values.mean(0).tolist()
    return {"csi": csi, "frequency_bias": bias}


def store_scores(hours: np.ndarray, forecast: Forecast, history: int, every: int) -> list[float]:
    """FSS by STORE_LEADS of hourly fields (time, y, x), sums over the start times before the ratio."""
    sums = [{"difference": 0.0, "reference": 0.0} for _ in STORE_LEADS]
    for start in range(every * -(-(history - 1) // every), len(hours) - max(STORE_LEADS), every):
        moved = forecast(hours[start + 1 - history : start + 1], max(STORE_LEADS))
        for total, lead in zip(sums, STORE_LEADS, strict=True):
            case = scores.fss_sums(moved[lead - 1], hours[start + lead], EVENT, FSS_WINDOW)
            total.update({k: total[k] + case[k] for k in total})
    return [scores.fss(total) for total in sums]


if __name__ == "__main__":
    run(Config, main, __doc__)
