"""Boundary data: the edge of the domain from another store, as limited-area models have it (Davies 1976)."""

import numpy as np
import torch
from torch import Tensor

from data.grid import same_grid
from data.hours import Hours
from data.normalise import Statistics
from data.store import Store
from data.times import show

WIDTH = 25  # cells of the strip; on small domains at most 8 % of the shorter side


class Boundary:
    """A strip along the edge in which a forecast is drawn towards the hours of a boundary store:

        x <- (1 - w) x + w x_boundary,   w = cos^2(pi d / 2N)

    d cells from the edge, 0 at the outermost, N = min(25, 8 % of the shorter side) cells wide. ValueError for a
    store on another grid or without a variable. The store may be the truth itself: a perfect boundary.
    """

    def __init__(self, path: str, store: Store, statistics: Statistics, mask: Tensor | None, room: int = 10**9):
        self.path, self.store = path, Store(path)
        names = self.store.choose(list(statistics.names))
        if not same_grid(self.store.grid, store.grid):
            raise ValueError(
                f"boundary: got {path} with the grid {self.store.grid.shape}, expected the cells of {store.path}, "
                f"{store.grid.shape}. Fix: interpolate the boundary store to this grid"
            )
        self.hours = Hours(self.store, names, statistics, mask, room)
        self.weight = davies(store.grid.shape).to(statistics.mean.device)

    def refuse_missing(self, times: np.ndarray, lead: np.timedelta64, steps: int, fix: str) -> None:
        """ValueError where the store lacks an hour that forecasts of so many steps from `times` reach."""
        needed = np.unique(np.add.outer(times, np.arange(1, steps + 1) * lead))
        missing = needed[~np.isin(needed, self.store.times)]
        if len(missing):
            raise ValueError(
                f"boundary: {self.path} has no {show(missing[0])}, expected every hour that a forecast reaches "
                f"({len(missing)} of {len(needed)} are missing). Fix: {fix}"
            )

    def fields(self, times: np.ndarray) -> Tensor:
        """The boundary store's normalised fields (B, C, H, W) at `times`."""
        return torch.stack([self.hours(t) for t in times])

    def nudge(self, state: Tensor, boundary: Tensor) -> Tensor:
        """Draw a state (B, C, H, W) towards the boundary's state in the strip."""
        return state + self.weight * (boundary - state)


def davies(shape: tuple[int, int]) -> Tensor:
    """The weight of the boundary (H, W): 1 in the outermost cells, 0 from the inner end of the strip on."""
    width = max(1, min(WIDTH, int(0.08 * min(shape))))
    y, x = (torch.arange(n) for n in shape)
    distance = torch.minimum(
        torch.minimum(y, shape[0] - 1 - y)[:, None], torch.minimum(x, shape[1] - 1 - x)[None, :]
    ).clamp(max=width)
    return torch.cos(torch.pi * distance / (2 * width)).square().float()
