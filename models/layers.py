"""The layers of the UNet. What they keep for the backward pass is as little as it needs: on a full domain a single map
of features takes longer to write to memory than to compute."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def repeat_edge(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """x (B, C, H, W) with its edge cells repeated outside, in its own precision (autocast on a CPU goes to float32)."""
    return _RepeatEdge.apply(x, left, right, top, bottom)


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
        if self.pad:
            x = repeat_edge(x, *[self.pad] * 4)
        return F.conv2d(x, self.weight.view(self.shape), self.bias, self.stride)

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
    def forward(ctx, x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
        ctx.sides, ctx.size = (left, top), x.shape[-2:]
        with torch.autocast(x.device.type, enabled=False):
            return F.pad(x, (left, right, top, bottom), mode="replicate")

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        (left, top), (H, W) = ctx.sides, ctx.size
        # (the cells of the gradient, the edge of x that they are a copy of), along each axis
        rows = ((slice(0, top), slice(0, 1)), (slice(top + H, None), slice(H - 1, H)))
        columns = ((slice(0, left), slice(0, 1)), (slice(left + W, None), slice(W - 1, W)))
        inner = slice(top, top + H), slice(left, left + W)
        of_x = gradient[..., inner[0], inner[1]].clone()  # in its layout
        for outside, edge in rows:
            of_x[..., edge, :] += gradient[..., outside, inner[1]].sum(dim=-2, keepdim=True)
            for beyond, side in columns:
                of_x[..., edge, side] += gradient[..., outside, beyond].sum(dim=(-2, -1), keepdim=True)
        for outside, edge in columns:
            of_x[..., edge] += gradient[..., inner[0], outside].sum(dim=-1, keepdim=True)
        return of_x, None, None, None, None


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
