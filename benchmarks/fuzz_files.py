"""Fuzz cases of spoilt and random bytes, given as a store and as a checkpoint."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from hypothesis import strategies as st

from benchmarks.fuzz_base import Kind, check, command, outcome
from benchmarks.fuzz_ground import GROUNDS, START, accept, ground, infer, step_of, train
from data import check_store
from training.checkpoint import load_checkpoint

SPOIL = ("none", "cut", "cut", "flip", "flip", "zero", "noise", "insert", "append", "random", "empty")


def spoilt() -> st.SearchStrategy:
    """How bytes are spoilt: what is done, where (a share of the length), and with what."""
    return st.fixed_dictionaries({
        "how": st.sampled_from(SPOIL), "place": st.floats(0, 1, exclude_max=True), "length": st.integers(1, 4000),
        "times": st.integers(1, 3), "seed": st.integers(0, 2**32),
    })  # fmt: skip


def spoil(data: bytes, case: dict) -> bytes:
    """The bytes, spoilt; "none" leaves them."""
    rng, at = np.random.default_rng(case["seed"]), int(case["place"] * len(data))
    length, how = case["length"], case["how"]
    if how == "none":
        return data
    if how == "cut":
        return data[:at]
    if how in ("empty", "random"):
        return b"" if how == "empty" else rng.bytes(length)
    if how == "insert":
        return data[:at] + rng.bytes(length) + data[at:]
    if how == "append":
        return data + rng.bytes(length)
    out = bytearray(data)
    if how == "flip":
        for place in [at, *rng.integers(len(data), size=case["times"] - 1)]:
            out[place] ^= 1 << int(rng.integers(8))
    else:
        end = min(at + length, len(data))
        out[at:end] = bytes(end - at) if how == "zero" else rng.bytes(end - at)
    return bytes(out)


# ---- checkpoints -------------------------------------------------------------------------------------


def checkpoints() -> st.SearchStrategy:
    """A checkpoint whose bytes are spoilt, given to a forecast or to a training that goes on."""
    return st.fixed_dictionaries(
        {"ground": st.sampled_from(list(GROUNDS)), "command": st.sampled_from(("infer", "infer", "resume")),
         "spoil": spoilt()}
    )  # fmt: skip


def play_checkpoint(case: dict, folder: Path) -> str:
    """Spoilt bytes are refused, unless the content is what it was: then it is used like the sound one."""
    place, bad, step = ground(case["ground"]), folder / "last.pt", step_of(case["ground"])
    sound = (place / "last.pt").read_bytes()
    bad.write_bytes(spoil(sound, case["spoil"]))
    same = bad.read_bytes() == sound
    if case["command"] == "infer":
        code, said = infer("--checkpoint", bad, "--zarr", place / "store.zarr", "--init_time", START + np.timedelta64(
            round(20 * step * 60), "m"), "--hours", step, "--out", folder / "f.zarr")  # fmt: skip
        check((folder / "f.zarr").exists() == (code == 0), "a refused forecast was written")
    else:
        names, _, lead, _ = GROUNDS[case["ground"]]
        code, said = train("--zarr", place / "store.zarr", "--run_dir", folder, "--lead", lead, "--variables", names)
        check(code or "this run is finished" in said, "a finished run went on")
    check(not list(folder.glob("*.partial")), "something half written was left")
    if code == 0 and not same:
        check(equal(load_checkpoint(bad), load_checkpoint(place / "last.pt")), "spoilt content was accepted")
    if same:
        return outcome("accepted", code, said)
    if case["spoil"]["how"] in ("cut", "random", "empty"):
        return outcome("refused", code, said)
    return outcome("either", code, said)


def equal(a, b) -> bool:
    """Whether two checkpoints hold the same."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and (a == b or a != a)


# ---- stores ------------------------------------------------------------------------------------------


def store_bytes() -> st.SearchStrategy:
    """A file of a sound store that is spoilt, removed or replaced by a folder, and who reads the store."""
    return st.fixed_dictionaries({
        "ground": st.sampled_from(list(GROUNDS)), "file": st.floats(0, 1, exclude_max=True),
        "metadata": st.booleans(), "what": st.sampled_from(("spoil", "spoil", "spoil", "remove", "folder")),
        "spoil": spoilt(), "command": st.sampled_from(("train", "train", "check", "infer")),
    })  # fmt: skip


def play_store_bytes(case: dict, folder: Path) -> str:
    """No traceback, whatever the bytes; a chunk that is gone or cut short is refused where training would read it."""
    place, step = ground(case["ground"]), step_of(case["ground"])
    names, _, lead, _ = GROUNDS[case["ground"]]
    path = folder / "s.zarr"
    shutil.copytree(place / "store.zarr", path)
    files = sorted(p for p in path.rglob("*") if p.is_file() and (p.suffix == ".json") == case["metadata"])
    file = files[int(case["file"] * len(files))]
    before = file.read_bytes()
    if case["what"] == "spoil":
        file.write_bytes(spoil(before, case["spoil"]))
    else:
        file.unlink()
        if case["what"] == "folder":
            file.mkdir()
    if case["command"] == "check":
        code, said = command(check_store, path, "--json", folder / "c.json", allowed=(0, 1, 2))
        check(code == 2 or json.loads((folder / "c.json").read_text())["sound"] == (code == 0), "exit code and file")
    elif case["command"] == "infer":
        code, said = infer("--checkpoint", place / "best.pt", "--zarr", path, "--init_time", START + np.timedelta64(
            round(20 * step * 60), "m"), "--hours", step, "--out", folder / "f.zarr")  # fmt: skip
        check((folder / "f.zarr").exists() == (code == 0), "a refused forecast was written")
    else:
        code, said = accept("--zarr", path, "--run_dir", folder / "run", "--lead", lead, "--variables", names)
    expected = "either"
    parts = file.relative_to(path).parts
    if not case["metadata"] and parts[0] in names and case["command"] != "infer":
        hour = int(parts[2])
        read = hour <= 27 or 30 <= hour <= 33 or case["command"] == "check"
        cut = case["what"] == "spoil" and case["spoil"]["how"] in ("cut", "empty") and file.read_bytes() != before
        expected = "refused" if case["what"] != "spoil" or (cut and read) else "either"
    if code == 0 and expected == "either" and case["command"] == "infer":
        values = [xr.open_zarr(folder / "f.zarr", chunks=None)[n].values for n in names]
        check(all(np.isfinite(v).all() for v in values), "a forecast that is not finite")
    return outcome(expected, code, said)


CHECKPOINT = Kind(checkpoints(), play_checkpoint, 6)
STORE_BYTES = Kind(store_bytes(), play_store_bytes, 3)
