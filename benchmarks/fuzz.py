"""Run thousands of random cases: constants, files of random bytes, stores, GRIB messages, trainings, forecasts, scores.

    python -m benchmarks.fuzz --cases 5000 --json benchmarks/results/fuzz.json
    python -m benchmarks.fuzz --kinds flips --cases 2000                # single bits of chunks, metadata, checkpoints
    python -m benchmarks.fuzz --kinds grib --first 312 --cases 1        # repeats one case

A case knows whether its input is sound. It fails on a traceback, an exit code other than 0 or 2, a code 2 without its
one line, a file that is half written, sound input refused, unsound input accepted, a wrong value, or a hang. Exit code
1 if a case failed. If a case ends the process itself, FILE.running names it.
"""

import faulthandler
import json
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from benchmarks import fuzz_cases, fuzz_inputs
from data.command import run

CASES = {
    "stores": fuzz_inputs.stores, "constants": fuzz_cases.constants, "planted": fuzz_cases.planted,
    "training": fuzz_cases.training, "roll_out": fuzz_cases.roll_out, "checkpoint": fuzz_cases.checkpoint,
    "store_bytes": fuzz_cases.store_bytes, "flips": fuzz_inputs.flips, "grib": fuzz_inputs.grib,
}  # fmt: skip
SHARES = dict(zip(CASES, (16, 12, 8, 1, 2, 8, 4, 16, 8), strict=True))  # of the cases, by kind


@dataclass
class Config:
    cases: int = 5000  # number of cases, all kinds together
    kinds: list[str] = field(default_factory=list)  # kinds of case; empty: all
    seed: int = 0  # of the cases
    first: int = 0  # number of the first case of each kind
    limit: float = 60.0  # time after which a case counts as a hang (s)
    json: str = ""  # file for the counts and failures; empty: none


def main(cfg: Config) -> int:
    if unknown := set(cfg.kinds) - set(SHARES):
        raise ValueError(f"kinds: got {' '.join(unknown)}, expected some of {' '.join(SHARES)}. Fix: --kinds stores")
    if cfg.cases < 1 or not 0 < cfg.limit < 1e6:
        raise ValueError(f"got --cases {cfg.cases} --limit {cfg.limit}, expected positive numbers. Fix: --limit 60")
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, raise_hang)
    fuzz_cases.ground()  # made before the first case is timed
    kinds, began = cfg.kinds or list(SHARES), time.perf_counter()
    counts, failures = {}, []
    for kind in kinds:
        counts[kind], started = Counter(), time.perf_counter()
        for number in range(cfg.first, cfg.first - (-cfg.cases * SHARES[kind] // sum(map(SHARES.get, kinds)))):
            if cfg.json:
                Path(cfg.json + ".running").write_text(f"--kinds {kind} --first {number} --seed {cfg.seed}\n")
            result, reason = play(kind, number, cfg.seed, cfg.limit)
            counts[kind][result] += 1
            if reason:
                failures.append({"kind": kind, "number": number, "result": result, "reason": reason})
        print(f"{kind:12s} {counts[kind].total():5d} cases {time.perf_counter() - started:7.1f} s  "
              + ", ".join(f"{n} {result}" for result, n in sorted(counts[kind].items())), flush=True)  # fmt: skip
    constants = {k: v for k, v in asdict(cfg).items() if k != "json"}
    result = {"constants": constants, "cases": sum(c.total() for c in counts.values()),
              "seconds": round(time.perf_counter() - began, 1), "kinds": counts, "failed": len(failures),
              "failures": failures}  # fmt: skip
    for f in failures[:20]:
        print(f"\n{f['result']}: --kinds {f['kind']} --first {f['number']} --cases 1\n{f['reason']}")
    print(f"{result['cases']} cases in {result['seconds']:.0f} s: {len(failures)} failed")
    if cfg.json:
        Path(cfg.json).write_text(json.dumps(result, indent=1) + "\n")
        Path(cfg.json + ".running").unlink()
    return int(bool(failures))


def raise_hang(number, frame) -> None:
    raise TimeoutError("the case took longer than --limit")


def play(kind: str, number: int, seed: int, limit: float) -> tuple[str, str]:
    """The result of one case (accepted, refused, wrong, traceback or hang) and the reason if it failed."""
    case = CASES[kind]
    faulthandler.dump_traceback_later(5 * limit, exit=True, file=sys.__stderr__)  # a hang outside Python
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        with tempfile.TemporaryDirectory(prefix="fuzz", dir=fuzz_cases.MEMORY, ignore_cleanup_errors=True) as folder:
            return case(random.Random(f"{seed} {kind} {number}"), Path(folder)), ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of Rust code is no Exception
        reason = "".join(traceback.format_exception(error))[-2000:]
        hang = "raise_hang" in reason  # also if the code made another exception of it
        return "hang" if hang else "wrong" if isinstance(error, AssertionError) else "traceback", reason
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    run(Config, main, __doc__)
