"""Optical-flow extrapolation of reflectivity: the baseline that moves what is there and changes nothing else.

    motion(frames)             (2, y, x), cells per frame
    extrapolate(frames, 3)     (3, y, x), the last frame carried on along its motion

Our own motion is sought from coarse to fine: one displacement for the whole domain by correlation, then iterated
Lucas-Kanade (Lucas and Kanade 1981) over all pairs of frames at once. Transport is backward semi-Lagrangian with a
steady motion (Germann and Zawadzki 2002, Mon. Wea. Rev. 130, 2859-2873). For air that comes from where nothing is
known there is one rule: from beyond the domain the nearest edge cell is taken, from a gap in the data the cell keeps
its analysis. So a forecast lacks no cell that persistence has.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR, CEILING = 5.0, 60.0  # dBZ, weaker echo counts as none and stronger as this while motion is sought
FASTEST = 30.0  # m s-1, the fastest motion of storms
SMALLEST = 8  # cells, shorter side of the coarsest grid
FINEST = 768  # cells, longer side of the finest grid on which motion is sought
WINDOW = 3.0  # cells of each grid, standard deviation of the Gaussian within which motion is taken as one
PASSES = 4  # of Lucas-Kanade on each grid
TIE = 0.3  # (dBZ per cell)^2, where squared gradients are weaker than this the motion stays that of its surroundings
ODD = 2.0  # root mean square changes; a larger change between frames (growth, decay) counts for little
TRAJECTORY_PASSES = 2  # to find the motion in the middle of a step, from that of the step before


def reach_of(step: np.timedelta64, spacing: float) -> float:
    """The fastest motion in cells per frame, for frames `step` apart and cells `spacing` (m) wide."""
    return max(2.0, FASTEST * float(step / np.timedelta64(1, "s")) / spacing)


def extrapolate(frames: np.ndarray, steps: int, reach: float = 16.0) -> np.ndarray:
    """The last of `frames` at 1..steps frame intervals later, (steps, y, x) float32.

    frames (n, y, x) in dBZ at equal intervals, oldest first, the last is the analysis; NaN where nothing is known.
    reach: the fastest motion in cells per frame. Without anything that moves (one frame, no echo, a constant field)
    the result is persistence.
    """
    frames = np.asarray(frames, np.float32)
    if frames.ndim != 3 or not len(frames) or steps < 1:
        raise ValueError(f"expected frames (n, y, x) and steps >= 1, got shape {frames.shape} and steps = {steps}")
    return transport(frames[-1], motion(frames, reach), steps)


def motion(frames: np.ndarray, reach: float = 16.0) -> np.ndarray:
    """Motion (2, y, x) float32 in cells per frame, along rows (down) and columns (right); frames as `extrapolate`.

    Only the latest frames without a featureless one between them are used; zero where fewer than two are left.
    """
    fields = torch.as_tensor(np.asarray(frames, np.float32))
    known = fields.isfinite()
    echo = torch.where(known, fields.clamp(FLOOR, CEILING) - FLOOR, 0.0)
    highest = torch.where(known, echo, -torch.inf).amax((1, 2))
    lowest = torch.where(known, echo, torch.inf).amin((1, 2))
    featureless = (~(highest > lowest)).nonzero().flatten().tolist()
    first = featureless[-1] + 1 if featureless else 0
    if len(fields) - first < 2:
        return np.zeros((2, *fields.shape[1:]), np.float32)
    return _find_motion(echo[first:], known[first:].float(), reach).numpy()


def transport(analysis: np.ndarray, flow: np.ndarray, steps: int) -> np.ndarray:
    """The analysis (y, x) carried for 1..steps frames by a steady flow (2, y, x) in cells per frame, (steps, y, x).

    The foot of each trajectory goes back step by step, with the motion at the middle of each step; the analysis is
    interpolated (bilinearly) only once, at the foot, so that it is not blurred anew with every step.
    """
    analysis, flow = torch.as_tensor(analysis), torch.as_tensor(flow)
    known = analysis.isfinite()
    filled = torch.where(known, analysis, 0.0)
    foot, step, forecasts = torch.zeros_like(flow), flow, []
    for _ in range(steps):
        for _ in range(TRAJECTORY_PASSES):
            step = _sample(flow, foot - step / 2)
        foot = foot - step
        whole = _sample(known.float(), foot) > 1 - 1e-4  # all cells that the interpolation mixes are known
        value = torch.where(whole, _sample(filled, foot), _sample(filled, foot, "nearest"))
        forecasts.append(torch.where(_sample(known.float(), foot, "nearest") > 0.5, value, analysis))
    return torch.stack(forecasts).numpy()


def _find_motion(echo: Tensor, known: Tensor, reach: float) -> Tensor:
    """echo (n, y, x) in dBZ above FLOOR, known (n, y, x) 0 or 1 -> motion (2, y, x) in cells per frame."""
    H, W = echo.shape[1:]
    coarsest = max(0, int(math.log2(min(H, W) / SMALLEST)))
    finest = min(coarsest, max(0, math.ceil(math.log2(max(H, W) / FINEST))))
    pad = (0, -W % 2**coarsest, 0, -H % 2**coarsest)
    grids = [torch.stack([F.pad(echo, pad), F.pad(known, pad)])]  # (2, n, y, x)
    for _ in range(coarsest):
        grids.append(F.avg_pool2d(grids[-1], 2))
    level = max(finest, min(1, coarsest))
    shift = _whole_displacement(*grids[level], reach / 2**level) * 2.0 ** (level - coarsest)
    flow = shift[:, None, None].expand(2, *grids[-1].shape[2:])
    for level in range(coarsest, finest - 1, -1):
        if level < coarsest:
            flow = 2 * F.interpolate(flow[None], scale_factor=2, mode="bilinear")[0]
        for _ in range(PASSES):
            flow = _lucas_kanade(*grids[level], flow).clamp(-reach / 2**level, reach / 2**level)
    if finest:
        flow = 2**finest * F.interpolate(flow[None], scale_factor=2**finest, mode="bilinear")[0]
    return flow[:, :H, :W]


def _whole_displacement(echo: Tensor, known: Tensor, reach: float) -> Tensor:
    """The whole-cell displacement (row, column) per frame, up to `reach`, at which successive frames correlate most."""
    H, W = echo.shape[1:]
    mean = (echo * known).sum((1, 2), keepdim=True) / known.sum((1, 2), keepdim=True)
    spectrum = torch.fft.rfft2((echo - mean) * known, s=(2 * H, 2 * W))
    correlation = torch.fft.irfft2((spectrum[:-1].conj() * spectrum[1:]).sum(0), s=(2 * H, 2 * W))
    ry, rx = min(int(reach), H // 2), min(int(reach), W // 2)
    near = correlation.roll((ry, rx), (0, 1))[: 2 * ry + 1, : 2 * rx + 1]
    row, column = divmod(int(near.argmax()), 2 * rx + 1)
    return torch.tensor([row - ry, column - rx], dtype=torch.float32)


def _lucas_kanade(echo: Tensor, known: Tensor, flow: Tensor) -> Tensor:
    """A better flow (2, y, x) from all pairs of frames (n, y, x), each moved half way towards the other."""
    known = -F.max_pool2d(-known, 3, stride=1, padding=1)  # gradients beside a gap are not the weather's
    before, after = _sample(echo[:-1], -flow / 2), _sample(echo[1:], flow / 2)
    weight = _sample(known[:-1], -flow / 2, padding="zeros") * _sample(known[1:], flow / 2, padding="zeros")
    change = after - before
    odd = ODD * (weight * change.square()).sum().div(weight.sum() + 1e-6).sqrt() + 1e-3
    weight = weight / (1 + (change / odd) ** 2)
    gy, gx = torch.gradient((before + after) / 2, dim=(1, 2))
    target = gy * flow[0] + gx * flow[1] - change  # what the gradients times the flow should be
    products = torch.stack([gy * gy, gy * gx, gx * gx, gy * target, gx * target])
    a, b, c, p, q = _smooth((weight * products).mean(1), WINDOW)
    trust = (a + c + 1e-3)[None]
    around = _smooth(flow * trust, 2 * WINDOW) / _smooth(trust, 2 * WINDOW)
    a, c, p, q = a + TIE, c + TIE, p + TIE * around[0], q + TIE * around[1]
    return torch.stack([c * p - b * q, a * q - b * p]) / (a * c - b * b)


def _smooth(fields: Tensor, sigma: float) -> Tensor:
    """Gaussian mean of (n, y, x) over the cells that the domain has."""
    radius = math.ceil(2.5 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    sums = torch.cat([fields, torch.ones_like(fields[:1])])[:, None]
    sums = F.conv2d(sums, kernel.view(1, 1, -1, 1), padding=(radius, 0))
    sums = F.conv2d(sums, kernel.view(1, 1, 1, -1), padding=(0, radius))[:, 0]
    return sums[:-1] / sums[-1:]


def _sample(fields: Tensor, shift: Tensor, mode: str = "bilinear", padding: str = "border") -> Tensor:
    """fields (..., y, x) at each cell's place plus shift (2, y, x) in cells; beyond the domain the edge, or zeros."""
    H, W = shift.shape[1:]
    y, x = torch.arange(H)[:, None] + shift[0], torch.arange(W)[None] + shift[1]
    places = torch.stack([(2 * x + 1) / W - 1, (2 * y + 1) / H - 1], dim=-1)[None]
    flat = fields.reshape(1, -1, H, W)
    return F.grid_sample(flat, places, mode, padding, align_corners=False).reshape(fields.shape)
