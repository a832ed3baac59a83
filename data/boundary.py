"""Boundary data: the edge of the domain from another store, as limited-area models have it (Davies 1976); and what
takes its place where there is none, the day before."""

import numpy as np
import torch
from torch import Tensor

from data.dataset import Hours, stack
from data.grid import same_grid
from data.normalise import Statistics, normalise
from data.store import Store
from data.times import hours_of, show

WIDTH = 25  # cells of the strip; on small domains at most 8 % of the shorter side
DAY = np.timedelta64(24, "h")


class Boundary:
    """A strip along the edge in which a forecast is drawn towards the hours of a boundary store:

        x <- (1 - w) x + w x_boundary,   w = cos^2(pi d / 2N)

    d cells from the edge, 0 at the outermost, N = min(25, 8 % of the shorter side) cells wide. ValueError where the
    store has another grid or lacks a variable. The store may be the truth itself: a perfect boundary.
    """

    def __init__(self, path: str, store: Store, statistics: Statistics, mask: Tensor | None):
        self.path, self.store = path, Store(path)
        self.statistics, self.mask = statistics, mask
        names = self.store.choose(list(statistics.names))
        if not same_grid(self.store.grid, store.grid):
            raise ValueError(
                f"boundary: got {path} with the grid {self.store.grid.shape}, expected the cells of {store.path}, "
                f"{store.grid.shape}. Fix: interpolate the boundary store to this grid"
            )
        self.hours = Hours(self.store, names, None if mask is None else mask.cpu(), 1.0)
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

    def fields(self, times: np.ndarray, lead: np.timedelta64, steps: int) -> list[Tensor]:
        """For each step k the boundary store's fields (B, C, H, W) in physical units at times + (k + 1) * lead."""
        return [stack([self.hours(t + (k + 1) * lead) for t in times]) for k in range(steps)]

    def nudge(self, state: Tensor, boundary: Tensor) -> Tensor:
        """Draw a state (B, C, H, W) towards the boundary's state in the strip."""
        return state + self.weight * (boundary - state)

    def draw(self, state: Tensor, times: np.ndarray, lead: np.timedelta64, k: int) -> Tensor:
        """The normalised state (B, C, H, W) after step k of forecasts from `times`, drawn to this boundary."""
        fields = self.fields(times + k * lead, lead, 1)[0].to(state.device)
        return self.nudge(state, normalise(fields, self.statistics, self.mask))


class Yesterday:
    """The edge of a forecast that has no boundary data: drawn, as by `Boundary`, towards the same hour of the last day
    before the initial time. That is not the weather which comes in, but it is weather: detail that moves and knows the
    hour of the day, where a forecast that is left to itself fades from the edge inwards. At first it knows better, so
    it is left alone for some hours; after that it is drawn with full weight, since the mean of two fields of storms has
    less of them than either. Nothing later than the initial time is used. A forecast for which the store lacks one of
    the hours goes without.

    hours: of the store that the forecasts start from; steps: of a forecast; alone: how long it is left alone, h;
    free (C,) bool: the variables that are drawn, not held (train_restrain.py).
    """

    def __init__(self, hours: Hours, statistics: Statistics, mask: Tensor | None, lead: np.timedelta64, steps: int,
                 alone: float, free: Tensor):  # fmt: skip
        self.hours, self.statistics, self.mask, self.after = hours, statistics, mask, alone
        self.weight = davies(hours.store.grid.shape).to(free.device) * free[:, None, None]
        leads = lead * np.arange(1, steps + 1)
        late = [ahead - -(-ahead // DAY) * DAY for ahead in leads if hours_of(ahead) > alone]  # (-24 h, 0] of the start
        self.alone, self.before = steps - len(late), late

    def known(self, times: np.ndarray) -> np.ndarray:
        """(B,) bool: the initial times whose forecasts are drawn: the store has the hours for them."""
        if not self.before:
            return np.zeros(len(times), bool)
        return np.isin(np.add.outer(times, np.unique(self.before)), self.hours.store.times).all(axis=1)

    def draw(self, state: Tensor, times: np.ndarray, lead: np.timedelta64, k: int) -> Tensor:
        """As `Boundary.draw`. ValueError for an hour that cannot be read."""
        drawn = np.flatnonzero(self.known(times)) if k >= self.alone else []
        if len(drawn) == 0:
            return state
        try:
            fields = stack([self.hours(times[i] + self.before[k - self.alone]) for i in drawn]).to(state.device)
        except ValueError as error:
            why = "an hour of the day before a forecast, for its edge; --yesterday False goes without"
            raise ValueError(f"{error} ({why})") from error
        fields, out = normalise(fields, self.statistics, self.mask), state.clone()
        out[drawn] += self.weight * (fields - state[drawn])
        return out


def davies(shape: tuple[int, int]) -> Tensor:
    """The weight of the boundary (H, W): 1 in the outermost cells, 0 from the inner end of the strip on."""
    width = max(1, min(WIDTH, int(0.08 * min(shape))))
    y, x = (torch.arange(n) for n in shape)
    distance = torch.minimum(
        torch.minimum(y, shape[0] - 1 - y)[:, None], torch.minimum(x, shape[1] - 1 - x)[None, :]
    ).clamp(max=width)
    return torch.cos(torch.pi * distance / (2 * width)).square().float()
