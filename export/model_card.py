"""Publish a checkpoint: its weights as safetensors, with a model card.

    python -m export.model_card                                         # the constants below
    python -m export.model_card --checkpoint runs/demo/best.pt --out runs/demo/export

Writes model.safetensors and README.md (the model card) into --out. infer_iterative.load_model reads model.safetensors
like a checkpoint and gives the same forecasts. Needs `pip install safetensors`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from data.command import refuse_file_above, run
from data.metadata import replace
from data.store import Store
from data.variables import lookup
from plotting.curves import is_number
from plotting.report import facts
from plotting.scores import read_scores, signed
from training.checkpoint import file_hash, load_checkpoint
from training.weights import import_safetensors, save_weights


@dataclass
class Config:
    checkpoint: str = "runs/hrrr/best.pt"  # file that train_deterministic.py wrote
    out: str = "runs/hrrr/export"  # folder to write
    zarr: str = ""  # store whose grid is saved with the weights; empty: the training store, if it is still there
    scores: str = ""  # scores.json for the card; empty: the one beside the checkpoint, if there is one


CARD_LEADS = ("1", "3", "6", "12", "24")  # h, columns of the table of skill


def main(cfg: Config) -> int:
    import_safetensors("export")
    refuse_file_above(cfg.out, "out")
    checkpoint = load_checkpoint(cfg.checkpoint)
    path = Path(cfg.scores) if cfg.scores else Path(cfg.checkpoint).with_name("scores.json")
    scores = read_scores(path, "scores") if cfg.scores or path.is_file() else None
    fields, projection, grid_note = read_grid(cfg, checkpoint)
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    save_weights(checkpoint, out / "model.safetensors", fields, projection)
    replace(out / "README.md", model_card(checkpoint, scores, file_hash(cfg.checkpoint)))
    print(f"scores from {path}" if scores else f"no {path}: the card has no scores")
    print(f"{grid_note}\nwrote {out / 'model.safetensors'} and {out / 'README.md'}")
    return 0


def read_grid(cfg: Config, checkpoint: dict) -> tuple[dict, dict, str]:
    """The grid of a store as tensors by name, its projection, and a line that names the store."""
    path = cfg.zarr or checkpoint["config"]["zarr"]
    if not cfg.zarr and "://" not in path and not Path(path).exists():
        return {}, {}, f"no {path}: the file has no grid (name a store with --zarr for use in earth2studio)"
    grid = Store(path).grid
    known = {k: getattr(grid, k) for k in ("latitude", "longitude", "y", "x")} | grid.static
    tensors = {k: torch.from_numpy(v.copy()) for k, v in known.items() if v is not None}
    projection = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in grid.projection.items()}
    return tensors, projection, f"grid {grid.shape[0]} x {grid.shape[1]} of {path}"


def model_card(checkpoint: dict, scores: dict | None, sha256: str) -> str:
    """The model card in Markdown, with the front matter that model hubs read."""
    config, split, grid, names = (checkpoint[k] for k in ("config", "split", "grid", "variables"))
    train, validation, test = (escape(" to ".join(split[part])) for part in ("train", "validation", "test"))
    parameters = sum(v.numel() for v in checkpoint["ema"].values())
    return f"""---
license: mit
library_name: hourcast
pipeline_tag: other
tags: [weather, forecasting, unet]
{model_index(Path(config["zarr"]).name, scores)}---

# hourcast forecast model

A residual UNet ({parameters / 1e6:.2f} million parameters). Each step forecasts {len(names)} variables \
{escape(checkpoint["lead"])} ahead from the last {config["history"] + 1} times. Further input is the height of the \
sun, the time of day and year, and the terrain if the store has it. The forecast is deterministic.

## Data

- Training: {train} UTC, {split["pairs"]["train"]} pairs of the store {escape(config["zarr"])}
- Validation: {validation}. Test: {test}. Gap between the parts: {split["gap_hours"]:g} h
- Grid: {grid["shape"][0]} x {grid["shape"][1]} cells. Forcing: {escape(", ".join(grid["forcing"])) or "none"}
- Trained for {checkpoint["epoch"]} epochs, {checkpoint["step"]} optimizer steps. Checkpoint SHA-256: `{sha256}`

| variable | unit | long name |
|---|---|---|
{chr(10).join(f"| {escape(n)} | {lookup(n).units or '-'} | {escape(lookup(n).long_name)} |" for n in names)}

## Scores

{score_section(scores)}

## Use

```python
from infer_iterative import forecast, load_model

model = load_model("model.safetensors")
ds = forecast(model, "STORE.zarr", init_time="latest", hours=6)  # an xarray Dataset
```

`STORE.zarr` needs the same variables, coordinates, static fields and grid spacing.

## Limits

The scores hold for the store and dates named here. Without boundary data errors grow inward from the edge of the
domain. Not for warnings or any decision about safety.

## Constants

```json
{json.dumps(config, indent=1)}
```
"""


def model_index(dataset: str, scores: dict | None) -> str:
    """The line of the front matter for Hugging Face's model-index: RMSE and skill at CARD_LEADS; "" without scores.

    It is JSON, which is YAML too and quotes every name.
    """
    metrics = [
        {"type": key, "name": f"{name} {key}, {float(lead):g} h", "value": entry[key]}
        for name, by_lead in (scores["scores"] if scores else {}).items()
        for lead, entry in by_lead.items()
        for key in ("rmse", "best_skill")
        if lead in CARD_LEADS and is_number(entry.get(key))
    ]
    task = {"type": "time-series-forecasting", "name": "weather forecasting"}
    result = {"task": task, "dataset": {"type": "zarr", "name": dataset, "split": "test"}, "metrics": metrics}
    return f"model-index: {json.dumps([{'name': 'hourcast', 'results': [result]}])}\n" if metrics else ""


def score_section(scores: dict | None) -> str:
    """The table of skill by lead time, and the results of the certificate."""
    if scores is None:
        return "Not scored."
    table = scores["scores"]
    leads = sorted({k for by_lead in table.values() for k in by_lead}, key=float)
    leads = [k for k in leads if k in CARD_LEADS] or leads[:5]
    outside = len(scores.get("outside_test") or [])
    return "\n".join([
        f"Skill against the best baseline, 1 - RMSE / RMSE of the baseline, over {len(scores['init_times'])} initial "
        f"times. {outside or 'None'} of them {'is' if outside == 1 else 'are'} outside the test part.", "",
        "| variable |" + "".join(f" {float(k):g} h |" for k in leads), "|---|" + "---|" * len(leads),
        *(f"| {escape(n)} |" + "".join(f" {signed(by_lead.get(k, {}).get('best_skill'))} |" for k in leads)
          for n, by_lead in table.items()), "", facts(scores, [])[0],
    ])  # fmt: skip


def escape(text: str) -> str:
    """Text of a store or a command line escaped for Markdown."""
    text = " ".join(str(text).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#~$" else "&amp;" if c == "&" else c for c in text)


if __name__ == "__main__":
    run(Config, main, __doc__)
