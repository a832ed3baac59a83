"""Model inputs besides the state: sun, clock, terrain, masks. None of them contains future weather."""

import numpy as np
import torch
from torch import Tensor

from data.grid import Grid

J2000 = np.datetime64("2000-01-01T12:00:00", "ns")
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


def clock(times: np.ndarray) -> np.ndarray:
    """(N, 4) float32 for N datetime64: sin and cos of the hour of day, sin and cos of the day of the year.

    Both are continuous: 23:59 is next to 00:00, and the year's angle uses the true length of that year
    (365 or 366 days), so 31 December is next to 1 January and 29 February has its own place.
    """
    times = np.asarray(times, "datetime64[ns]")
    day = (times - times.astype("datetime64[D]")) / np.timedelta64(1, "D")
    start = times.astype("datetime64[Y]")
    length = (start + np.timedelta64(1, "Y")).astype("datetime64[ns]") - start.astype("datetime64[ns]")
    year = (times - start.astype("datetime64[ns]")) / length
    angles = 2 * np.pi * np.stack([day, year], axis=-1)
    out = np.stack([np.sin(angles[..., 0]), np.cos(angles[..., 0]), np.sin(angles[..., 1]), np.cos(angles[..., 1])], -1)
    return out.astype(np.float32)


def sun_position(time: np.datetime64) -> tuple[float, float]:
    """Declination and Greenwich hour angle of the sun, both in radians.

    Source: the low-precision formulas of the Astronomical Almanac (page C5), good to 0.01 degrees 1950-2050.
    """
    n = float((np.datetime64(time, "ns") - J2000) / np.timedelta64(1, "D"))  # days since J2000
    mean_longitude = np.radians(280.460 + 0.9856474 * n)
    anomaly = np.radians(357.528 + 0.9856003 * n)
    longitude = mean_longitude + np.radians(1.915 * np.sin(anomaly) + 0.020 * np.sin(2 * anomaly))
    obliquity = np.radians(23.439 - 4e-7 * n)
    right_ascension = np.arctan2(np.cos(obliquity) * np.sin(longitude), np.cos(longitude))
    declination = np.arcsin(np.sin(obliquity) * np.sin(longitude))
    sidereal = np.radians(15.0 * (18.697374558 + 24.06570982441908 * n))
    return float(declination), float((sidereal - right_ascension) % (2 * np.pi))


def cos_zenith(time: np.datetime64, latitude, longitude):
    """Cosine of the solar zenith angle (negative at night) for latitudes and longitudes in degrees (arrays)."""
    declination, hour_angle = sun_position(time)
    phi, local = np.radians(latitude), hour_angle + np.radians(longitude)
    return np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(local)
