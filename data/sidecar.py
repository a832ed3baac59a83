"""The sidecar of a local store: the hours that check_store found faulty, so that training leaves them out.

    STORE.zarr.check.json    {"fingerprint": "...", "bad_hours": ["2018-07-22T05:00", ...]}

The fingerprint covers the name, size and time of change of every file of the store: a store that has been
written to since the check has another one, and the list no longer counts.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from data.times import show


def sidecar_path(store: str | Path) -> Path | None:
    """Where the sidecar of a local store is; None for a remote one."""
    return None if "://" in str(store) else Path(str(store).rstrip("/") + ".check.json")


def fingerprint(store: str | Path) -> str:
    """A hash over the files of a local store: their names, sizes and times of change."""
    rows = []
    for folder, _, files in os.walk(store):
        for name in files:
            status = os.stat(os.path.join(folder, name))
            rows.append(f"{os.path.relpath(folder, store)}/{name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def write_sidecar(store: str | Path, bad_hours: set[np.datetime64]) -> Path | None:
    """List faulty hours beside a local store; an older list goes where there are none. Returns its path, or None
    where nothing is listed."""
    path = sidecar_path(store)
    if path is None:
        return None
    if not bad_hours:
        path.unlink(missing_ok=True)
        return None
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(
        json.dumps({"fingerprint": fingerprint(store), "bad_hours": [show(t) for t in sorted(bad_hours)]}, indent=1)
    )
    os.replace(temporary, path)
    return path


def read_sidecar(store: str | Path) -> tuple[np.ndarray, str]:
    """The faulty hours as datetime64[ns], and a line to print ("" where there is no sidecar)."""
    path = sidecar_path(store)
    none = np.array([], "datetime64[ns]")
    if path is None or not path.exists():
        return none, ""
    again = f"`.venv/bin/python -m data.check_store {store}` again"
    try:
        content = json.loads(path.read_text())
        hours = np.array([np.datetime64(t, "ns") for t in content["bad_hours"]], "datetime64[ns]")
        current = content["fingerprint"] == fingerprint(store)
    except (ValueError, KeyError, TypeError):
        return none, f"{path} cannot be read and is ignored; run {again}"
    if not current:
        return none, f"{path} is older than the store and is ignored; run {again}"
    return hours, f"{len(hours)} faulty hours listed in {path} are left out"
