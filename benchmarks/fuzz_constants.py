"""Fuzz cases of constants: the values at, beside and far beyond the bounds of every one, as a user types them."""

import math
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

import verify_forecast as verification
from benchmarks.fuzz_base import Kind, check, command, outcome
from benchmarks.fuzz_ground import START, accept, ground, infer, step_of

NO_NUMBER = [(text, "refused") for text in ("ten", "", " ", "nan nan", "1,5", "0b1", "\u0661x", "--", "None")]


def whole(low: int) -> list:
    """Values of an integer constant whose lowest one is `low`, and what must come of them."""
    sound = [(low, "accepted"), (low + 1, "accepted")]
    far = [(2**31, "either"), (2**63, "refused"), (2**64, "refused"), (10**30, "refused")]
    return [*sound, *far, *NO_NUMBER, (low - 1, "refused"), (-(2**63), "refused"), (-(10**30), "refused"),
            ("1.5", "refused"), ("nan", "refused"), ("inf", "refused"), ("1e3", "refused")]  # fmt: skip


def number(low: float, positive: bool = False) -> list:
    """Values of a constant that is at least `low`, or above 0."""
    beside = [(5e-324, "accepted"), (0.0, "refused"), (-0.0, "refused")] if positive else [(low, "accepted")]
    return [*beside, (np.nextafter(low, -math.inf), "refused"), (1.0, "accepted"), (1e-9, "accepted"), (1e9, "either"),
            (1e308, "refused"), ("nan", "refused"), ("inf", "refused"), ("-inf", "refused"), (-1e308, "refused"),
            ("1e999", "refused"), *NO_NUMBER]  # fmt: skip


NO_DURATION = [(t, "refused") for t in ("0h", "-1h", "soon", "1", "1 fortnight", "nan h", "1e3h", "inf", "h", " ",
                                        "0.00000000001s", "9" * 30 + "h", "100000000000d", "300y")]  # fmt: skip
FAR_DURATION = [("2562047h", "refused"), ("1s", "refused"), ("7min", "refused"), ("9999999h", "refused")]
NO_DATE = [(t, "refused") for t in (
    "nonsense", "2024-13-01", "2024-05-20T25", "NaT", "20240520", "-", "2024-05-32", " ", "0001-01-01", "9999-01-01",
    "1677-01-01", "2262-05-01", "2609-01-01", "now")]  # fmt: skip

TRAINING = {
    **{n: whole(1) for n in ("epochs", "batch_size", "accumulate", "base_features", "blocks", "validate_every")},
    **{n: whole(0) for n in ("history", "rollout_epochs", "rollout_accumulate", "seed", "empty_cache_every")},
    "levels": [*whole(0), (2, "accepted"), (3, "refused"), (40, "refused")],
    **{n: number(0.0) for n in ("muon_lr", "width", "rollout_width", "amplitude", "rollout_amplitude", "noise",
                                "edge_weight", "season", "weight_decay", "warmup", "save_every", "memory_gb")},
    "cache_gb": number(-1.0),
    **{n: number(0.0, True) for n in ("lr", "clip", "validate_hours", "rollout_hours", "rollout_lr")},
    "lead": [("1h", "accepted"), ("60min", "accepted"), ("3600 s", "accepted"), ("2h", "either"), *NO_DURATION,
             *FAR_DURATION, ("", "refused")],
    "gap": [("1h", "accepted"), ("3h", "accepted"), ("", "accepted"), *NO_DURATION, ("2562047h", "refused"),
            ("9999999h", "refused")],
    "train_end": [("", "accepted"), ("2024-05-21T03", "accepted"), ("2024-05-21T03:00:00Z", "accepted"),
                  ("2024-05-19T23:59", "refused"), ("2024-05-21T16", "refused"), ("2024-05-20", "refused"), *NO_DATE],
    "val_end": [("", "accepted"), ("2024-05-21T09", "accepted"), ("2024-05-21T15:01", "refused"),
                ("2024-05-21", "refused"), *NO_DATE],
    **{n: [("True", "accepted"), ("False", "accepted"), *[(t, "refused") for t in ("maybe", "", "1.0", "yes")]]
       for n in ("flip", "half")},
    "memory": [("lean", "accepted"), ("fast", "accepted"), ("Lean", "refused"), ("", "refused")],
    "variables": [("REFC", "accepted"), ("u10", "accepted"), ("T2M", "refused"), ("", "refused"), ("time", "refused")],
    "boundary": [("", "accepted"), ("nowhere.zarr", "refused"), (".", "refused"), ("/dev/null", "refused"),
                 ("s3:/x", "refused"), ("\u00e9\u00df", "refused"), ("x" * 300, "refused")],
    "zarr": [(t, "refused") for t in ("", ".", "nowhere", "/dev/null", "x" * 300, "\u00e9", " ", "/proc/self/mem")],
    "run_dir": [("/dev/null", "refused"), ("/dev/null/x", "refused"), ("x" * 300, "refused"), ("/proc/x", "refused")],
}  # fmt: skip
BAD_PATH = [(t, "refused") for t in ("", ".", "nowhere", "/dev/null", "x" * 300, "\u00e9")]
INFERENCE = {
    "hours": [(1, "accepted"), (2.0, "accepted"), (5e-324, "refused"), (0.5, "refused"), (1.0000001, "accepted"),
              (1e300, "refused"), (1e7, "refused"), (-1, "refused"), (0, "refused"), ("nan", "refused"),
              ("inf", "refused"), ("-inf", "refused"), *NO_NUMBER],
    "init_time": [("2024-05-20T01", "accepted"), ("latest", "accepted"), ("test", "accepted"),
                  ("2024-05-20T00", "refused"), ("2024-05-21T16", "refused"), *NO_DATE],
    "test_starts": [(1, "accepted"), (2, "accepted"), (10**30, "either"), (0, "refused"), (-1, "refused")],
    "batch_size": [(1, "accepted"), (3, "accepted"), (10**30, "either"), (0, "refused"), (-1, "refused")],
    "init_every": [("1h", "accepted"), ("6h", "accepted"), ("", "accepted"), *NO_DURATION],
    "checkpoint": BAD_PATH, "zarr": BAD_PATH,
    "out": [("/dev/null", "refused"), ("/dev/null/x", "refused"), ("x" * 300, "refused"), ("/proc/x/f.zarr", "refused"),
            ("", "refused"), (".", "refused"), ("/", "refused")],
    "boundary": [("", "accepted"), ("nowhere.zarr", "refused"), ("/dev/null", "refused")],
}  # fmt: skip
VERIFICATION = {
    "forecast": BAD_PATH, "zarr": BAD_PATH,
    "variables": [("U10", "accepted"), ("u10", "accepted"), ("T2M", "refused"), ("", "refused")],
    "out": [("/dev/null/x", "refused"), ("x" * 300, "refused"), ("/proc/x.json", "refused"), (".", "refused"),
            ("/", "refused"), ("", "refused")],
    "figures": [("False", "accepted"), ("maybe", "refused"), ("", "refused")],
}  # fmt: skip
TABLES = {"train": TRAINING, "infer": INFERENCE, "verify": VERIFICATION}
NEEDS_TEST = ("test_starts", "init_every")  # constants that act with `--init_time test` alone


