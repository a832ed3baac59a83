"""A residual UNet: the last hours and forcing in, the change over one step out.

    x(t + lead) = x(t) + scale * model(...)        scale * model(...) = [advect(x(t)) - x(t)] + scale * tendency

Transport and tendency come from one network and both start at zero, so the untrained model is persistence. The UNet
works on cells of 2 x 2, where features are cheap. Nothing here knows what a channel means.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.layers import Block, Unfold, advect, aligned, frame, join, precision, upsample
from models.regression import regress

BLOCKS = 4  # residual blocks on the coarsest cells, where they are cheap and see far
WIDEST = 4  # features of a level: base_features times 2**level, at most so many times the base


class ResidualUNet(nn.Module):
    """UNet with `levels` halvings below a stem of 2 x 2 cells.

    forward(states (B, T, C, H, W), forcing (B, F, H, W), clock (B, K)) -> (B, C, H, W), float32: the change in units
    of `scale` (C,), the standard deviation of the change over one step in units of the state (Lam et al. 2023,
    GraphCast, eq. 19). T = 1 + history states in order of time, the last is now. Any H and W: the input is padded to a
    multiple of 2**(levels + 1) by repeating its edge, and the output is cropped.

    lean: backward passes compute the five segments of the network again instead of keeping their features.
    regression: add a linear regression on the states (models/regression.py), whose weights are fitted before training.
    """

    def __init__(
        self, channels: int, forcing: int, clock: int, base_features: int = 40, levels: int = 2, history: int = 1,
        scale: Tensor | None = None, lean: bool = False, regression: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.levels, self.lean, self.multiple = levels, lean, 2 ** (levels + 1)
        self.register_buffer("scale", torch.ones(channels, 1, 1) if scale is None else scale.reshape(-1, 1, 1).clone())
        self.register_buffer("regression", torch.zeros(channels, 1 + history) if regression else None)
        widths = [base_features * min(2**i, WIDEST) for i in range(levels + 1)]
        self.stem = nn.Conv2d(aligned(channels * (1 + history) + forcing), widths[0], 4, stride=2, padding=1)
        self.encoder = nn.ModuleList(Block(w) for w in widths[:-1])
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.bottom = nn.ModuleList(Block(widths[-1], normed=True) for _ in range(BLOCKS))
        self.up = nn.ModuleList(nn.Conv2d(b, a, 3, padding=1) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList(Block(w) for w in widths[:-1])
        # the flow is smooth: it is given on cells of 4 x 4 (of 2 x 2 where there is no such level)
        self.flow_level = min(1, levels)
        self.flow = nn.Conv2d(widths[self.flow_level], aligned(2 * channels), 3, padding=1)
        nn.init.zeros_(self.flow.weight)
        nn.init.zeros_(self.flow.bias)
        # the tendency sees the state and its change by transport, folded into cells of 2 x 2
        self.fold = nn.Conv2d(aligned(2 * channels), widths[0], 4, stride=2, padding=1)
        self.mix = nn.Conv2d(widths[0], widths[0], 3, padding=1)
        self.head = Unfold(widths[0], channels)
        # the shifts of all blocks in one product
        self.shifts = widths[:-1] + [widths[-1]] * BLOCKS + widths[-2::-1]
        self.clock = nn.Sequential(nn.Linear(clock, 4 * clock), nn.SiLU(), nn.Linear(4 * clock, sum(self.shifts)))

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The weights between hidden features, which Muon trains; not those at the input and the outputs."""
        parts = (self.encoder, self.down, self.bottom, self.up, self.decoder, self.mix)
        return [m.weight for part in parts for m in part.modules() if isinstance(m, nn.Conv2d)]

    def forward(self, states: Tensor, forcing: Tensor, clock: Tensor) -> Tensor:
        H, W = states.shape[-2:]
        dtype, recompute = precision(self.stem.weight), self.lean and torch.is_grad_enabled()
        now, inputs = self.read(states, forcing, dtype)
        shifts = self.clock(clock.to(self.stem.weight.dtype)).to(dtype)[:, :, None, None].split(self.shifts, dim=1)
        fine = segment(recompute, self.encode, inputs, shifts[0]) if self.levels else self.stem(inputs)
        del inputs
        inner = shifts[1:-1] if self.levels else shifts
        x, flow = segment(recompute, self.coarse, fine, *inner)
        if self.levels:
            x = segment(recompute, self.decode, x, fine, shifts[-1])
        change = segment(recompute, self.transport, now, flow)
        change = segment(recompute, self.refine, x, now, change)[..., :H, :W]
        return change if self.regression is None else change + regress(states, self.regression)

    def read(self, states: Tensor, forcing: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The state now (B, C, H', W') and all inputs (B, I, H', W'), in a frame of a multiple of the coarsest cell."""
        changes = (states[:, 1:] - states[:, :-1]) / self.scale
        fields = [frame(x, self.multiple) for x in (states[:, -1], changes.flatten(1, 2), forcing) if x.shape[1]]
        return fields[0], join(fields, self.stem.in_channels, dtype)

    def encode(self, inputs: Tensor, shift: Tensor) -> Tensor:
        return self.encoder[0](self.stem(inputs), shift)

    def coarse(self, x: Tensor, *shifts: Tensor) -> tuple[Tensor, Tensor]:
        """All levels on cells of 4 x 4 and coarser: features (B, C, h, w) and the flow (B, 2 C, h, w)."""
        shifts, skips = list(shifts), []
        for i, conv in enumerate(self.down):
            x = conv(x)
            if i + 1 < self.levels:
                x = self.encoder[i + 1](x, shifts.pop(0))
                skips.append(x)
        for block in self.bottom:
            x = block(x, shifts.pop(0))
        for i in reversed(range(1, self.levels)):
            x = self.decoder[i](upsample(self.up[i](x)).add_(skips.pop()), shifts.pop(0))
        return x, self.flow(F.silu(x))[:, : 2 * len(self.scale)].float()

    def decode(self, x: Tensor, fine: Tensor, shift: Tensor) -> Tensor:
        """Features on cells of 2 x 2. A sum with the skip costs less memory than a concatenation."""
        return self.decoder[0](upsample(self.up[0](x)).add_(fine), shift)

    def transport(self, now: Tensor, flow: Tensor) -> Tensor:
        """The change by transport along the flow, (B, C, H', W'), in units of `scale`."""
        # twice by two, not once by four, whose kinks show as lines
        moved = advect(now, upsample(upsample(flow)) if self.flow_level else upsample(flow))
        return (moved - now) / self.scale

    def refine(self, x: Tensor, now: Tensor, change: Tensor) -> Tensor:
        """The whole change in units of `scale`: that by transport and the tendency."""
        x = F.silu(self.fold(join([now, change], self.fold.in_channels, x.dtype)).add_(x))
        x = F.silu(self.mix(x)).add_(x)
        return change + self.head(x)


def segment(recompute: bool, function, *inputs):
    """function(*inputs); with `recompute` the backward pass keeps nothing but the inputs and computes it again."""
    if recompute:
        return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return function(*inputs)
