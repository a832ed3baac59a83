"""A Gaussian smoother for error fields."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def smooth(x: Tensor, width: float) -> Tensor:
    """x (B, C, H, W) smoothed by a Gaussian of standard deviation `width` cells; the edge cells are repeated outside.

    A wave of wavelength L keeps exp(-(2 pi width / L)^2 / 2) of its amplitude. width 0 gives x itself."""
    return _Smooth.apply(x, width) if width > 0 else x


class _Smooth(torch.autograd.Function):
    """The gradient is written out as a convolution with the same weights, which is several times faster than the
    gradient of a convolution with one channel and a long kernel."""

    @staticmethod
    def forward(ctx, x: Tensor, width: float) -> Tensor:
        H, W = x.shape[-2:]
        ctx.width, ctx.reach = width, min(max(round(3 * width), 1), H - 1, W - 1)
        fields = x.reshape(-1, 1, H, W)
        for axis in (-1, -2):
            fields = weigh(pad(fields, ctx.reach, axis, "replicate"), width, ctx.reach, axis)
        return fields.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        fields = grad.reshape(-1, 1, *grad.shape[-2:])
        for axis in (-2, -1):  # every cell gets its share of the sums that it was in, and an end those of its copies
            fields = weigh(pad(fields, 2 * ctx.reach, axis, "constant"), ctx.width, ctx.reach, axis)
            fields = folded(fields, ctx.reach, axis)
        return fields.view(grad.shape), None


def pad(fields: Tensor, cells: int, axis: int, mode: str) -> Tensor:
    """Fields (N, 1, H, W) with cells added at both ends of an axis."""
    return F.pad(fields, (cells, cells, 0, 0) if axis == -1 else (0, 0, cells, cells), mode)


def weigh(fields: Tensor, width: float, reach: int, axis: int) -> Tensor:
    """Sums of fields (N, 1, H, W) along an axis over `reach` cells on either side, with the weights of the Gaussian."""
    cells = torch.arange(-reach, reach + 1, device=fields.device, dtype=fields.dtype)
    kernel = torch.exp(-0.5 * (cells / width).square())
    kernel = kernel / kernel.sum()
    return F.conv2d(fields, kernel.view(1, 1, 1, -1) if axis == -1 else kernel.view(1, 1, -1, 1))


def folded(fields: Tensor, reach: int, axis: int) -> Tensor:
    """Fields whose `reach` cells at either end of an axis, copies of the next one, are added to it."""
    n = fields.shape[axis] - 2 * reach
    before, inside, after = fields.split([reach, n, reach], dim=axis)
    inside = inside.clone()
    inside.narrow(axis, 0, 1).add_(before.sum(dim=axis, keepdim=True))
    inside.narrow(axis, n - 1, 1).add_(after.sum(dim=axis, keepdim=True))
    return inside
