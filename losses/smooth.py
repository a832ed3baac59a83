"""A Gaussian smoother for error fields."""

import torch
import torch.nn.functional as F
from torch import Tensor


def smooth(x: Tensor, width: float) -> Tensor:
    """x (B, C, H, W) smoothed by a Gaussian of standard deviation `width` cells; the edge cells are repeated outside.

    A wave of wavelength L keeps exp(-(2 pi width / L)^2 / 2) of its amplitude. width 0 gives x itself."""
    if width <= 0:
        return x
    B, C, H, W = x.shape
    reach = min(max(round(3 * width), 1), H - 1, W - 1)
    cells = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (cells / width).square())
    kernel = kernel / kernel.sum()
    x = x.reshape(B * C, 1, H, W)
    x = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))
    x = F.conv2d(F.pad(x, (0, 0, reach, reach), mode="replicate"), kernel.view(1, 1, -1, 1))
    return x.reshape(B, C, H, W)
