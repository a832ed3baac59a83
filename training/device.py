"""The device: which one, its precision, its true peak of memory."""

import resource
import sys

import torch


def choose_device() -> torch.device:
    """CUDA where there is one, else the CPU. What is in float32 is then computed in it, not in the 10 bits of TF32,
    which PyTorch takes for convolutions and may be told to take for products of matrices: they smooth the errors that
    the loss is made of, and sharpening multiplies every field by matrices."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 autocast where the device computes in it; full precision on the CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" and torch.cuda.is_bf16_supported())


def training_autocast(device: torch.device, half: bool) -> torch.autocast:
    """The same in training steps, and with `half` bfloat16 on a CPU with matrix units for it, where a step takes two
    thirds of the time. Forecasts have full precision there."""
    if half and device.type == "cpu" and torch.cpu.get_capabilities().get("amx_bf16", False):
        return torch.autocast("cpu", torch.bfloat16)
    return autocast(device)


def release(device: torch.device) -> None:
    """Give memory that is not in use back to the device: training, validation and roll-outs need blocks of other
    sizes, and what one has left over in pieces the next cannot use."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def peak_memory_bytes(device: torch.device) -> int:
    """The highest memory use since the start, not the present one: of the device's allocator on CUDA, of the
    whole process (resident) on the CPU. A figure read after the backward pass, when the activations are gone,
    would be several times too small."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
