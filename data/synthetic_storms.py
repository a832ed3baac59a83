"""Make a training store of synthetic hourly storms: seven variables on HRRR's grid, no download.

    python -m data.synthetic_storms --out data/synthetic.zarr
    python -m data.synthetic_storms --out small.zarr --hours 120 --size 32 --seed 7

Writes --out, a store as data/store.py describes. The same seed gives the same numbers; another seed gives
other weather over the same terrain, as another month does on the plains. The weather comes from
data/storm_physics.py: a daily cycle of the sun, moving air masses, storms that are born on CAPE under a weak lid,
move with a wind that is not stored, and leave cold pools and gusts. It is for demos and tests; it says nothing
about how well real storms are forecast.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from data.command import fault, run
from data.grid import HRRR_SPACING, HRRR_X0, HRRR_Y0, LAMBERT_HRRR, Grid, lambert_latlon
from data.storm_physics import CYCLES, MARGIN, RANDOM, RIM, SUBSTEPS, World, advance, diagnose, first_state, noise
from data.times import parse_time, show
from data.write import StoreWriter

VERSION = "2"  # of the generator: raised whenever the same seed gives other numbers
CENTRE = (430, 870)  # row and column of HRRR's grid in the middle of the domain: 35.8 N, 98.5 W
TERRAIN = 1  # seed of hills, mesas and lakes: part of the place, as CENTRE is, so that every record has the same
SPIN_UP = 24  # hours run before the first stored one, so that it is already weather
NAMES = ["REFC", "T2M", "D2M", "U10", "V10", "CAPE", "CIN"]


@dataclass
class Config:
    out: str = "data/synthetic.zarr"  # the store to write; a training store that is there is replaced
    hours: int = 480  # hours to store
    size: int = 64  # cells on each side of the square domain, 3 km each
    seed: int = 0  # chooses the weather
    start: str = "2024-05-20T00"  # first stored hour, UTC


def main(cfg: Config) -> None:
    start = check(cfg)
    world = make_world(cfg.size, cfg.seed)
    last = start + (cfg.hours - 1) * np.timedelta64(1, "h")
    print(f"synthetic storms, seed {cfg.seed}: {cfg.hours} hours {show(start)} to {show(last)} UTC, {len(NAMES)} "
          f"variables on {cfg.size} x {cfg.size} cells of 3 km -> {cfg.out}")  # fmt: skip
    attributes = {
        "source": f"synthetic storms, data.synthetic_storms version {VERSION}",
        "generator_version": VERSION,
        "seed": cfg.seed,
        "history": f"python -m data.synthetic_storms --out {cfg.out} --hours {cfg.hours} --size {cfg.size} "
        f"--seed {cfg.seed} --start {cfg.start}",
    }
    with one_thread(), StoreWriter(cfg.out, NAMES, stored_grid(world), attributes) as store:
        hours = generate(world, cfg.seed, start, cfg.hours)
        for time, fields in tqdm(hours, total=cfg.hours, desc="synthetic storms", unit="h", disable=None):
            store.write(time, fields)
    print(f"wrote {cfg.out}")


def check(cfg: Config) -> np.datetime64:
    """The start as datetime64; ValueError for a value that cannot be generated."""
    for name, least in (("hours", 2), ("size", 8), ("seed", 0)):
        if getattr(cfg, name) < least:
            raise fault(name, getattr(cfg, name), f"at least {least}", f"--{name} {least}")
    return parse_time(cfg.start, "start")


def generate(world: World, seed: int, start: np.datetime64, hours: int) -> Iterator[tuple[np.datetime64, dict]]:
    """The stored hours from `start`: (time, {name: (size, size) float32 in table units})."""
    inner = slice(MARGIN, -MARGIN)
    hour = np.timedelta64(1, "h")
    state = first_state(world, np.random.default_rng((seed, 1)))
    for h in range(-SPIN_UP, hours):
        time = start + h * hour
        fields = diagnose(world, state, time)
        if h >= 0:
            yield time, {name: fields[name][inner, inner].numpy() for name in NAMES}
        # One random generator per hour: a run that begins at a kept state draws the same numbers.
        state = advance(world, state, time, np.random.default_rng((seed, 2, h + SPIN_UP)), fields)


@contextmanager
def one_thread():
    """The steps are many and small: threads would wait for each other longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# --- the world: place, terrain, spectra ---


