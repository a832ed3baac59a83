"""Write the weights of a checkpoint as safetensors, with a model card, to be published or used elsewhere.

    python export_model.py                                              # the constants below
    python export_model.py --checkpoint runs/demo/best.pt --out runs/demo/export

Writes model.safetensors (averaged weights and tables; nothing in it can run code) and README.md (the model card) into
the folder --out. The file forecasts like the checkpoint: infer_iterative.load_model takes either. Needs
`pip install safetensors`.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from data.command import refuse_file_above, run
from data.metadata import replace
from data.store import Store
from data.variables import lookup
from training.checkpoint import file_hash, load_checkpoint
from training.weights import library, save_weights


@dataclass
class Config:
    checkpoint: str = "runs/hrrr/best.pt"  # what train_deterministic.py wrote
    out: str = "runs/hrrr/export"  # folder to write
    zarr: str = ""  # store whose grid goes with the weights; empty: the training store, where it is still there
    scores: str = ""  # scores.json for the card; empty: the one beside the checkpoint, where there is one


CARD_LEADS = ("1", "3", "6", "12", "24")  # h, in the card's table of skill


def main(cfg: Config) -> int:
    library("export_model")
    refuse_file_above(cfg.out, "out")
    checkpoint = load_checkpoint(cfg.checkpoint)
    scores, told = read_scores(cfg)
    fields, projection, note = read_grid_of(cfg, checkpoint)
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    save_weights(checkpoint, out / "model.safetensors", fields, projection)
    replace(out / "README.md", model_card(checkpoint, scores, file_hash(cfg.checkpoint)))
    size = (out / "model.safetensors").stat().st_size
    print(f"{told}\n{note}\nwrote {out / 'model.safetensors'} ({size / 1e6:.1f} MB) and {out / 'README.md'}")
    return 0


def read_scores(cfg: Config) -> tuple[dict | None, str]:
    """The contents of scores.json, None without one, and a line that says which."""
    path = Path(cfg.scores) if cfg.scores else Path(cfg.checkpoint).with_name("scores.json")
    if not path.is_file():
        if cfg.scores:
            raise ValueError(f"scores: got {path}, no such file, expected a scores.json. Fix: run verify_forecast.py")
        return None, f"no {path}: the card has no scores"
    try:
        found = json.loads(path.read_text())
        assert isinstance(found["scores"], dict) and isinstance(found["certificate"], list)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(
            f"scores: {path} is not a scores.json ({type(error).__name__}), expected what verify_forecast.py writes. "
            "Fix: score the forecast again"
        ) from error
    return found, f"scores from {path}"


def read_grid_of(cfg: Config, checkpoint: dict) -> tuple[dict, dict, str]:
    """The grid of a store as tensors by name, its projection, and a line that says which store."""
    path = cfg.zarr or checkpoint["config"]["zarr"]
    if not cfg.zarr and "://" not in path and not Path(path).exists():
        return {}, {}, f"no {path}: the file has no grid (name a store with --zarr for use in earth2studio)"
    grid = Store(path).grid
    known = {k: getattr(grid, k) for k in ("latitude", "longitude", "y", "x")} | grid.static
    tensors = {k: torch.from_numpy(v.copy()) for k, v in known.items() if v is not None}
    projection = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in grid.projection.items()}
    return tensors, projection, f"grid {grid.shape[0]} x {grid.shape[1]} of {path}"


def model_card(checkpoint: dict, scores: dict | None, sha256: str) -> str:
    """The model card, Markdown with the front matter that model hubs read."""
    config, split, grid = checkpoint["config"], checkpoint["split"], checkpoint["grid"]
    names, lead = checkpoint["variables"], checkpoint["lead"]
    parameters = sum(v.numel() for v in checkpoint["ema"].values())
    spacing = " x ".join(f"{s / 1000:g}" for s in grid["spacing"])
    spacing = f"{spacing} km" if grid["spacing"] != [1.0, 1.0] else "not known"
    lines = [
        "---", "library_name: hourcast", "pipeline_tag: other", "tags: [weather, forecasting, unet]", "---", "",
        "# hourcast forecast model", "",
        f"A residual UNet ({parameters / 1e6:.2f} million parameters) that forecasts {len(names)} fields {plain(lead)} "
        f"ahead and is rolled forward step by step. It sees the last {config['history'] + 1} times, the sun's height, "
        "the clock and what the grid offers of terrain. Deterministic; no ensemble.", "",
        "## Data", "",
        f"- training: {plain(' to '.join(split['train']))} UTC, {split['pairs']['train']} pairs, of the store "
        f"{plain(config['zarr'])}",
        f"- validation: {plain(' to '.join(split['validation']))}; test: {plain(' to '.join(split['test']))}; "
        f"{split['gap_hours']:g} h left out between the parts",
        f"- grid: {grid['shape'][0]} x {grid['shape'][1]} cells, spacing {spacing}; forcing: "
        f"{plain(', '.join(grid['forcing'])) or 'none'}",
        f"- trained for {checkpoint['epoch']} epochs, {checkpoint['step']} optimizer steps; checkpoint SHA-256 "
        f"`{sha256}`", "",
        "| variable | unit | is |", "|---|---|---|",
        *(f"| {plain(n)} | {lookup(n).units or '-'} | {plain(lookup(n).long_name)} |" for n in names), "",
        *score_lines(scores), "## Use", "",
        "```python", "from infer_iterative import forecast, load_model", "",
        'model = load_model("model.safetensors")',
        'ds = forecast(model, "STORE.zarr", init_time="latest", hours=6)  # an xarray Dataset', "```", "",
        "`STORE.zarr` holds the same variables on a grid of the same spacing, with the same coordinates and static "
        "fields, and the last hours before the initial time.", "",
        "## Limits", "",
        "The scores above, where there are any, are of the store and dates named here and of nothing else. Without "
        "boundary data, what enters the domain from outside is not known to the model, and errors grow inward with "
        "lead time. Not for warnings or any decision about safety.", "",
        "## Constants", "", "```json", json.dumps(config, indent=1), "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def score_lines(scores: dict | None) -> list[str]:
    """Skill against persistence by lead time, and what the certificate says."""
    if scores is None:
        return ["## Scores", "", "Not scored.", ""]
    table = scores["scores"]
    leads = sorted({k for by_lead in table.values() for k in by_lead}, key=float)
    leads = [k for k in leads if k in CARD_LEADS] or leads[:5]
    lines = scores["certificate"]
    passed = sum(bool(line["pass"]) for line in lines)
    missing = sum(line["pass"] is None for line in lines)
    outside = len(scores.get("outside_test") or [])
    return [
        "## Scores", "",
        f"Skill, 1 - RMSE / RMSE of persistence, over {len(scores['init_times'])} initial times"
        + (f", {outside} of them outside the test part" if outside else ", all in the test part") + ":", "",
        "| variable |" + "".join(f" {float(k):g} h |" for k in leads), "|---|" + "---|" * len(leads),
        *(f"| {plain(n)} |" + "".join(f" {signed(e.get(k, {}).get('skill'))} |" for k in leads)
          for n, e in table.items()), "",
        f"Certificate: {passed} of {len(lines)} lines passed, {missing} not available.", "",
    ]  # fmt: skip


def signed(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:+.2f}"


def plain(text: str) -> str:
    """Text of a store or a command line as Markdown shows it, whatever signs are in it."""
    text = " ".join(str(text).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#~$" else "&amp;" if c == "&" else c for c in text)


if __name__ == "__main__":
    run(Config, main, __doc__)
