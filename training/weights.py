"""Weights to publish: the averaged weights of a checkpoint and all that a forecast needs, as one safetensors file.

safetensors (pip install safetensors) is optional. The file holds tensors and text only; nothing in it can run code.
The metadata has one entry, "hourcast", JSON with the tables below. Among the tensors stand also a mask and what is
known of the grid (latitude, longitude, x, y, static fields), under names that begin with "grid.", and the gains of
models/sharpen.py under "sharpening.".
"""

import json
from pathlib import Path

import torch

from training.checkpoint import FORMAT

TABLES = ["format", "step", "epoch", "config", "variables", "statistics", "lead", "grid", "split"]
GRID, SHARPENING = "grid.", "sharpening."


def library(what: str):
    """The module safetensors.torch; ValueError with the pip command where it is not installed."""
    try:
        import safetensors.torch
    except ImportError as error:
        raise ValueError(
            f"{what}: got no safetensors library, expected it. Fix: .venv/bin/python -m pip install safetensors"
        ) from error
    return safetensors.torch


def save_weights(checkpoint: dict, path: Path, fields: dict[str, torch.Tensor], projection: dict) -> None:
    """Write the averaged weights and the tables of a checkpoint to `path`: to a temporary file, then renamed.

    `fields` (by name) and `projection` (CF attributes) describe the grid, as far as known. What resuming needs
    (optimizer, schedule, random numbers) is left out."""
    save = library(str(path)).save
    tables = {k: checkpoint[k] for k in TABLES} | {"held": checkpoint.get("held", [])}
    tables["grid"] = {**checkpoint["grid"], "mask": None, "projection": projection}
    tensors = {k: v.detach().cpu().contiguous() for k, v in checkpoint["ema"].items()}
    fields = fields | ({} if checkpoint["grid"]["mask"] is None else {"mask": checkpoint["grid"]["mask"]})
    tensors |= {SHARPENING + k: v.cpu().contiguous() for k, v in checkpoint.get("sharpening", {}).items()}
    tensors |= {GRID + k: v.cpu().contiguous() for k, v in fields.items()}
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(save(tensors, metadata={"hourcast": json.dumps(tables)}))  # save_file: readable by us alone
    temporary.replace(path)


def load_weights(path: str | Path, device: str | torch.device = "cpu") -> dict:
    """What a forecast needs of a checkpoint, from a file of save_weights: `ema` and the tables, as in a checkpoint, and
    under grid.fields what is known of the grid.

    Raises ValueError for a file that is missing, is none of ours, or has another format."""
    path = Path(path)
    library(str(path))
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected weights that export_model.py wrote. Fix: check the path")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            checkpoint = json.loads((file.metadata() or {})["hourcast"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        missing = [k for k in TABLES if k not in checkpoint]
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise ValueError(
            f"{path}: cannot be read as weights of this project ({type(error).__name__}), expected a file that "
            "export_model.py wrote. Fix: export it again, or use best.pt"
        ) from error
    if missing or checkpoint["format"] != FORMAT:
        raise ValueError(
            f"{path}: got format {checkpoint.get('format')!r} without {', '.join(missing) or 'a gap'}, expected "
            f"{FORMAT}. Fix: use the version of the code that wrote it, or export it again"
        )
    fields = {k.removeprefix(GRID): v for k, v in tensors.items() if k.startswith(GRID)}
    checkpoint["sharpening"] = {k.removeprefix(SHARPENING): v for k, v in tensors.items() if k.startswith(SHARPENING)}
    checkpoint["ema"] = {k: v for k, v in tensors.items() if not k.startswith((GRID, SHARPENING))}
    checkpoint["grid"] |= {"mask": fields.pop("mask", None), "fields": fields}
    return checkpoint
