"""A residual UNet: the last hours and forcing in, the change over one step out.

    x(t + lead) = x(t) + scale * model(...)        scale * model(...) = [transport(x(t)) - x(t)] + scale * tendency

Transport and tendency come from one network and both start at zero, so the untrained model is exactly persistence.
The UNet works on cells of 2 x 2, where features are cheap; a thin refinement at full resolution, which sees the
transported fields, adds what a coarse grid cannot say. Nothing here knows what a channel means.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.warp import warp

THIN = 8  # features of the refinement at full resolution


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
            x = F.pad(x, [self.pad] * 4, mode="replicate")
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
        power = x.float().square().mean(dim=1, keepdim=True)
        return x * torch.rsqrt(power + 1e-6).to(x.dtype) * self.weight[:, None, None].to(x.dtype)


class Block(nn.Module):
    """Residual block: x + conv(SiLU(a * conv(norm(x)) + b)), with a and b from the clock features."""

    def __init__(self, channels: int, clock_features: int):
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.conv1 = Conv(channels, channels)
        self.clock = nn.Linear(clock_features, 2 * channels)
        self.conv2 = Conv(channels, channels)

    def forward(self, x: Tensor, clock: Tensor) -> Tensor:
        gain, shift = self.clock(clock)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(self.norm(x)) * (1 + gain) + shift
        return x + self.conv2(F.silu(h))


class ResidualUNet(nn.Module):
    """UNet with `levels` halvings below the 2 x 2 stem; features double once per halving up to four times the base.

    forward(states (B, T, C, H, W), forcing (B, F, H, W), clock (B, K)) -> (B, C, H, W): the change in units of
    `scale` (C,), which is the standard deviation of the change over one step in units of the state (Lam et al. 2023,
    GraphCast, eq. 19), for any H and W. T = 1 + history states in order of time, the last is now. The input is padded
    by repeating its edge to a multiple of 2**(levels + 1) and the output cropped back. Upsampling is bilinear with a
    convolution. (A pixel shuffle with ICNR weights as the last one starts without a checkerboard and learns one: after
    24 steps the winds had a line of period 2 of 12 dB; docs/ablation.md.)
    """

    def __init__(
        self,
        channels: int,
        forcing: int,
        clock: int,
        base_features: int = 40,
        levels: int = 2,
        blocks: int = 2,
        history: int = 1,
        scale: Tensor | None = None,
    ):
        super().__init__()
        self.register_buffer("scale", torch.ones(channels) if scale is None else scale.flatten().clone())
        widths = [base_features * min(2**i, 4) for i in range(levels + 1)]
        self.multiple = 2 ** (levels + 1)
        hidden = 4 * clock
        self.clock = nn.Sequential(nn.Linear(clock, hidden), nn.SiLU())
        self.stem = Conv(channels * (1 + history) + forcing, widths[0], kernel=4, stride=2)
        self.encoder, self.down, self.up, self.decoder = (nn.ModuleList() for _ in range(4))
        for i, width in enumerate(widths):
            self.encoder.append(nn.ModuleList(Block(width, hidden) for _ in range(blocks)))
            if i < levels:
                self.down.append(Conv(width, widths[i + 1], stride=2))
                self.up.append(Conv(widths[i + 1], width))
                self.decoder.append(nn.ModuleList(Block(width, hidden) for _ in range(blocks)))
        # the flow is smooth: it is given on cells of 4 x 4 (of 2 x 2 where there is no such level)
        self.flow_level = min(1, levels)
        self.flow_norm = ChannelNorm(widths[self.flow_level])
        self.flow_head = Conv(widths[self.flow_level], 2 * channels).zero()
        self.norm = ChannelNorm(widths[0])
        self.expand = Conv(widths[0], THIN)
        self.refine = nn.ModuleList([Conv(2 * channels + THIN, 2 * THIN), Conv(2 * THIN, 2 * THIN)])
        self.head = Conv(2 * THIN, channels).zero()

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The weight matrices between hidden features, which Muon trains; not those at the input and the outputs."""
        rooms = (self.encoder, self.down, self.up, self.decoder, self.refine)
        return [p for room in rooms for m in room.modules() if isinstance(m, Conv) for p in [m.weight]]

    def widen(self, x: Tensor) -> Tensor:
        """Features on cells of 2 x 2 to a few at full resolution."""
        return F.interpolate(self.expand(x), scale_factor=2, mode="bilinear", align_corners=False)

    def forward(self, states: Tensor, forcing: Tensor, clock: Tensor) -> Tensor:
        H, W = states.shape[-2:]
        now, scale = states[:, -1], self.scale[:, None, None]
        features = self.clock(clock)
        changes = (states[:, 1:] - states[:, :-1]) / scale
        x = torch.cat([now, changes.flatten(1, 2), forcing], dim=1)
        x = F.pad(x, (0, -W % self.multiple, 0, -H % self.multiple), mode="replicate")
        x = self.stem(x)
        skips, flow = [], None
        for i, blocks in enumerate(self.encoder):
            for block in blocks:
                x = block(x, features)
            if i < len(self.down):
                skips.append(x)
                x = self.down[i](x)
        for i in reversed(range(len(self.up) + 1)):
            if i < len(self.up):
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
                x = self.up[i](x) + skips.pop()  # a sum costs less memory than a concatenation
                for block in self.decoder[i]:
                    x = block(x, features)
            if i == self.flow_level:
                flow = self.flow_head(F.silu(self.flow_norm(x))).float()
                flow = F.interpolate(flow, scale_factor=2 ** (i + 1), mode="bilinear", align_corners=False)
        base = warp(now, flow[..., :H, :W].unflatten(1, (2, -1)))
        x = self.widen(F.silu(self.norm(x)))[..., :H, :W]
        carried = (base - now) / scale
        x = F.silu(self.refine[0](torch.cat([x, base, carried], dim=1)))
        x = x + F.silu(self.refine[1](x))
        return carried + self.head(x).float()