def make_world(size: int, seed: int) -> World:
    """The place, its terrain and spectra, and the synoptic cycles of one seed, for a stored domain of size x size."""
    rng = np.random.default_rng((seed, 0))
    periods = np.array([3.1, 5.3, 9.7]) * rng.uniform(0.8, 1.25, (len(CYCLES), 3))
    phases = rng.uniform(0, 2 * np.pi, (len(CYCLES), 3))
    n = size + 2 * MARGIN
    m = -(-3 * n // 24) * 12  # half as large again, in steps that an FFT likes
    x, y = coordinates(size, MARGIN)
    latitude, longitude = lambert_latlon(x[None, :], y[:, None])
    wavenumber = torch.hypot(torch.fft.fftfreq(m)[:, None], torch.fft.rfftfreq(m)[None, :])
    amplitude = [spectrum(wavenumber, slope, scale) for slope, scale, _, _ in RANDOM.values()]
    memory = [hours * (1 + (wavenumber * scale) ** 2) ** (-1 / 4) for _, scale, hours, _ in RANDOM.values()]
    ground = np.random.default_rng((TERRAIN, 0, m))
    hills, mesas = (
        torch.fft.irfft2(spectrum(wavenumber, slope, scale) * noise(ground, m), s=(m, m), norm="forward")[:n, :n]
        for slope, scale in ((2.6, 40), (3.2, 25))
    )
    relief = 90 * hills + 60 * torch.tanh(3 * mesas)  # m
    plain = 480 - torch.from_numpy((x - x.mean()) * 1e-3).float()  # rises westward by 1 m per km
    edge = np.minimum(np.arange(n), np.arange(n)[::-1]).astype(np.float32)
    rim = (1 - torch.from_numpy(np.minimum(edge[:, None], edge[None, :])) / RIM).clamp(min=0)
    return World(
        orography=plain + relief,
        land=(relief > float(np.quantile(relief.numpy(), 0.03))).float(),  # the deepest basins hold lakes
        latitude=torch.from_numpy(np.radians(latitude)).float(),
        longitude=torch.from_numpy(np.radians(longitude)).float(),
        rim=rim,
        amplitude=torch.stack(amplitude),
        decay=torch.exp(-1 / SUBSTEPS / torch.stack(memory)),
        periods=periods,
        phases=phases,
    )


def coordinates(size: int, margin: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """x and y (m in HRRR's projection) of the stored domain with `margin` more cells on each side."""
    cells = np.arange(-margin, size + margin) - size // 2
    return HRRR_X0 + HRRR_SPACING * (CENTRE[1] + cells), HRRR_Y0 + HRRR_SPACING * (CENTRE[0] + cells)


def stored_grid(world: World) -> Grid:
    """The grid of the stored domain, with its static fields."""
    inner = slice(MARGIN, -MARGIN)
    static = {"orography": world.orography[inner, inner].numpy(), "land_sea_mask": world.land[inner, inner].numpy()}
    size = static["orography"].shape[0]
    x, y = coordinates(size)
    latitude, longitude = lambert_latlon(x[None, :], y[:, None])
    return Grid((size, size), ("y", "x"), latitude, longitude, y, x, dict(LAMBERT_HRRR), static)


def spectrum(wavenumber: torch.Tensor, slope: float, scale: float) -> torch.Tensor:
    """Standard deviations of the coefficients (M, M/2+1) for a 1-D spectrum k**-slope below `scale` cells.

    Potentials (slope above 3.5) are scaled to a gradient of rms 1 per cell and component, other fields to a
    standard deviation of 1.
    """
    amplitude = (wavenumber**2 + scale**-2) ** (-(slope + 1) / 4)
    amplitude[0, 0] = 0
    weight = (2 * np.pi * wavenumber) ** 2 / 2 if slope > 3.5 else torch.ones_like(wavenumber)
    weight = weight * torch.where(torch.arange(wavenumber.shape[1]) > 0, 2.0, 1.0)  # the half plane counts twice
    return amplitude / torch.sqrt((amplitude**2 * weight).sum())


if __name__ == "__main__":
    run(Config, main, __doc__)
