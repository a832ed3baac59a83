"""Write and read checkpoints: tensors and plain types, in a file that is always complete.

A checkpoint is a zip file, as torch.save writes it. The zip format stores a CRC-32 of every part; torch does not
compare it, so `load_checkpoint` does: training would go on from a flipped bit without a word.
"""

import contextlib
import hashlib
import io
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

FORMAT = 2
KEYS = [
    "format", "model", "ema", "optimizer", "scheduler", "step", "epoch", "position", "accumulation", "config",
    "variables", "statistics", "lead", "grid", "split",
]  # fmt: skip
FIX = "Fix: use last.pt, best.pt or previous.pt of a run"


class Damaged(ValueError):
    """The file is cut off, or its bytes have changed since it was written."""


def replace_file(path: Path, write: Callable[[Path], None], keep: Path | None = None) -> None:
    """Replace `path` in one step: after a crash or a power cut it holds the old content or the new, both complete.

    `write(temporary)` writes the content to a file of the same suffix in the same folder. That file is synced to the
    disk and renamed. keep: name under which the old file remains. ValueError if the system refuses, such as on a full
    disk; then the old file is intact and the temporary file is gone.
    """
    temporary = path.with_name(f"{path.stem}.tmp{path.suffix}")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        if keep and path.exists():
            keep.unlink(missing_ok=True)
            try:
                os.link(path, keep)
            except OSError:  # a file system without hard links: until the next line only `keep` exists
                os.replace(path, keep)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(
            f"{path}: cannot be written ({error.strerror or error}), expected free space and write permission; the old "
            "file is intact. Fix: make room, then run the same command again"
        ) from error
    folder = os.open(path.parent, os.O_RDONLY)
    with contextlib.suppress(OSError):  # a file system that cannot sync folders
        os.fsync(folder)  # until then the new name may not be on the disk
    os.close(folder)


def save_checkpoint(checkpoint: dict, path: Path, keep_previous: bool = False) -> None:
    """Write a checkpoint. keep_previous: the old file remains beside it as previous.pt. ValueError if the disk is full;
    then the old file is intact."""
    missing = [k for k in KEYS if k not in checkpoint]
    assert not missing, f"checkpoint lacks {missing}"
    content = io.BytesIO()  # torch.save into a file would not say why the system refused
    torch.save(checkpoint, content)
    keep = path.with_name("previous.pt") if keep_previous else None
    replace_file(path, lambda temporary: temporary.write_bytes(content.getbuffer()), keep)


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> dict:
    """Read a checkpoint as data: nothing in the file can run code.

    ValueError if the file is missing, holds something else or has another format; Damaged, a ValueError, if it is not
    as it was written.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected a checkpoint. Fix: check the path, or train first")
    try:
        with zipfile.ZipFile(path) as file:
            part = file.testzip()
    except Exception as error:  # zipfile raises nearly anything, depending on the place of the damage
        found = f"{type(error).__name__}, {path.stat().st_size} bytes"
        raise Damaged(f"{path}: is not a complete zip file ({found}), expected a checkpoint. {FIX}") from error
    if part:
        raise Damaged(f"{path}: the checksum of {part} is wrong, expected the bytes that were written. {FIX}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of files of other programs
            checkpoint = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        found = "Python objects, which could run code"
        raise ValueError(f"{path}: holds {found}, expected tensors and plain types. {FIX}") from error
    except Exception as error:  # so does torch, if the damage is where zipfile does not look
        raise Damaged(f"{path}: cannot be read ({type(error).__name__}), expected a checkpoint. {FIX}") from error
    content = checkpoint if isinstance(checkpoint, dict) else {}
    found = content.get("format", FORMAT)
    if found != FORMAT:
        raise ValueError(f"{path}: got format {found}, expected {FORMAT}. Fix: train again, with another --run_dir")
    if missing := [k for k in KEYS if k not in content]:
        keys = ", ".join(map(str, content)) or "none"
        found = f"{type(checkpoint).__name__} with the keys {keys:.80}"
        raise ValueError(f"{path}: got a {found}, expected a checkpoint with {', '.join(missing[:4])}. {FIX}")
    return checkpoint


def newest_checkpoint(run_dir: Path, device: str | torch.device = "cpu") -> tuple[dict | None, str]:
    """The checkpoint to resume from and a note to print: (None, "") for a new run; previous.pt and the reason if
    last.pt is damaged or missing. ValueError if neither file can be used."""
    last, previous = run_dir / "last.pt", run_dir / "previous.pt"
    if not last.exists() and not previous.exists():
        return None, ""
    reason = f"{last} is missing"
    if last.exists():
        try:
            return load_checkpoint(last, device), ""
        except Damaged as error:
            if not previous.exists():
                raise
            reason = str(error).split(", expected")[0]
    return load_checkpoint(previous, device), f"{reason}; resuming from {previous}, the checkpoint before it"


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal text."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
