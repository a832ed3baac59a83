"""Reflectivity carried on with the motion it had: placeholder, one displacement for the whole field."""

import numpy as np


def extrapolate(frames: np.ndarray, steps: int) -> np.ndarray:
    """The last of `frames` (n, y, x) in dBZ, oldest first, moved on by `steps` steps: (steps, y, x).

    The displacement of one step, in whole cells, is where the correlation of the last two frames is highest.
    """
    before, now = (np.nan_to_num(f, nan=0.0).clip(0) for f in frames[-2:])
    match = np.fft.irfft2(np.fft.rfft2(now) * np.fft.rfft2(before).conj(), s=now.shape)
    dy, dx = np.unravel_index(match.argmax(), match.shape)
    dy, dx = ((d + n // 2) % n - n // 2 for d, n in ((dy, now.shape[0]), (dx, now.shape[1])))
    out = np.zeros((steps, *now.shape), np.float32)
    for k in range(steps):
        y, x = (k + 1) * dy, (k + 1) * dx
        h, w = (max(n - abs(d), 0) for n, d in ((now.shape[0], y), (now.shape[1], x)))
        if h and w:
            out[k, max(y, 0) : max(y, 0) + h, max(x, 0) : max(x, 0) + w] = now[
                max(-y, 0) : max(-y, 0) + h, max(-x, 0) : max(-x, 0) + w
            ]
    return np.where(np.isnan(frames[-1]), np.nan, out)
