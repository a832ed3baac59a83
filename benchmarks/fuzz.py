"""Thousands of drawn cases in one process: stores, constants, files of random bytes, training, forecasts, scores.

    python -m benchmarks.fuzz --cases 5000 --json benchmarks/results/fuzz.json
    python -m benchmarks.fuzz --kinds pairs grib --cases 500 --seed 7
    python -m benchmarks.fuzz --replay benchmarks/results/fuzz.json      # plays the recorded failures again

Every case knows whether its input is sound and what must come of it. A failure is a traceback, a hang (longer than
`limit`), sound input refused, unsound input accepted, or a wrong value. What each kind draws is in docs/fuzz.md. Needs
hypothesis (requirements-dev.txt). Exit code 1 where a case failed. While it runs, FILE.running holds the case that is
being played, should one end the process itself.
"""

import contextlib
import faulthandler
import importlib
import json
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from data.command import nearest, raised_by_us, run

try:
    import hypothesis
except ImportError:
    raise SystemExit(
        "error: got no package hypothesis, expected it. Fix: .venv/bin/python -m pip install hypothesis"
    ) from None

# kind: where it is
KINDS = {
    "pairs": "benchmarks.fuzz_stores.PAIRS",
    "split": "benchmarks.fuzz_stores.SPLIT",
    "constants": "benchmarks.fuzz_constants.CONSTANTS",
    "planted": "benchmarks.fuzz_runs.PLANT",
    "train": "benchmarks.fuzz_runs.RUN",
    "roll": "benchmarks.fuzz_runs.ROLL",
    "scores": "benchmarks.fuzz_runs.SCORES",
    "checkpoint": "benchmarks.fuzz_files.CHECKPOINT",
    "store_bytes": "benchmarks.fuzz_files.STORE_BYTES",
    "grib": "benchmarks.fuzz_grib.GRIB",
}


@dataclass
class Config:
    cases: int = 5000  # to play, of all kinds together
    kinds: list[str] = field(default_factory=list)  # which; empty: all
    seed: int = 0  # of the drawing
    limit: float = 60.0  # s, a case that takes longer counts as a hang
    json: str = ""  # file for the counts and failures
    replay: str = ""  # a file that --json wrote: play its failures again, or FILE.running: that case


class Late(BaseException):
    """A case took longer than its limit."""


class Player:
    """Plays cases and remembers what came of them."""

    def __init__(self, limit: float, running: Path | None):
        self.limit, self.running, self.late = limit, running, False
        self.counts: dict[str, Counter] = {}
        self.seconds: Counter = Counter()
        self.longest = 0.0
        self.seen: set[str] = set()
        self.failures: list[dict] = []
        self.shm = Path("/dev/shm")
        signal.signal(signal.SIGALRM, self._alarm)

    def _alarm(self, number, frame) -> None:
        self.late = True
        raise Late

    def __call__(self, name: str, kind, case: dict) -> None:
        text, began = json.dumps({"kind": name, "case": case}, sort_keys=True), time.perf_counter()
        if self.running:
            self.running.write_text(text)
        place = self.shm if self.shm.is_dir() else None
        with tempfile.TemporaryDirectory(prefix="fuzz", dir=place, ignore_cleanup_errors=True) as folder:
            result, why = self._play(kind, case, Path(folder))
        taken = time.perf_counter() - began
        self.seen.add(text)
        self.seconds[name] += taken
        self.longest = max(self.longest, taken)
        self.counts.setdefault(name, Counter())[result] += 1
        if why:
            self.failures.append({"kind": name, "result": result, "why": why, "case": case})

    def _play(self, kind, case: dict, folder: Path) -> tuple[str, str]:
        """What came of a case: accepted, refused, wrong, traceback or hang; and why, where that is a failure."""
        self.late = False
        # for a hang that never returns to Python
        faulthandler.dump_traceback_later(5 * self.limit, exit=True, file=sys.__stderr__)
        signal.setitimer(signal.ITIMER_REAL, self.limit)
        try:
            result, why = kind.play(case, folder), ""
        except KeyboardInterrupt:
            raise
        except AssertionError as error:
            result, why = "wrong", text_of(error)
        except BaseException as error:  # a panic of Rust code is no Exception
            result, why = "traceback", text_of(error)
            if isinstance(error, ValueError) and raised_by_us(error):
                result = "wrong"  # a message of ours where none was due
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()
        return ("hang", why or f"more than {self.limit:g} s") if self.late else (result, why)


