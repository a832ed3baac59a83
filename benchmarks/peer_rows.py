"""The rows of the comparison with peers: which network, trained how, in which precision and memory layout.

`cfg` is benchmarks.peers.Config; of it only base_features and muon count here.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from unittest import mock

import torch
import train_step

import train_deterministic
from benchmarks import memory
from benchmarks.memory import Step
from benchmarks.peer_models import KINDS, Peer


@dataclass(frozen=True)
class Row:
    """A network and how it is trained. kind: of KINDS, or "ours"; mode: of the loss, and of our network."""

    kind: str
    text: str
    mode: str = "fast"
    checkpointed: bool = False


@dataclass(frozen=True)
class Setting:
    half: bool = False  # bfloat16 autocast
    channels_last: bool = False

    def __str__(self) -> str:
        return ("bfloat16" if self.half else "float32") + (", channels last" if self.channels_last else "")


def rows_of(peers: tuple[str, ...]) -> dict[str, Row]:
    out = {m: Row("ours", f"ours, {m}", m) for m in ("fast", "lean")}
    for k in peers:
        text = KINDS[k].text
        out[k] = Row(k, text)
        out[f"{k}_checkpointed"] = Row(k, f"{text}, its checkpointing", "fast", True)
        out[f"{k}_checkpointed_lean_loss"] = Row(k, f"{text}, its checkpointing, our lean loss", "lean", True)
    return out


@contextmanager
def standing_for_ours(cfg, row: Row, setting: Setting | None) -> Iterator[None]:
    """The row's network in the place of ours, in a precision (None: that of the device) and layout, while open."""
    with ExitStack() as stack:
        for patch in patches(cfg, row, setting):
            stack.enter_context(mock.patch.object(*patch))
        yield


def patches(cfg, row: Row, setting: Setting | None) -> list[tuple]:
    out: list[tuple] = []
    if row.kind != "ours":
        last = setting is not None and setting.channels_last
        peer = partial(Peer, kind=row.kind, checkpointed=row.checkpointed, channels_last=last, muon=cfg.muon)
        out += [(place, "ResidualUNet", peer) for place in (memory, train_deterministic)]
    if setting is not None:

        def precision(device: torch.device, half: bool) -> torch.autocast:
            return torch.autocast(device.type, torch.bfloat16, enabled=setting.half)

        out.append((train_step, "training_autocast", precision))
    return out


def constants_of(cfg, row: Row) -> train_deterministic.Config:
    constants = train_deterministic.Config(base_features=cfg.base_features, season=0.0, shift=False)
    return constants if row.kind == "ours" or cfg.muon else replace(constants, muon_lr=0.0)


def new_step(cfg, row: Row, setting: Setting, shape: tuple[int, int], device: torch.device) -> Step:
    with standing_for_ours(cfg, row, setting):
        return Step(shape, row.mode, constants_of(cfg, row), device=device)


def clock_of(device: torch.device) -> str:
    """The clock that times a step: of one thread the CPU's own, which does not run while others have the core."""
    return "cpu" if device.type == "cpu" and torch.get_num_threads() == 1 else "wall"


def seconds(action: Callable[[], object], device: torch.device) -> float:
    clock = time.process_time if clock_of(device) == "cpu" else time.perf_counter
    began = clock()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - began


def trial(cfg, rows: dict[str, Row], shape: tuple[int, int], device: torch.device) -> dict[str, Setting]:
    """The fastest setting of each row on a small grid. Rows that compute twice take that of their plain network."""
    out: dict[str, Setting] = {}
    for n, row in rows.items():
        plain = "fast" if row.kind == "ours" else row.kind
        if n != plain:
            out[n] = out[plain]
            continue
        layouts = (False,) if row.kind == "ours" else (False, True)
        halves = (True,) if device.type == "cuda" else (False, True)
        candidates = [Setting(half, layout) for half in halves for layout in layouts]
        took = {s: trial_seconds(cfg, row, s, shape, device) for s in candidates}
        out[n] = min(took, key=took.__getitem__)
        print(f"{n}: " + ", ".join(f"{s} {t:.3f} s" for s, t in took.items()) + f"; takes {out[n]}", flush=True)
    return out


def trial_seconds(cfg, row: Row, setting: Setting, shape: tuple[int, int], device: torch.device) -> float:
    step = new_step(cfg, row, setting, shape, device)
    with standing_for_ours(cfg, row, setting):
        return min([seconds(step.train, device) for _ in range(4)][1:])


def table(title: str, head: list[str], lines: list[list[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    print("\n".join(f"| {' | '.join(line)} |" for line in lines), flush=True)
