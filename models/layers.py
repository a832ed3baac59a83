"""The layers of the UNet, each a few large operations: a GPU waits for Python at every one of them."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALIGNED = 8  # matrix units take channels in groups of eight


def aligned(channels: int) -> int:
    """The next multiple of ALIGNED."""
    return -(-channels // ALIGNED) * ALIGNED


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each cell of (B, C, H, W).

    No statistic is taken over the batch or the domain, so a cell depends neither on the batch size nor on how large
    the domain is.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Residual block: x + conv(silu(conv(norm(x)) + shift)), with the shift (B, C, 1, 1) from the clock.

    The norm pays only where there are many channels and few cells: torch's kernel is slow otherwise.
    """

    def __init__(self, channels: int, normed: bool = False):
        super().__init__()
        self.norm = ChannelNorm(channels) if normed else nn.Identity()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        return self.conv2(F.silu(self.conv1(self.norm(x)).add_(shift))).add_(x)


class Unfold(nn.Module):
    """Features on cells of 2 x 2 to fields at full resolution, by a transposed convolution that starts at zero.

    Its weights are smoothed by [1 2 1] in both directions. This filter is zero at a wavelength of two cells, so the
    output has no lines of that wavelength, whatever the layer learns.
    """

    def __init__(self, features: int, channels: int):
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.zeros(features, aligned(channels), 4, 4))
        self.bias = nn.Parameter(torch.zeros(aligned(channels)))
        line = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("smoother", (line[:, None] * line)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = F.conv2d(self.weight.flatten(0, 1)[:, None], self.smoother.to(self.weight.dtype), padding=2)
        weight = weight.view(*self.weight.shape[:2], 6, 6)
        return F.conv_transpose2d(x, weight, self.bias, stride=2, padding=2)[:, : self.channels]


def upsample(x: Tensor) -> Tensor:
    """(B, C, H, W) on cells half as large, bilinear."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def frame(x: Tensor, multiple: int) -> Tensor:
    """(B, C, H, W) with its last row and column repeated until the sides are multiples of `multiple`."""
    padding = (0, -x.shape[-1] % multiple, 0, -x.shape[-2] % multiple)
    return F.pad(x, padding, mode="replicate") if any(padding) else x


def precision(weight: Tensor) -> torch.dtype:
    """The precision that a convolution with these weights computes in."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def join(fields: list[Tensor], channels: int, dtype: torch.dtype) -> Tensor:
    """Fields (B, C_i, H, W) concatenated and filled with zeros to `channels`, channels last in memory."""
    parts = [f.permute(0, 2, 3, 1).to(dtype) for f in fields]
    missing = channels - sum(p.shape[-1] for p in parts)
    if missing:
        parts.append(parts[0].new_zeros(1, 1, 1, 1).expand(*parts[0].shape[:3], missing))
    return torch.cat(parts, dim=-1).permute(0, 3, 1, 2)


def advect(fields: Tensor, flow: Tensor) -> Tensor:
    """Move each field along its own flow: out(p) = field(p - flow(p)), backward semi-Lagrangian transport.

    fields (B, C, H, W), flow (B, 2 C, H, W) in cells per step, for each channel eastward (along W) first, then along
    H. The interpolation is bicubic, because a bilinear one takes away detail at every step of a roll-out. Beyond the
    edge the field is continued with its outermost value. Float32.
    """
    B, C, H, W = fields.shape
    cells, size = lattice(H, W, fields.device)
    grid = torch.addcmul(cells[:, :, None], flow.permute(0, 2, 3, 1).unflatten(-1, (C, 2)), -size)
    del flow  # without gradients it is not needed any more
    grid = grid.permute(0, 3, 1, 2, 4).flatten(0, 1)
    moved = F.grid_sample(fields.reshape(B * C, 1, H, W), grid, "bicubic", "border", align_corners=True)
    return moved.view(B, C, H, W)


@lru_cache(maxsize=4)
def lattice(H: int, W: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(H, W, 2): the cells in grid_sample's coordinates (x, y from -1 to 1), and (2,): the size of a cell in them."""
    x, y = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in (W, H))
    cells = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    size = torch.tensor([2 / max(n - 1, 1) for n in (W, H)])
    return cells.float().to(device), size.to(device)