def text_of(error: BaseException) -> str:
    """The last lines of a traceback."""
    return "".join(traceback.format_exception(error))[-3000:]


def kind_of(name: str):
    """The Kind of a name."""
    module, attribute = KINDS[name].rsplit(".", 1)
    return getattr(importlib.import_module(module), attribute)


def main(cfg: Config) -> int:
    torch.set_num_threads(1)
    for name in cfg.kinds:
        if name not in KINDS:
            raise ValueError(f"kinds: got {name!r}, expected some of {' '.join(KINDS)}. "
                             f"Nearest: {nearest(name, KINDS)}. Fix: --kinds {nearest(name, KINDS, 1)}")  # fmt: skip
    if cfg.cases < 1 or not 0 < cfg.limit < 1e6:
        raise ValueError(f"cases and limit: got {cfg.cases} and {cfg.limit}, expected positive numbers. "
                         "Fix: --cases 5000 --limit 60")  # fmt: skip
    running = Path(cfg.json + ".running") if cfg.json else None
    player, began = Player(cfg.limit, running), time.perf_counter()
    if cfg.replay:
        prepare()
        for one in recorded(cfg.replay):
            player(one["kind"], kind_of(one["kind"]), one["case"])
    else:
        names = cfg.kinds or list(KINDS)
        kinds = {name: kind_of(name) for name in names}
        total = sum(kind.share for kind in kinds.values())
        prepare()
        for name, kind in kinds.items():
            play_drawn(player, name, kind, -(-cfg.cases * kind.share // total), cfg.seed)
            print(line(name, player), flush=True)
    given = {k: v for k, v in asdict(cfg).items() if k not in ("json", "replay")}
    result = {
        "constants": given, "cases": sum(c.total() for c in player.counts.values()), "distinct": len(player.seen),
        "seconds": round(time.perf_counter() - began, 1), "longest_case_s": round(player.longest, 2),
        "kinds": {n: {**c, "seconds": round(player.seconds[n], 1)} for n, c in player.counts.items()},
        "failed": len(player.failures), "failures": player.failures,
        "versions": {"hypothesis": hypothesis.__version__, "torch": torch.__version__},
    }  # fmt: skip
    for failure in player.failures[:20]:
        print(f"\n{failure['result']}: {failure['kind']} {json.dumps(failure['case'])}\n{failure['why']}")
    print(f"{result['cases']} cases ({result['distinct']} distinct) in {result['seconds']:.0f} s, longest "
          f"{result['longest_case_s']:.1f} s: {result['failed']} failed")  # fmt: skip
    if cfg.json:
        Path(cfg.json).write_text(json.dumps(result, indent=1) + "\n")
        print(f"wrote {cfg.json}")
        with contextlib.suppress(FileNotFoundError):
            running.unlink()
    return int(bool(player.failures))


def prepare() -> None:
    """Make what cases start from before the first is timed."""
    fuzz_ground = importlib.import_module("benchmarks.fuzz_ground")
    for name in fuzz_ground.GROUNDS:
        fuzz_ground.ground(name)


def play_drawn(player: Player, name: str, kind, count: int, seed: int) -> None:
    """Draw `count` cases of a kind and play them."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count, database=None, deadline=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(kind.cases)
    def play(case: dict) -> None:
        player(name, kind, case)

    play()


def recorded(path: str) -> list[dict]:
    """The failures of a file that --json wrote, or the case of FILE.running."""
    try:
        found = json.loads(Path(path).read_text())
        cases = found.get("failures", [found])
        assert all(one["kind"] in KINDS and isinstance(one["case"], dict) for one in cases)
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(f"replay: got {path} ({type(error).__name__}: {error}), expected a file that --json wrote. "
                         "Fix: --replay benchmarks/results/fuzz.json") from None  # fmt: skip
    return cases


def line(name: str, player: Player) -> str:
    """What came of a kind, in one line."""
    counts = player.counts[name]
    return (f"{name:12s} {counts.total():5d} cases {player.seconds[name]:7.1f} s  "
            + ", ".join(f"{n} {r}" for r, n in sorted(counts.items())))  # fmt: skip


if __name__ == "__main__":
    run(Config, main, __doc__)
