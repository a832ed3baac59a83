"""A residual UNet: state and forcing in, tendency out.

The forecast residual is the tendency: x(t + lead) = x(t) + scale * model(x(t), forcing). The last layer
starts at zero, so the untrained model is exactly persistence. Nothing here knows what a channel means.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution that repeats the edge cells instead of padding with zeros: a frame of zeros would be seen
    by the network as a coast of constant weather and shows in the forecast."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, padding_mode="replicate")


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
        self.conv1 = conv(channels, channels)
        self.clock = nn.Linear(clock_features, 2 * channels)
        self.conv2 = conv(channels, channels)

    def forward(self, x: Tensor, clock: Tensor) -> Tensor:
        gain, shift = self.clock(clock)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(self.norm(x)) * (1 + gain) + shift
        return x + self.conv2(F.silu(h))


class ResidualUNet(nn.Module):
    """UNet with `levels` halvings; features double once per halving up to four times the base.

    forward(state (B, C, H, W), forcing (B, F, H, W), clock (B, K)) -> tendency (B, C, H, W), for any H and W:
    the input is padded by repeating its edge to a multiple of 2**levels and the output cropped back.
    Upsampling is bilinear followed by a 3 x 3 convolution, which has no checkerboard.
    """

    def __init__(
        self, channels: int, forcing: int, clock: int, base_features: int = 40, levels: int = 3, blocks: int = 2
    ):
        super().__init__()
        widths = [base_features * min(2**i, 4) for i in range(levels + 1)]
        self.multiple = 2**levels
        hidden = 4 * clock
        self.clock = nn.Sequential(nn.Linear(clock, hidden), nn.SiLU())
        self.stem = conv(channels + forcing, widths[0])
        self.encoder, self.down, self.up, self.decoder = (nn.ModuleList() for _ in range(4))
        for i, width in enumerate(widths):
            self.encoder.append(nn.ModuleList(Block(width, hidden) for _ in range(blocks)))
            if i < levels:
                self.down.append(conv(width, widths[i + 1], stride=2))
                self.up.append(conv(widths[i + 1], width))
                self.decoder.append(nn.ModuleList(Block(width, hidden) for _ in range(blocks)))
        self.norm = ChannelNorm(widths[0])
        self.head = conv(widths[0], channels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, state: Tensor, forcing: Tensor, clock: Tensor) -> Tensor:
        H, W = state.shape[-2:]
        features = self.clock(clock)
        x = torch.cat([state, forcing], dim=1)
        x = F.pad(x, (0, -W % self.multiple, 0, -H % self.multiple), mode="replicate")
        x = self.stem(x)
        skips = []
        for i, blocks in enumerate(self.encoder):
            for block in blocks:
                x = block(x, features)
            if i < len(self.down):
                skips.append(x)
                x = self.down[i](x)
        for i in reversed(range(len(self.up))):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = self.up[i](x) + skips.pop()  # a sum costs less memory than a concatenation
            for block in self.decoder[i]:
                x = block(x, features)
        return self.head(F.silu(self.norm(x)))[..., :H, :W]
