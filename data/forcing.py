"""What the model is told besides the state: sun, clock, terrain, masks. A forcing has no future weather in it."""

import numpy as np
import torch
from torch import Tensor

from data.grid import Grid
from data.solar import clock, cos_zenith

EARTH_ROTATION = 7.292115e-5  # rad s-1
CLOCK_FEATURES = 8  # sin/cos of hour and of day of the year, at the initial and at the valid time of a step


class Forcing:
    """Forcing of a step from `time` to `time + lead`, on one grid.

    Channels, each only where the store knows it: cos(solar zenith) at the initial and at the valid time of
    the step, orography (km), land fraction (-0.5..0.5), Coriolis parameter (1e-4 s-1), and one mask channel
    (1 where missing) per variable with cells that are missing in every hour.

    mask: (C, H, W) bool or None; names: the variables of the mask's channels.
    """

    def __init__(self, grid: Grid, lead: np.timedelta64, names: tuple[str, ...], mask: Tensor | None, device="cpu"):
        self.lead, self.shape, self.device = lead, grid.shape, torch.device(device)
        self.names: list[str] = []
        fixed: list[np.ndarray] = []
        self.sunlit = grid.latitude is not None
        if self.sunlit:
            self.names += ["cos_zenith_now", "cos_zenith_next"]
            phi = np.radians(grid.latitude)
            self._sin, self._cos = (self._tensor(f(phi)) for f in (np.sin, np.cos))
            self._longitude = self._tensor(np.radians(grid.longitude))
        if "orography" in grid.static:
            self.names.append("orography")
            fixed.append(grid.static["orography"] / 1000.0)
        if "land_sea_mask" in grid.static:
            self.names.append("land_sea_mask")
            fixed.append(grid.static["land_sea_mask"] - 0.5)
        if self.sunlit:
            self.names.append("coriolis")
            fixed.append(2 * EARTH_ROTATION * np.sin(phi) * 1e4)
        for c, name in enumerate(names):
            if mask is not None and bool(mask[c].any()):
                self.names.append(f"mask_{name}")
                fixed.append(mask[c].cpu().numpy())
        self.fixed = self._tensor(np.stack(fixed)) if fixed else torch.zeros(0, *grid.shape, device=self.device)
        # A mirror reverses the sense of rotation, so the Coriolis parameter changes sign with either mirror.
        signs = [-1.0 if n == "coriolis" else 1.0 for n in self.names]
        self.parity = torch.tensor([signs, signs], device=self.device)  # (2, F): mirrored along y, along x

    def __call__(self, times: np.ndarray) -> tuple[Tensor, Tensor]:
        """For B initial times of a step: fields (B, F, H, W) and clock (B, 8), float32."""
        times = np.atleast_1d(times).astype("datetime64[ns]")
        fields = self.fixed.expand(len(times), *self.fixed.shape)
        if self.sunlit:
            sun = [torch.stack([self._cos_zenith(t), self._cos_zenith(t + self.lead)]) for t in times]
            fields = torch.cat([torch.stack(sun), fields], dim=1)
        features = np.concatenate([clock(times), clock(times + self.lead)], axis=-1)
        return fields, torch.from_numpy(features).to(self.device)

    def _cos_zenith(self, time: np.datetime64) -> Tensor:
        # cos(a + b) expanded, so that the per-cell work is on tensors of the device and float32 is enough
        unit = cos_zenith(time, np.array([90.0, 0.0, 0.0]), np.array([0.0, 0.0, 90.0]))  # north pole, 0 E, 90 E
        east = torch.cos(self._longitude) * float(unit[1]) + torch.sin(self._longitude) * float(unit[2])
        return self._sin * float(unit[0]) + self._cos * east

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.device)
