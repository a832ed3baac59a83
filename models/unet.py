"""A residual UNet: the last hours and forcing in, the change over one step out.

    x(t + lead) = x(t) + scale * model(...)        scale * model(...) = [transport(x(t)) - x(t)] + scale * tendency

Transport and tendency come from one network and both start at zero, so the untrained model is exactly persistence.
The UNet works on cells of 2 x 2, where features are cheap; a thin refinement at full resolution, which sees the
transported fields, adds what a coarse grid cannot say. Nothing here knows what a channel means.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.layers import Block, ChannelNorm, Conv, enlarge, half, repeat_edge
from models.regression import regress
from models.warp import warp

THIN = 8  # features of the refinement at full resolution
REACH = 3  # rows that its three convolutions see on either side
BAND = 64  # rows of it that are computed together in lean mode


class ResidualUNet(nn.Module):
    """UNet with `levels` halvings below the 2 x 2 stem; features double once per halving up to four times the base.
    `blocks` residual blocks stand on the coarsest cells, where they are cheap in time and memory and see far, and one
    on each finer level on either way.

    forward(states (B, T, C, H, W), forcing (B, F, H, W), clock (B, K)) -> (B, C, H, W): the change in units of
    `scale` (C,), which is the standard deviation of the change over one step in units of the state (Lam et al. 2023,
    GraphCast, eq. 19), for any H and W. T = 1 + history states in order of time, the last is now. The input is padded
    by repeating its edge to a multiple of 2**(levels + 1) and the output cropped back; `offset` (y, x) says how many of
    the padded cells lie above and to the left, where not none: training draws it, so that no place in a coarse cell is
    like another and lines of their width have nothing to feed on. Upsampling is bilinear with a convolution. (A pixel
    shuffle with ICNR weights as the last one starts without a checkerboard and learns one: after 24 steps the winds had
    a line of period 2 of 12 dB; docs/ablation.md.)
    """

    def __init__(
        self,
        channels: int,
        forcing: int,
        clock: int,
        base_features: int = 40,
        levels: int = 2,
        blocks: int = 4,
        history: int = 1,
        scale: Tensor | None = None,
        lean: bool = False,
        regression: bool = False,
    ):
        super().__init__()
        self.lean = lean
        self.register_buffer("scale", torch.ones(channels) if scale is None else scale.flatten().clone())
        # a part of the tendency that needs no network; its weights are fitted before training (models/regression.py)
        self.register_buffer("regression", torch.zeros(channels, 1 + history) if regression else None)
        widths = [base_features * min(2**i, 4) for i in range(levels + 1)]
        self.multiple = 2 ** (levels + 1)
        hidden = 4 * clock
        self.clock = nn.Sequential(nn.Linear(clock, hidden), nn.SiLU())
        self.stem = Conv(channels * (1 + history) + forcing, widths[0], kernel=4, stride=2)
        self.encoder, self.down, self.up, self.decoder = (nn.ModuleList() for _ in range(4))
        for i, width in enumerate(widths):
            self.encoder.append(nn.ModuleList(Block(width, hidden) for _ in range(1 if i < levels else blocks)))
            if i < levels:
                self.down.append(Conv(width, widths[i + 1], stride=2))
                self.up.append(Conv(widths[i + 1], width))
                self.decoder.append(Block(width, hidden))
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

    def forward(self, states: Tensor, forcing: Tensor, clock: Tensor, offset: tuple[int, int] = (0, 0)) -> Tensor:
        now, stage = states[:, -1], again if self.lean and torch.is_grad_enabled() else at_once
        cells = tuple(slice(o, o + n) for o, n in zip(offset, now.shape[-2:], strict=True))
        features = self.clock(clock)
        x = stage(self.read, states, forcing, offset)
        skips, flow = [], None
        for i, blocks in enumerate(self.encoder):
            for block in blocks:
                x = stage(block, x, features)
            if i < len(self.down):
                skips.append(x)
                x = stage(self.down[i], x)
        for i in reversed(range(len(self.up) + 1)):
            if i < len(self.up):
                x = stage(self.rise, self.up[i], x) + skips.pop()  # a sum costs less memory than a concatenation
                x = stage(self.decoder[i], x, features)
            if i == self.flow_level:
                flow = stage(self.steer, x)
        carried = self.carry(now, flow, cells, stage)
        if self.regression is not None:
            carried = carried + regress(states, self.regression)
        x = stage(self.widen, x)[..., cells[0], cells[1]]
        return carried + self.finish(x, now, carried, stage)

    def read(self, states: Tensor, forcing: Tensor, offset: tuple[int, int]) -> Tensor:
        """The state now, the changes up to it and the forcing to features on cells of 2 x 2."""
        (H, W), (top, left) = states.shape[-2:], offset
        changes = (states[:, 1:] - states[:, :-1]) / self.scale[:, None, None]
        # in half precision before they are joined, not after it, as the stem would
        x = torch.cat([half(part) for part in (states[:, -1], changes.flatten(1, 2), forcing)], dim=1)
        x = self.stem(repeat_edge(x, left, -(left + W) % self.multiple, top, -(top + H) % self.multiple))
        return x.contiguous(memory_format=torch.channels_last)  # and so all features after it: a step takes 5 % less

    def rise(self, conv: Conv, x: Tensor) -> Tensor:
        """Features of one level on the cells of the level above."""
        return enlarge(conv(x), 2)

    def steer(self, x: Tensor) -> Tensor:
        """Features to the flow (B, 2, C, h, w) on their cells, float32."""
        return self.flow_head(F.silu(self.flow_norm(x))).float().unflatten(1, (2, -1))

    def carry(self, now: Tensor, flow: Tensor, cells: tuple[slice, slice], stage) -> Tensor:
        """The change (B, C, H, W) by transport alone, in units of `scale`; `cells`: where the domain lies in the padded
        one."""

        def moved(now: Tensor, flow: Tensor, scale: Tensor) -> Tensor:
            fine = flow.flatten(1, 2)
            for _ in range(self.flow_level + 1):  # by twos: rounder than at once, whose kinks show as lines
                fine = enlarge(fine, 2)
            return (warp(now, fine[..., cells[0], cells[1]].unflatten(1, (2, -1))) - now) / scale

        channels = [slice(c, c + 1) for c in range(now.shape[1])] if self.lean else [slice(None)]
        scale = self.scale[:, None, None]
        parts = [stage(moved, now[:, c], flow[:, :, c], scale[c]) for c in channels]
        return torch.cat(parts, dim=1) if self.lean else parts[0]

    def widen(self, x: Tensor) -> Tensor:
        """Features on cells of 2 x 2 to a few at full resolution."""
        return enlarge(self.expand(F.silu(self.norm(x))), 2)

    def finish(self, x: Tensor, now: Tensor, carried: Tensor, stage) -> Tensor:
        """The tendency (B, C, H, W) that the refinement adds to transport, in units of `scale`.

        In lean mode band by band: each is computed with the REACH rows on either side that its convolutions see."""
        scale = self.scale[:, None, None]

        def refined(x: Tensor, now: Tensor, carried: Tensor) -> Tensor:
            x = F.silu(self.refine[0](torch.cat([x, now + carried * scale, carried], dim=1)))
            x = x + F.silu(self.refine[1](x))
            return self.head(x).float()

        if not self.lean:
            return refined(x, now, carried)

        def joined(*pieces: Tensor | None) -> Tensor:  # within the stage, so that the copies are not kept
            return refined(*(torch.cat([p for p in pieces[i : i + 3] if p is not None], dim=-2) for i in (0, 3, 6)))

        parts = []
        for pieces in zip(*(bands(f) for f in (x, now, carried)), strict=True):
            above = REACH if parts else 0
            parts.append(stage(joined, *sum(pieces, ()))[..., above : above + BAND, :])
        return torch.cat(parts, dim=-2)


def bands(x: Tensor) -> list[tuple[Tensor | None, Tensor, Tensor | None]]:
    """x (B, C, H, W) cut into bands of BAND rows, each between the REACH rows above and below it (None at the edge).

    Not overlapping slices of x: the gradient of each would be a full field."""
    parts = x.split(BAND, dim=-2)
    above = [None, *(p[..., -REACH:, :] for p in parts[:-1])]
    below = [*(p[..., :REACH, :] for p in parts[1:]), None]
    return list(zip(above, parts, below, strict=True))


def at_once(function, *args):
    return function(*args)


def again(function, *args):
    """function(*args), which keeps nothing for the backward pass but its arguments: it is computed again there."""
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
