"""Where decoded hours are kept, chosen from the memory that is free, and the order of an epoch that suits it."""

import os
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch

SHARE = 0.6  # of the free memory: the rest is for the page cache, checkpoints and other processes
DEVICE_SHARE = 0.8  # of the device's memory that no step takes
GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Plan:
    """place: "device", "RAM" or "none"; hours: how many of `count` it holds; line: what to print."""

    place: str
    hours: int
    count: int
    line: str

    def block(self, span: int) -> int:
        """Pairs to shuffle among themselves (`block_order`), so that each hour is decoded once, where a task touches
        `span` hours; 0: all of them, since all hours are kept, or so few that it would not help."""
        if self.hours == self.count:
            return 0
        return max(0, self.hours - span + 1)  # n pairs in a row touch n - 1 hours more than the first one does


def choose(count: int, hour: int, span: int, kind: str, cache_gb: float = -1.0, device_bytes: int = 0,
           sharers: int = 1) -> Plan:  # fmt: skip
    """Where `count` hours of `hour` bytes go.

    span: hours that a pair touches; kind: their precision, for the line; cache_gb: at most so much RAM, below
    0 what is free; device_bytes: what the device has to spare, 0 in lean mode; sharers: processes on this machine.
    """
    size = count * hour
    if size <= DEVICE_SHARE * device_bytes:
        return Plan("device", count, count, f"cache: all {count} hours on the device as {kind}, {_gb(size)} of "
                    f"{_gb(device_bytes)} to spare")  # fmt: skip
    free = free_memory()
    room = SHARE * free / sharers
    room = room if cache_gb < 0 else min(room, cache_gb * 1e9)
    held = min(count, int(room // hour))
    used = f"{_gb(held * hour)} of {_gb(free)} free"
    if held == count:
        return Plan("RAM", count, count, f"cache: all {count} hours in RAM as {kind}, {used}")
    if held <= span:
        return Plan("none", 0, count, f"cache: none, {span + 1} hours as {kind} would take {_gb((span + 1) * hour)} of "
                    f"{_gb(free)} free; every pair is decoded anew")  # fmt: skip
    plan = Plan("RAM", held, count, f"cache: {held} of {count} hours in RAM as {kind}, {used}")
    return replace(plan, line=f"{plan.line}; shuffled in blocks of {plan.block(span)} pairs, so that each hour is "
                   "decoded once an epoch")  # fmt: skip


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def block_order(count: int, block: int, rng: torch.Generator) -> list[int]:
    """The order of an epoch over `count` pairs that are sorted by time: a random permutation, or, where block > 0, of
    runs of `block` neighbours one after the other, each shuffled. The runs begin elsewhere in every epoch, so that
    pairs do not keep their company."""
    if not 0 < block < count:
        return torch.randperm(count, generator=rng).tolist()
    first = int(torch.randint(1, block + 1, (), generator=rng))
    edges = [0, *range(first, count, block), count]
    runs = [range(a, b) for a, b in pairwise(edges)]
    out: list[int] = []
    for n in torch.randperm(len(runs), generator=rng).tolist():
        out += [runs[n][i] for i in torch.randperm(len(runs[n]), generator=rng).tolist()]
    return out


# --- free memory ---


def free_memory(meminfo: Path = Path("/proc/meminfo"), groups: Path = GROUPS,
                own: Path = Path("/proc/self/cgroup")) -> int:  # fmt: skip
    """Bytes that this process may still take: of the machine, and of every control group that it is in (a container's
    or a batch job's limit). Files that the system keeps in memory count as free."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux: half of what the machine has
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return max(0, min([free, *_group_rooms(groups, own)]))


def _group_rooms(groups: Path, own: Path) -> list[int]:
    """What each control group above this process has left."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return []
    out = []
    for _, controllers, path in lines:
        if controllers and "memory" not in controllers.split(","):
            continue
        root = groups / "memory" if controllers else groups  # version 1, version 2
        names = (("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file") if controllers
                 else ("memory.max", "memory.current", "inactive_file"))  # fmt: skip
        here = root / path.lstrip("/")
        for folder in [here, *here.parents]:
            out += _room(folder, *names)
            if folder == root:
                break
        else:
            out += _room(root, *names)
    return out


def _room(folder: Path, limit: str, usage: str, reclaimable: str) -> list[int]:
    try:
        most, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
        if most == "max":
            return []
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return [int(most) - used + int(stat.get(reclaimable, 0))]
    except (OSError, ValueError):  # no such group, or one without a limit
        return []


def device_room(device: torch.device, lean: bool) -> int:
    """Bytes of the device that no training step takes, to be asked after one step of each kind was made; 0 in lean
    mode, whose point is to leave them free, and on a CPU."""
    if lean or device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    in_steps = torch.cuda.max_memory_reserved(device) - torch.cuda.memory_reserved(device)
    return max(0, free - in_steps)
