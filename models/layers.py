"""The layers of the UNet. What they keep for the backward pass is as little as it needs: on a full domain a single map
of features takes longer to write to memory than to compute."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ALIGNED = 8  # a GPU's matrix units take channels by so many


def repeat_edge(x: Tensor, left: int, right: int, top: int, bottom: int, channels: int = 0) -> Tensor:
    """x (B, C, H, W) with its edge cells repeated outside, in its own precision (autocast on a CPU goes to float32),
    and behind its channels as many of zeros as make `channels`."""
    return _RepeatEdge.apply(x, (left, right, top, bottom), max(channels, x.shape[1]))


def by_eights(x: Tensor) -> bool:
    """Whether convolutions take their channels last in memory and in eights: on a GPU. Else cuDNN there chooses
    algorithms that need gigabytes for themselves."""
    return x.is_cuda


def half(x: Tensor) -> Tensor:
    """x in the precision that autocast computes in, where it is on."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def enlarge(x: Tensor, factor: int) -> Tensor:
    """x (B, C, H, W) on cells `factor` times as small, bilinear, in its own precision."""
    with torch.autocast(x.device.type, enabled=False):
        return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


class Conv(nn.Module):
    """A convolution that repeats the edge cells instead of padding with zeros: a frame of zeros would be seen by
    the network as a coast of constant weather and shows in the forecast.

    The weight is kept as a matrix (outputs, inputs * kernel * kernel), the form in which Muon (training/optimizer.py)
    takes it. Initialised as torch.nn.Conv2d is."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        self.shape, self.stride, self.pad = (outputs, inputs, kernel, kernel), stride, (kernel - 1) // 2
        bound = 1 / math.sqrt(inputs * kernel**2)
        self.weight = nn.Parameter(torch.empty(outputs, inputs * kernel**2).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, (outputs, inputs) = self.weight.view(self.shape), self.bias, self.shape[:2]
        if not by_eights(x):
            return F.conv2d(repeat_edge(half(x), *[self.pad] * 4), weight, bias, self.stride)
        more_in, more_out = -inputs % ALIGNED, -outputs % ALIGNED
        weight, bias = F.pad(weight, (0, 0, 0, 0, 0, more_in, 0, more_out)), F.pad(bias, (0, more_out))
        return F.conv2d(repeat_edge(half(x), *[self.pad] * 4, inputs + more_in), weight, bias, self.stride)[:, :outputs]

    def zero(self) -> "Conv":
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        return self


class ChannelNorm(nn.Module):
    """Divide each cell's feature vector by its root mean square. No statistic is taken over the batch or the
    domain, so the result in a cell depends neither on the batch size nor on how large the domain is.
    (RMSNorm: Zhang and Sennrich 2019, over channels only.)"""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return _Normalise.apply(x, self.weight)


class Block(nn.Module):
    """Residual block: x + conv(SiLU((1 + a) * conv(norm(x)) + b)), with a and b from the clock features."""

    def __init__(self, channels: int, clock_features: int):
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.conv1 = Conv(channels, channels)
        self.clock = nn.Linear(clock_features, 2 * channels)
        self.conv2 = Conv(channels, channels)

    def forward(self, x: Tensor, clock: Tensor) -> Tensor:
        gain, shift = self.clock(clock)[:, :, None, None].chunk(2, dim=1)
        return x + self.conv2(_Modulate.apply(self.conv1(self.norm(x)), gain, shift))


class _RepeatEdge(torch.autograd.Function):
    """F.pad of mode "replicate". torch's own gradient of it takes two to four times as long on a CPU, and on a GPU adds
    in an order that changes from run to run."""

    @staticmethod
    def forward(ctx, x: Tensor, sides: tuple[int, int, int, int], channels: int) -> Tensor:
        ctx.sides, ctx.size = sides, x.shape[1:]
        with torch.autocast(x.device.type, enabled=False):
            if by_eights(x):  # on a GPU F.pad puts channels first
                return spread(x, *sides, channels)
            return F.pad(x, sides, mode="replicate")

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (left, _, top, _), (C, H, W) = ctx.sides, ctx.size
        rows = fold(gradient[:, :C], -2, top, H, copy=True)
        return fold(rows, -1, left, W, copy=False), None, None


def spread(x: Tensor, left: int, right: int, top: int, bottom: int, channels: int) -> Tensor:
    """What `repeat_edge` returns, with channels last in memory."""
    B, C, H, W = x.shape
    size = (B, channels, top + H + bottom, left + W + right)
    whole = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    whole[:, C:] = 0
    out, inner = whole[:, :C], slice(left, left + W)
    out[..., top : top + H, inner] = x
    out[..., :top, inner] = x[..., :1, :]
    out[..., top + H :, inner] = x[..., -1:, :]
    out[..., :left] = out[..., left : left + 1]
    out[..., left + W :] = out[..., left + W - 1 : left + W]
    return whole


def fold(x: Tensor, axis: int, before: int, size: int, copy: bool) -> Tensor:
    """x without the cells before and after `size` ones along an axis, which are added to the outermost of those; in
    place, or into a copy. A strip of one cell, the usual one, needs no sum: on a GPU every operation counts."""
    inner = x.narrow(axis, before, size)
    inner = inner.clone() if copy else inner
    for start, width, edge in ((0, before, 0), (before + size, x.shape[axis] - before - size, size - 1)):
        if width:
            strip = x.narrow(axis, start, width)
            inner.narrow(axis, edge, 1).add_(strip if width == 1 else strip.sum(dim=axis, keepdim=True))
    return inner


class _Normalise(torch.autograd.Function):
    """x (B, C, H, W) / rms over C * weight (C,); keeps x and the (B, 1, H, W) factor, not the product."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        # not linalg.vector_norm: on a CPU it takes 8 to 20 times as long
        size = (x * x).sum(dim=1, keepdim=True, dtype=torch.float32)
        factor = size.div_(x.shape[1]).add_(1e-6).rsqrt_()
        ctx.save_for_backward(x, factor, weight)
        return (x * factor.to(x.dtype)).mul_(weight[:, None, None].to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, factor, weight = ctx.saved_tensors
        factor = factor.to(x.dtype)
        y = x * factor
        product = gradient * y
        of_weight = product.sum(dim=(0, 2, 3), dtype=torch.float32)
        scale = weight[:, None, None].to(x.dtype)
        common = product.mul_(scale).mean(dim=1, keepdim=True, dtype=torch.float32)
        del product
        of_x = (gradient * scale).sub_(y.mul_(common.to(x.dtype))).mul_(factor)
        return of_x, of_weight.to(weight.dtype)


class _Modulate(torch.autograd.Function):
    """SiLU((1 + gain) * x + shift) of x (B, C, H, W), gain and shift (B, C, 1, 1); keeps these three only."""

    @staticmethod
    def forward(ctx, x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(x, gain, shift)
        return F.silu((x * (1 + gain)).add_(shift), inplace=True)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, gain, shift = ctx.saved_tensors
        inner = torch.ops.aten.silu_backward(gradient, (x * (1 + gain)).add_(shift))
        of_shift = inner.sum(dim=(2, 3), keepdim=True, dtype=torch.float32)
        of_gain = (inner * x).sum(dim=(2, 3), keepdim=True, dtype=torch.float32)
        return inner.mul_(1 + gain), of_gain.to(gain.dtype), of_shift.to(shift.dtype)
