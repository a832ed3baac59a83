"""The weights of a checkpoint and all that a forecast needs, as one safetensors file.

safetensors (pip install safetensors) is optional. The file holds tensors and text, nothing that can run code. Its
metadata has one entry, "hourcast": the tables below as JSON. Tensors whose name begins with "grid." describe the grid:
latitude, longitude, x, y, static fields and the mask, as far as known.
"""

import json
from pathlib import Path

import torch

from training.checkpoint import FORMAT

TABLES = ["format", "step", "epoch", "config", "variables", "statistics", "lead", "grid", "split"]
GRID = "grid."


def import_safetensors(what: str):
    """The module safetensors.torch; ValueError with the pip command if it is not installed."""
    try:
        import safetensors.torch
    except ImportError as error:
        raise ValueError(
            f"{what}: got no package safetensors, expected it. Fix: .venv/bin/python -m pip install safetensors"
        ) from error
    return safetensors.torch


def save_weights(checkpoint: dict, path: Path, fields: dict[str, torch.Tensor], projection: dict) -> None:
    """Write the averaged weights and the tables of a checkpoint to a temporary file, then rename it to `path`.

    fields (tensors by name) and projection (CF attributes) describe the grid. The optimizer state is left out."""
    save = import_safetensors(str(path)).save
    tables = {k: checkpoint[k] for k in TABLES}
    tables["grid"] = {**checkpoint["grid"], "mask": None, "projection": projection}
    mask = checkpoint["grid"]["mask"]
    fields = fields | ({} if mask is None else {"mask": mask})
    tensors = checkpoint["ema"] | {GRID + k: v for k, v in fields.items()}
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    temporary = path.with_name(path.name + ".tmp")
    # safetensors' own save_file makes a file that other users cannot read
    temporary.write_bytes(save(tensors, metadata={"hourcast": json.dumps(tables)}))
    temporary.replace(path)


def load_weights(path: str | Path, device: str | torch.device = "cpu") -> dict:
    """The part of a checkpoint that a forecast needs, from a file of save_weights; grid.fields describes the grid.

    Raises ValueError if the file is missing, is not of this project or has another format."""
    path = Path(path)
    import_safetensors(str(path))
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected weights of python -m export.model_card. Fix: check the path")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            checkpoint = json.loads((file.metadata() or {})["hourcast"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        missing = [k for k in TABLES if k not in checkpoint]
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise ValueError(
            f"{path}: cannot be read as weights of this project ({type(error).__name__}), expected a file of "
            "python -m export.model_card. Fix: export it again, or use best.pt"
        ) from error
    if missing or checkpoint["format"] != FORMAT:
        raise ValueError(
            f"{path}: got format {checkpoint.get('format')!r}, missing: {', '.join(missing) or 'nothing'}; expected "
            f"{FORMAT}. Fix: use the version of the code that wrote it, or export it again"
        )
    checkpoint["ema"] = {k: v for k, v in tensors.items() if not k.startswith(GRID)}
    fields = {k.removeprefix(GRID): v for k, v in tensors.items() if k.startswith(GRID)}
    checkpoint["grid"] |= {"mask": fields.pop("mask", None), "fields": fields}
    return checkpoint
