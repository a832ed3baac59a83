"""Checkpoints: plain tensors and plain types in one file that is either the old one or the new one, never half."""

import hashlib
import os
import warnings
from pathlib import Path

import torch

FORMAT = 1
KEYS = [
    "format", "model", "ema", "optimizer", "scheduler", "step", "epoch", "position", "accumulation", "rng", "config",
    "variables", "statistics", "lead", "grid", "split",
]  # fmt: skip


def save_checkpoint(checkpoint: dict, path: Path, keep_previous: bool = False) -> None:
    """Write a checkpoint to a temporary file, sync it to disk, then rename it to `path`.

    keep_previous: the file that was at `path` stays as previous.pt beside it.
    """
    missing = [k for k in KEYS if k not in checkpoint]
    assert not missing, f"checkpoint lacks {missing}"
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())
    if keep_previous and path.exists():
        os.replace(path, path.with_name("previous.pt"))
    os.replace(temporary, path)


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict:
    """Read a checkpoint as data (weights_only: nothing in the file can run code).

    Raises ValueError for a file that is missing, is not a checkpoint, or has another format.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"{path}: no such checkpoint, expected a file that train_deterministic.py wrote. "
            "Fix: check the path, or train first"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of files that are none of ours
            checkpoint = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # on a file of another kind torch raises nearly anything
        raise ValueError(
            f"{path}: cannot be read as a checkpoint ({type(error).__name__}), expected a file that "
            "train_deterministic.py wrote. Fix: use best.pt, last.pt or previous.pt of a run"
        ) from error
    if not isinstance(checkpoint, dict) or any(k not in checkpoint for k in KEYS):
        raise ValueError(
            f"{path}: is not a checkpoint of this project (it lacks some of {', '.join(KEYS[:4])} ...), expected a "
            "file that train_deterministic.py wrote. Fix: use best.pt, last.pt or previous.pt of a run"
        )
    if checkpoint["format"] != FORMAT:
        raise ValueError(
            f"{path}: got checkpoint format {checkpoint['format']}, expected {FORMAT}. "
            "Fix: use the version of the code that wrote it, or train again"
        )
    return checkpoint


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal text."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
