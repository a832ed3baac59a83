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
        if sunlit := grid.latitude is not None:
            self.names += ["cos_zenith_now", "cos_zenith_next", "coriolis"]
            phi, lam = np.radians(grid.latitude), np.radians(grid.longitude)
            upward = np.stack([np.sin(phi), np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam)])
        self.upward = self._tensor(upward) if sunlit else None  # (3, H, W), as towards_sun
        if "orography" in grid.static:
            self.names.append("orography")
            fixed.append(grid.static["orography"] / 1000.0)
        if "land_sea_mask" in grid.static:
            self.names.append("land_sea_mask")
            fixed.append(grid.static["land_sea_mask"] - 0.5)
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
        fields = [self.fixed.expand(len(times), *self.fixed.shape)]
        if self.upward is not None:
            # the cosine of the zenith angle is the product of the directions upward and to the sun; the Coriolis
            # parameter is that with the axis of rotation
            axis = [2e4 * EARTH_ROTATION, 0.0, 0.0]
            rows = [[towards_sun(t), towards_sun(t + self.lead), axis] for t in times]
            rows = torch.from_numpy(np.array(rows, np.float32)).to(self.device, non_blocking=True)
            fields.insert(0, torch.einsum("bfk,khw->bfhw", rows, self.upward))
        features = np.concatenate([clock(times), clock(times + self.lead)], axis=-1)
        return torch.cat(fields, dim=1), torch.from_numpy(features).to(self.device, non_blocking=True)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.device)


def towards_sun(time: np.datetime64) -> np.ndarray:
    """(3,): the direction to the sun, as components towards the north pole, (0 N, 0 E) and (0 N, 90 E)."""
    return cos_zenith(time, np.array([90.0, 0.0, 0.0]), np.array([0.0, 0.0, 90.0]))
