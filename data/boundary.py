"""Boundary data: the edge of the domain from a host model, as limited-area models have it (Davies 1976).

A host is a store of analyses or forecasts with latitudes and longitudes (data/host.py), at most 6 hours between its
times, under its own names. It is interpolated to the cells (bilinear) and to the hour (linear), in the units of the
store that it is the edge of. Winds are turned from the axes of its grid to those of the store's.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.command import fault
from data.grid import same_grid
from data.host import Host, bilinear
from data.metadata import conversion
from data.normalise import Statistics, normalise
from data.store import Store
from data.times import show
from data.variables import known, lookup

WIDTH = 25  # cells of the strip; on small domains at most 8 % of the shorter side


class Boundary:
    """A strip along the edge in which a forecast is drawn towards a host:

        x <- (1 - w) x + w x_host,   w = cos^2(pi d / 2N)

    d cells from the edge, 0 at the outermost, N = min(25, 8 % of the shorter side) cells wide. Of a host's forecasts, a
    forecast takes the newest run that starts no later than itself. The host may be the truth itself: a perfect
    boundary. Variables that the host lacks are left to the model, with a note.

    Attributes: path, names (variables that are drawn), weight (H, W) or (C, H, W). ValueError for a host without any
    of the variables, with a unit that is not known, or that does not cover the strip.
    `room`: bytes for the host's strips that stay in memory.
    """

    def __init__(self, path: str, store: Store, statistics: Statistics, mask: Tensor | None, room: int = 10**9):
        self.path, self.host, self.shape, self.room = str(path), Host(path), store.grid.shape, room
        self.perfect = Path(path).resolve() == Path(store.path).resolve()
        weight, wanted = davies(self.shape), statistics.names
        self.cells = weight.flatten().numpy().nonzero()[0]  # (S,)
        self.hidden = None if mask is None else mask.cpu().flatten(1)[:, self.cells]
        self.index, self.turn = None, None  # (4, S) of the host's cells; (S,) complex
        found = {name: self.host.name_of(name) for name in wanted}
        mine = dict(zip(wanted, store.choose(list(wanted)), strict=True))
        if not same_grid(self.host.grid, store.grid):
            self._interpolate(store)
            self._turn_winds(store, mine, found)
        self.names = [name for name in wanted if found[name]]
        if not self.names:
            raise fault(f"boundary: {path}", f"only {', '.join(self.host.names)}", f"one of {', '.join(wanted)}",
                        "name a host that has one")  # fmt: skip
        if missing := [name for name in wanted if not found[name]]:
            print(f"note: boundary data: {path} gives no {', '.join(missing)}; the model alone decides these")
            weight = weight * torch.tensor([name in self.names for name in wanted])[:, None, None]
        self.factor, self.offset = np.array([self._units(store, mine[n], found[n]) for n in self.names], np.float32).T
        self.channels = [wanted.index(n) for n in self.names]
        numbers = (t.cpu()[self.channels] for t in (statistics.mean, statistics.std, statistics.change_std))
        self.statistics = Statistics(tuple(self.names), *numbers)
        self.size, self.weight = len(wanted), weight.to(statistics.mean.device)
        self.host.choose([found[n] for n in self.names], self.statistics)
        self.runs: dict[int, int | None] = {}  # initial time -> the host's run
        self.kept: dict[tuple, np.ndarray] = {}

    def refuse_missing(self, times: np.ndarray, lead: np.timedelta64, steps: int, fix: str) -> None:
        """Choose the host's run for forecasts of so many steps from `times`; ValueError if it lacks an hour that they
        reach."""
        reached = np.add.outer(times, np.arange(1, steps + 1) * lead)
        if self.host.runs is not None:
            self.runs |= {int(t.astype("int64")): self.host.run_of(t, n) for t, n in zip(times, reached, strict=True)}
            return
        needed = np.unique(reached)
        missing = [t for t in needed if not self.host.around(None, t)]
        if missing:
            raise ValueError(
                f"boundary: {self.path} has no {show(missing[0])}, expected every hour that a forecast reaches "
                f"({len(missing)} of {len(needed)} are missing). Fix: {fix}"
            )

    def fields(self, init_times: np.ndarray, lead: np.timedelta64) -> Tensor:
        """The host's normalised fields (B, C, H, W) at one lead of forecasts from `init_times`; 0 inside the strip."""
        return torch.stack([self._state(t, t + lead) for t in init_times])

    def nudge(self, state: Tensor, boundary: Tensor) -> Tensor:
        """Draw a state (B, C, H, W) towards the boundary's state in the strip."""
        return state + self.weight * (boundary - state)

    def attributes(self, init_times: np.ndarray) -> dict:
        """The attributes of a forecast store about its boundary data."""
        runs = [self._run(t, t) for t in init_times]
        kind = "analyses" if self.host.runs is None else "forecasts"
        return {
            "boundary": self.path, "boundary_width": strip_width(self.shape), "boundary_variables": self.names,
            "boundary_kind": "the truth itself (a perfect boundary)" if self.perfect else kind,
            "boundary_runs": [] if self.host.runs is None else [show(self.host.runs[r]) for r in runs],
        }  # fmt: skip

    def _run(self, init_time: np.datetime64, time: np.datetime64) -> int | None:
        key = int(init_time.astype("datetime64[ns]").astype("int64"))
        if key not in self.runs:
            self.runs[key] = self.host.run_of(init_time, np.array([time]))
        return self.runs[key]

    def _state(self, init_time: np.datetime64, time: np.datetime64) -> Tensor:
        """(C, H, W): the host at a valid time, normalised."""
        around = self.host.around(self._run(init_time, time), time)
        if not around:
            raise fault(f"boundary: {self.path}", f"no hours around {show(time)}", "some", "name a host that has them")
        strip = torch.from_numpy(sum(share * self._strip(key) for key, share in around))
        strip = normalise(strip[:, None], self.statistics)[:, 0]
        wrong = ~strip.isfinite()
        if self.hidden is not None:
            hidden = self.hidden[self.channels]
            wrong, strip = wrong & ~hidden, strip.masked_fill(hidden, 0.0)
        if wrong.any():
            name = self.names[int(wrong.any(1).int().argmax())]
            raise fault(f"boundary: {self.path}", f"{int(wrong.sum())} missing values of {name} at the edge at "
                        f"{show(time)}", "a number everywhere", "name another host, or other times")  # fmt: skip
        out = torch.zeros(self.size, self.shape[0] * self.shape[1])
        out[torch.tensor(self.channels)[:, None], torch.from_numpy(self.cells)] = strip
        return out.view(self.size, *self.shape)

    def _strip(self, key: tuple) -> np.ndarray:
        """(C', S): one of the host's own hours in the cells of the strip, in the store's units."""
        if (kept := self.kept.get(key)) is not None:
            return kept
        fields = self.host.read(key).reshape(len(self.names), -1)
        if self.index is None:
            strip = fields[:, self.cells]
        else:  # a missing value does not count if its weight is 0
            strip = sum(np.where(w == 0, 0, w * fields[:, i]) for i, w in zip(self.index, self.share, strict=True))
        strip = strip * self.factor[:, None] + self.offset[:, None]
        if self.turn is not None:
            u, v = self.winds
            wind = (strip[u] + 1j * strip[v]) * self.turn
            strip[u], strip[v] = wind.real, wind.imag
        if (len(self.kept) + 1) * strip.nbytes <= self.room:
            self.kept[key] = strip
        return strip

    def _interpolate(self, store: Store) -> None:
        """Find the cells of the strip on the host's grid."""
        here, there = store.grid, self.host.grid
        if here.latitude is None or there.latitude is None:
            raise fault(f"boundary: {self.path}", f"{there.shape} cells for {here.shape}, without their coordinates",
                        "latitude and longitude of both, or the same cells", "add them")  # fmt: skip
        latitude, longitude = (v.flatten()[self.cells] for v in (here.latitude, here.longitude))
        self.index, share = bilinear(there, latitude, longitude)
        self.share = share.astype(np.float32)
        if outside := int(np.isnan(share[0]).sum()):
            south, north, west, east = (f(v) for v in (there.latitude, there.longitude) for f in (np.min, np.max))
            raise fault(f"boundary: {self.path}", f"latitudes {south:.2f} to {north:.2f} and longitudes {west:.2f} to "
                        f"{east:.2f}", f"the edge of {store.path} inside them ({outside} of {len(latitude)} cells are "
                        "not)", "name a host that covers the domain")  # fmt: skip

    def _turn_winds(self, store: Store, mine: dict, found: dict) -> None:
        """How winds turn from the host's axes to the store's; without its other component a wind is left out."""
        u, v = (next((n for n in found if known(n) and getattr(lookup(n), f"parity_{a}") < 0), None) for a in "xy")
        there, here = (g.winds != "earth" for g in (self.host.grid, store.grid))
        for path, grid in ((self.path, self.host.grid), (store.path, store.grid)):
            if found.get(u) and grid.winds not in ("grid", "earth"):
                print(f"note: boundary data: {path} does not say what its winds follow; taken as along its grid")
        turn = np.ones(len(self.cells), complex)
        if there:
            axis = self.host.grid.x_direction.flatten()
            turn *= sum(w * axis[i] for i, w in zip(self.index, self.share, strict=True))
        if here:
            turn *= store.grid.x_direction.flatten()[self.cells].conj()
        if np.abs(turn - 1).max() < 1e-3:  # a thousandth of the wind
            return
        if found.get(u) and found.get(v):
            names = [n for n in found if found[n]]
            self.winds, self.turn = (names.index(u), names.index(v)), (turn / np.abs(turn)).astype(np.complex64)
        else:
            found |= {n: None for n in (u, v) if n}

    def _units(self, store: Store, name: str, theirs: str) -> tuple[float, float]:
        """(factor, offset) from the host's unit of a variable to the store's."""
        here, there = (str(s.dataset[n].attrs.get("units", "")) for s, n in ((store, name), (self.host, theirs)))
        if not (here and there) or here == there:
            if here != there:
                print(f"note: boundary data: {theirs} of {self.path} is taken to be in the unit of {store.path}, "
                      f"{here or there}; one of them names none")  # fmt: skip
            return 1.0, 0.0
        known_here, known_there = ((conversion(u, lookup(name).units) if known(name) else None) for u in (here, there))
        if known_here is None or known_there is None:
            raise fault(f"boundary: {self.path}", f"{theirs} in {there!r}", f"{here!r} as in {store.path}",
                        f"convert it, or correct the units attribute of {theirs}")  # fmt: skip
        return known_there[0] / known_here[0], (known_there[1] - known_here[1]) / known_here[0]


def strip_width(shape: tuple[int, int]) -> int:
    """Cells across the strip in which a forecast is drawn to boundary data."""
    return max(1, min(WIDTH, int(0.08 * min(shape))))


def davies(shape: tuple[int, int]) -> Tensor:
    """The weight of the boundary (H, W): 1 in the outermost cells, 0 from the inner end of the strip on."""
    width = strip_width(shape)
    y, x = (torch.arange(n) for n in shape)
    distance = torch.minimum(
        torch.minimum(y, shape[0] - 1 - y)[:, None], torch.minimum(x, shape[1] - 1 - x)[None, :]
    ).clamp(max=width)
    return torch.cos(torch.pi * distance / (2 * width)).square().float() * (distance < width)