@st.composite
def constants(draw) -> dict:
    """A command, and one or two of its constants with values from the tables."""
    script = draw(st.sampled_from(("train", "train", "train", "infer", "verify")))
    table = TABLES[script]
    names = draw(st.lists(st.sampled_from(sorted(table)), min_size=1, max_size=2, unique=True))
    given = {n: list(draw(st.sampled_from(table[n]))) for n in names}
    return {"command": script, "given": {n: [str(v), e] for n, (v, e) in given.items()}}


def play_constants(case: dict, folder: Path) -> str:
    """Values inside the bounds are accepted, others end in one line; where all are sound, so is the command."""
    place, given = ground("wide"), {n: v for n, (v, _) in case["given"].items()}
    expected = {e for _, e in case["given"].values()}
    arguments = [part for n, v in given.items() for part in (f"--{n}", v)]
    if case["command"] == "train":
        sound = ["--zarr", place / "store.zarr", "--run_dir", folder / "run"]
        if {"lead", "gap", "history", "train_end", "val_end", "levels"} & set(given) and len(given) > 1:
            expected.add("either")  # sound each by itself, which does not say that they are so together
        code, said = accept(*with_arguments(sound, arguments))
    elif case["command"] == "infer":
        init = "test" if set(NEEDS_TEST) & set(given) else START + np.timedelta64(20, "h")
        sound = ["--checkpoint", place / "best.pt", "--zarr", place / "store.zarr", "--hours", step_of("wide"),
                 "--init_time", init, "--out", folder / "f.zarr"]  # fmt: skip
        if set(NEEDS_TEST) & set(given) and "init_time" in given:
            expected.add("either")
        code, said = infer(*with_arguments(sound, arguments))
        check((folder / "f.zarr").exists() == (code == 0), "written and refused, or not written and accepted")
    else:
        sound = ["--checkpoint", place / "best.pt", "--zarr", place / "store.zarr", "--hours", 1, "--init_time",
                 START + np.timedelta64(20, "h"), "--out", folder / "f.zarr"]  # fmt: skip
        check(infer(*sound)[0] == 0, "the sound forecast was refused")
        sound = ["--forecast", folder / "f.zarr", "--zarr", place / "store.zarr", "--out", folder / "s.json",
                 "--figures", "False"]  # fmt: skip
        code, said = command(verification, *with_arguments(sound, arguments))
    wanted = "refused" if "refused" in expected else "either" if "either" in expected else "accepted"
    return outcome(wanted, code, said)


def with_arguments(sound: list, arguments: list) -> list:
    """Sound arguments; one given again replaces the sound one."""
    table = dict(zip(sound[::2], sound[1::2], strict=True))
    return [part for pair in (table | dict(zip(arguments[::2], arguments[1::2], strict=True))).items() for part in pair]


CONSTANTS = Kind(constants(), play_constants, 6)
