"""The device of a run, its precision and its memory."""

import os
import resource
import sys
from pathlib import Path

import torch


def choose_device() -> torch.device:
    """CUDA if there is a GPU, else the CPU. float32 stays float32: TF32, with 10 bits of precision, is off."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def half_precision(device: torch.device) -> torch.dtype:
    """The precision of training steps under autocast: bfloat16 on GPUs and CPUs with units for it, else float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and torch.cpu.get_capabilities().get("amx_bf16", False)
    return torch.bfloat16 if fast else torch.float32


def peak_memory_bytes(device: torch.device) -> int:
    """The highest memory use since the start: of torch's allocator on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def free_memory(meminfo: str = "/proc/meminfo", own: str = "/proc/self/cgroup", groups: str = "/sys/fs/cgroup") -> int:
    """Bytes of RAM that this process may still take: of the machine, and of every control group around the process,
    such as the limit of a container or a batch job. Files that the system keeps in memory count as free."""
    try:
        lines = dict(line.split(":", 1) for line in Path(meminfo).read_text().splitlines())
        free = [int(lines["MemAvailable"].split()[0]) * 1024]
    except (OSError, KeyError, ValueError):  # not Linux: half of the machine's memory
        free = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2]
    for line in Path(own).read_text().splitlines() if Path(own).exists() else []:
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = Path(groups, "memory" if controllers else "")  # version 1 of control groups names its controllers
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file") if controllers else (
            "memory.max", "memory.current", "inactive_file")  # fmt: skip
        place = root / group.lstrip("/")
        for folder in (p for p in (place, *place.parents) if p.is_relative_to(root)):
            try:
                limit, used = (int((folder / name).read_text()) for name in names[:2])
                files = dict(x.split() for x in (folder / "memory.stat").read_text().splitlines())
                free.append(limit - used + int(files.get(names[2], 0)))
            except (OSError, ValueError):  # no such group, or "max": no limit
                continue
    return max(0, min(free))
