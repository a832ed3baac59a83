"""Checkpoints: plain tensors and plain types in one file that is either the old one or the new one, never half.

A file is written beside its place, synced and renamed, and the folder synced: after a power cut one of the two is
there. Each of its parts has a CRC-32, as zip files do (`unzip -t last.pt` looks at them too), which torch writes but
does not compare: a flipped bit would be trained on.
"""

import hashlib
import io
import os
import pickle
import shutil
import warnings
import zipfile
from pathlib import Path

import torch

from training.files import sync_folder, writing

FORMAT = 1
KEYS = [
    "format", "model", "ema", "optimizer", "scheduler", "step", "epoch", "position", "accumulation", "rng", "config",
    "variables", "statistics", "lead", "grid", "split",
]  # fmt: skip


class Damaged(ValueError):
    """A file that is cut short or has other bytes than were written."""


def save_checkpoint(checkpoint: dict, path: Path, keep_previous: bool = False) -> None:
    """Write a checkpoint to a temporary file, sync it to disk, then rename it to `path`.

    keep_previous: the file that was at `path` stays as previous.pt beside it, so that at every moment a whole file is
    at `path`. ValueError where the disk does not take it; then `path` is as it was.
    """
    missing = [k for k in KEYS if k not in checkpoint]
    assert not missing, f"checkpoint lacks {missing}"
    temporary, second = path.with_name(path.name + ".tmp"), path.with_name("previous.pt.tmp")
    with writing(path, temporary, second):
        whole = io.BytesIO()  # torch turns an error in the middle of a file into one that does not say what it was
        torch.save(checkpoint, whole)
        with open(temporary, "wb") as file:
            file.write(whole.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        if keep_previous and path.exists():
            second.unlink(missing_ok=True)
            try:
                os.link(path, second)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, second)
            os.replace(second, path.with_name("previous.pt"))
        os.replace(temporary, path)
        sync_folder(path.parent)


def newest_checkpoint(run_dir: Path, device: str | torch.device = "cpu") -> tuple[dict | None, str]:
    """The checkpoint to go on from, (None, "") where there is none; and a line to print where it is previous.pt
    because last.pt is damaged or gone. ValueError where nothing whole is left."""
    last, older = run_dir / "last.pt", run_dir / "previous.pt"
    if not last.exists() and not older.exists():
        return None, ""
    try:
        if last.exists():
            return load_checkpoint(last, device), ""
        why = f"{last} is gone"
    except Damaged as error:
        if not older.exists():
            raise
        why = str(error).split(", expected")[0]
    return load_checkpoint(older, device), f"{why}; going on from {older}, the one before"


def earlier_checkpoint(run_dir: Path, device: str | torch.device = "cpu") -> dict | None:
    """The one before the last, which trouble that has just shown did not reach; the newest where it is not whole."""
    try:
        return load_checkpoint(run_dir / "previous.pt", device)
    except ValueError:
        return newest_checkpoint(run_dir, device)[0]


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict:
    """Read a checkpoint as data (weights_only: nothing in the file can run code).

    Raises ValueError for a file that is missing, is not a checkpoint, or has another format; Damaged, one of them, for
    a file that is not as it was written.
    """
    path = Path(path)
    fix = "Fix: use best.pt, last.pt or previous.pt of a run"
    if not path.is_file():
        raise ValueError(
            f"{path}: no such checkpoint, expected a file that train_deterministic.py wrote. "
            "Fix: check the path, or train first"
        )
    refuse_damaged(path, fix)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of files that are none of ours
            checkpoint = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: cannot be read as a checkpoint ({type(error).__name__}: it holds something else than tensors and "
            f"plain types, which is not loaded because it could run code), expected a file that "
            f"train_deterministic.py wrote. {fix}"
        ) from error
    except Exception as error:  # on a file that is damaged where zipfile does not look torch raises nearly anything
        raise Damaged(
            f"{path}: cannot be read as a checkpoint ({type(error).__name__}), expected a whole file that "
            f"train_deterministic.py wrote. {fix}"
        ) from error
    missing = KEYS if not isinstance(checkpoint, dict) else [k for k in KEYS if k not in checkpoint]
    if missing:
        raise ValueError(
            f"{path}: is not a checkpoint of this project: got {contents(checkpoint)}, which lacks "
            f"{', '.join(missing[:4])}{' ...' if missing[4:] else ''}; expected a file that train_deterministic.py "
            f"wrote. {fix}"
        )
    if checkpoint["format"] != FORMAT:
        raise ValueError(
            f"{path}: got checkpoint format {checkpoint['format']}, expected {FORMAT}. "
            "Fix: use the version of the code that wrote it, or train again"
        )
    return checkpoint


def refuse_damaged(path: Path, fix: str) -> None:
    """Damaged where the file is no whole zip file, or a part of it has another CRC-32 than when it was written."""
    try:
        with zipfile.ZipFile(path) as file:
            bad = file.testzip()
        found = f"the part {bad} of it is not as it was written" if bad else ""
    except Exception as error:  # zipfile raises by where the damage is: BadZipFile, OSError, NotImplementedError ...
        found = f"cannot be read as a checkpoint: {type(error).__name__}, {path.stat().st_size} bytes"
    if found:
        raise Damaged(f"{path}: {found}, expected a whole file that train_deterministic.py wrote. {fix}")


def contents(found) -> str:
    """What a file holds, in a few words."""
    if not isinstance(found, dict):
        return f"a {type(found).__name__}"
    keys = [str(k) for k in found]
    return f"a table of {len(keys)} entries ({', '.join(keys[:4])}{' ...' if keys[4:] else ''})"


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal text."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
