"""Make a training store of synthetic hourly storms: seven variables on HRRR's grid, no download.

    python -m data.synthetic_storms --out data/synthetic.zarr
    python -m data.synthetic_storms --out small.zarr --hours 120 --size 32 --seed 7

Writes --out, a store as data/store.py describes. Another seed gives other weather over the same terrain. A daily cycle
of the sun and moving air masses feed storms that are born on CAPE under a weak lid, move with a wind that is not
stored, and leave cold pools and gusts. It says nothing about how well real storms are forecast.

The outer domain has MARGIN more cells on each side than the stored one: weather forms there, air masses are set at its
rim and storms end there, so everything enters the stored domain from upwind. Fields are (N, N) float32 tensors, rows
south to north; speeds are m/s along x and y; rates are per hour. Random fields are Fourier series on a torus larger
than the domain. Once an hour winds move them by shifting phases, which blurs nothing, and the smaller the scale the
sooner it is forgotten.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import grid_sample, pad, softplus

from data.command import fault, paced, run
from data.forcing import sun_position
from data.grid import HRRR_SPACING, HRRR_X0, HRRR_Y0, LAMBERT_HRRR, Grid, lambert_latlon
from data.times import parse_time, show
from data.write import StoreWriter

VERSION = "3"  # of the generator: raised whenever the same seed gives other numbers
CENTRE = (430, 870)  # row and column of HRRR's grid in the middle of the domain: 35.8 N, 98.5 W
TERRAIN = 1  # seed of hills, mesas and lakes: part of the place, as CENTRE is, so that every record has the same
SPIN_UP = 24  # hours run before the first stored one, so that it is already weather
NAMES = ["REFC", "T2M", "D2M", "U10", "V10", "CAPE", "CIN"]
MARGIN = 24  # cells outside the stored domain on each side
RIM = 10  # cells over which the outermost values of these fade to the prescribed air mass
SUBSTEPS = 3  # internal steps per hour
LAPSE, LAPSE_DEW = 0.0065, 0.0015  # K m-1, of temperature and dew point with the height of the ground
MEAN_HEIGHT = 450.0  # m, to which the prognostic temperature and dew point are reduced
CELLS = 3600 / HRRR_SPACING  # cells moved in an hour by 1 m/s
LOW, STEERING = 0, 1  # the two winds that carry random fields: the mixed layer's and the storms'

# name: (slope of the 1-D power spectrum, largest scale in cells, memory at that scale in h, carried by)
RANDOM = {
    "air": (2.4, 60, 36, LOW),  # temperature of the air mass
    "moisture": (2.4, 60, 48, LOW),  # its dew point: tongues and drylines
    "aloft": (3.0, 60, 36, STEERING),  # warmth of the middle troposphere, which takes CAPE away
    "cap": (2.6, 50, 30, STEERING),  # warmth of the lid, which makes CIN
    "pressure": (5.3, 90, 90, STEERING),  # stream function of the synoptic and mesoscale wind
    "eddies": (4.6, 24, 45, LOW),  # stream function of boundary-layer eddies
    "lift": (4.4, 20, 45, LOW),  # velocity potential: lines of convergence where storms begin
    "cloud": (2.2, 30, 4, LOW),  # humid patches: they shade the ground and feed storms
}
CYCLES = ("speed", "direction", "low_speed", "backing", "dew", "warmth")  # synoptic cycles, each of rms 1


@dataclass
class Config:
    out: str = "data/synthetic.zarr"  # the store to write; a training store that is there is replaced
    hours: int = 480  # hours to store
    size: int = 64  # cells on each side of the square domain, 3 km each
    seed: int = 0  # chooses the weather
    start: str = "2024-05-20T00"  # first stored hour, UTC


@dataclass(frozen=True)
class World:
    """What never changes in one synthetic record. N is the outer domain's side, M the torus's."""

    xy: np.ndarray  # (2, N) m in HRRR's projection
    orography: torch.Tensor  # (N, N) m
    land: torch.Tensor  # (N, N) 1 land, 0 water
    latitude: torch.Tensor  # (N, N) radians
    longitude: torch.Tensor  # (N, N) radians
    rim: torch.Tensor  # (N, N) 1 at the outermost cells, 0 from RIM cells inwards
    amplitude: torch.Tensor  # (F, M, M/2+1) standard deviation of each coefficient of the random fields
    decay: torch.Tensor  # (F, M, M/2+1) what is left of a coefficient after an hour
    periods: np.ndarray  # (cycles, 3) days
    phases: np.ndarray  # (cycles, 3) radians


@dataclass(frozen=True)
class State:
    """Everything the next hour depends on, besides the world, the time and the random numbers."""

    modes: torch.Tensor  # (F, M, M/2+1) complex coefficients of the random fields, in the moving frame
    shift: torch.Tensor  # (2, 2) float64: how far the LOW and STEERING winds have carried them, (x, y) cells
    air: torch.Tensor  # (3, N, N) temperature and dew point at MEAN_HEIGHT (K), cold pool's deficit (K)
    storm: torch.Tensor  # (3, N, N) updraught (1), convective and stratiform rain (mm h-1)


def main(cfg: Config) -> None:
    for name, least in (("hours", 2), ("size", 8), ("seed", 0)):
        if getattr(cfg, name) < least:
            raise fault(name, getattr(cfg, name), f"at least {least}", f"--{name} {least}")
    start, world = parse_time(cfg.start, "start"), make_world(cfg.size, cfg.seed)
    last = start + (cfg.hours - 1) * np.timedelta64(1, "h")
    print(f"synthetic storms, seed {cfg.seed}: {cfg.hours} hours {show(start)} to {show(last)} UTC, {len(NAMES)} "
          f"variables on {cfg.size} x {cfg.size} cells of 3 km -> {cfg.out}")  # fmt: skip
    about = {"source": f"synthetic storms, data.synthetic_storms version {VERSION}", "generator_version": VERSION,
             "seed": cfg.seed, "history": f"python -m data.synthetic_storms --out {cfg.out} --hours {cfg.hours} "
             f"--size {cfg.size} --seed {cfg.seed} --start {cfg.start}"}  # fmt: skip
    torch.set_num_threads(1)  # operations are small: threads would wait for each other longer than they work
    with StoreWriter(cfg.out, NAMES, stored_grid(world), about) as store:
        hours = generate(world, cfg.seed, start, cfg.hours)
        for time, fields in paced(hours, "synthetic storms", cfg.hours, "h"):
            store.write(time, fields)
    print(f"wrote {cfg.out}")


def generate(world: World, seed: int, start: np.datetime64, hours: int) -> Iterator[tuple[np.datetime64, dict]]:
    """The stored hours from `start`: (time, {name: (size, size) float32 in table units})."""
    inner, hour = slice(MARGIN, -MARGIN), np.timedelta64(1, "h")
    rng = torch.Generator().manual_seed(seed)
    state = first_state(world, rng)
    for h in range(-SPIN_UP, hours):
        time = start + h * hour
        if h >= 0:
            fields = diagnose(world, state.air, state.storm, surroundings(world, state, time), time)
            yield time, {name: fields[name][inner, inner].numpy() for name in NAMES}
        state = advance(world, state, time, rng)


# --- the world: place, terrain, spectra ---


def make_world(size: int, seed: int) -> World:
    """The place, its terrain and spectra, and the synoptic cycles of one seed, for a stored domain of size x size."""
    rng = np.random.default_rng(seed)
    n = size + 2 * MARGIN
    m = -(-5 * n // 48) * 12  # a quarter larger, in steps that an FFT likes
    cells = np.arange(n) - n // 2
    x, y = HRRR_X0 + HRRR_SPACING * (CENTRE[1] + cells), HRRR_Y0 + HRRR_SPACING * (CENTRE[0] + cells)
    latitude, longitude = lambert_latlon(x[None, :], y[:, None])
    wavenumber = torch.hypot(torch.fft.fftfreq(m)[:, None], torch.fft.rfftfreq(m)[None, :])
    rows = [(spectrum(wavenumber, slope, scale), hours * (1 + (wavenumber * scale) ** 2) ** (-1 / 4))
            for slope, scale, hours, _ in RANDOM.values()]  # fmt: skip
    amplitude, memory = (torch.stack(column) for column in zip(*rows, strict=True))
    ground = torch.Generator().manual_seed(TERRAIN)
    hills, mesas = (
        torch.fft.irfft2(s * noise(ground, s.shape), s=(m, m), norm="forward")[:n, :n]
        for s in (spectrum(wavenumber, 2.6, 40), spectrum(wavenumber, 3.2, 25))
    )
    relief = 90 * hills + 60 * torch.tanh(3 * mesas)  # m
    plain = 480 - torch.from_numpy((x - x.mean()) * 1e-3).float()  # rises westward by 1 m per km
    edge = np.minimum(np.arange(n), np.arange(n)[::-1]).astype(np.float32)
    rim = (1 - torch.from_numpy(np.minimum(edge[:, None], edge[None, :])) / RIM).clamp(min=0)
    return World(
        xy=np.stack([x, y]),
        orography=plain + relief,
        land=(relief > float(np.quantile(relief.numpy(), 0.03))).float(),  # the deepest basins hold lakes
        latitude=torch.from_numpy(np.radians(latitude)).float(),
        longitude=torch.from_numpy(np.radians(longitude)).float(),
        rim=rim,
        amplitude=amplitude,
        decay=torch.exp(-1 / memory),
        periods=np.array([3.1, 5.3, 9.7]) * rng.uniform(0.8, 1.25, (len(CYCLES), 3)),
        phases=rng.uniform(0, 2 * np.pi, (len(CYCLES), 3)),
    )


def stored_grid(world: World) -> Grid:
    """The grid of the stored domain, with its static fields."""
    inner = slice(MARGIN, -MARGIN)
    x, y = (v[inner] for v in world.xy)
    static = {"orography": world.orography[inner, inner].numpy(), "land_sea_mask": world.land[inner, inner].numpy()}
    place = lambert_latlon(x[None, :], y[:, None])
    return Grid((len(y), len(x)), ("y", "x"), *place, y, x, dict(LAMBERT_HRRR), static)


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


# --- the weather ---


def first_state(world: World, rng: torch.Generator) -> State:
    """A state of uniform air without storms; a day of `advance` makes weather of it."""
    n = len(world.land)
    modes, air = world.amplitude * noise(rng, world.amplitude.shape), torch.tensor([298.0, 290.0, 0.0])
    return State(modes, torch.zeros(2, 2, dtype=torch.float64), air.view(3, 1, 1).expand(3, n, n), torch.zeros(3, n, n))


def advance(world: World, state: State, time: np.datetime64, rng: torch.Generator) -> State:
    """The state one hour after `time`; `rng` supplies what the state does not determine."""
    around, air, storm = surroundings(world, state, time), state.air, state.storm
    for i in range(SUBSTEPS):
        air, storm = step(world, air, storm, around, time + i * np.timedelta64(3600 // SUBSTEPS, "s"))
    innovation = world.amplitude * torch.sqrt(1 - world.decay**2) * noise(rng, world.amplitude.shape)
    shift = state.shift + CELLS * mean_winds(around["slow"])
    return State(state.modes * world.decay + innovation, shift, air, storm)


def surroundings(world: World, state: State, time: np.datetime64) -> dict:
    """What stays as it is for an hour: random fields (N, N), cycles, and the winds (2, N, N) of mixed layer and storms'
    level, and of eddies with lines of convergence."""
    m, n, slow = world.amplitude.shape[1], len(world.land), cycles(world, time)
    k_y, k_x = (f(m, dtype=torch.float64) for f in (torch.fft.fftfreq, torch.fft.rfftfreq))
    turns = [torch.exp(-2j * np.pi * (k_y[:, None] * y + k_x * x)).to(torch.complex64) for x, y in state.shift]
    moved = state.modes * torch.stack([turns[by] for *_, by in RANDOM.values()])
    fields = dict(zip(RANDOM, torch.fft.irfft2(moved, s=(m, m), norm="forward")[:, :n, :n], strict=True))
    (p_y, p_x), (e_y, e_x), (l_y, l_x) = (torch.gradient(fields[n]) for n in ("pressure", "eddies", "lift"))
    low, steering = mean_winds(slow).float()[..., None, None]
    along_isobars = torch.stack([-p_y, p_x])
    return fields | {
        "slow": slow, "steering": steering, "low wind": low + 2.5 * along_isobars,
        "storm wind": steering + along_isobars,
        "eddy wind": torch.stack([-0.4 * e_y + 0.55 * l_x, 0.4 * e_x + 0.55 * l_y]),
    }  # fmt: skip


def diagnose(world: World, air: torch.Tensor, storm: torch.Tensor, around: dict, time: np.datetime64) -> dict:
    """The seven variables (N, N) in the units of data/variables.py, and beside them the sun (cosine of the zenith
    angle, >= 0), how deep the air is mixed (0-1) and the outflow of cold pools (2, N, N) m/s."""
    mixing = (1.3 * sun(world, time - np.timedelta64(90, "m"))).clamp(0, 1)  # lags the sun by 1.5 h
    temperature, dew, pool = air

    # Temperature and dew point: cold pools are cooler by their deficit and drier by half of it.
    height = world.orography - MEAN_HEIGHT
    skin = 0.35 * (1 - 2 * mixing) * around["cloud"]  # the lowest metres feel cloud at once: warm by night
    t2m = temperature + skin - pool - LAPSE * height
    d2m = torch.minimum(dew + 0.2 * around["cloud"] - 0.5 * pool - LAPSE_DEW * height, t2m)

    # CAPE: the parcel's equivalent potential temperature against the saturated one aloft (130 J/kg per K,
    # levelling off at 6000). CIN: its potential temperature against the lid's.
    pressure = 1000 * torch.exp(-world.orography / 8300)  # hPa
    vapour = 6.112 * torch.exp(17.67 * (d2m - 273.15) / (d2m - 29.65))  # hPa
    humidity = 0.622 * vapour / (pressure - 0.378 * vapour)  # kg kg-1
    theta = t2m * (1000 / pressure) ** 0.286
    excess = theta * torch.exp(2.5e6 * humidity / (1005 * d2m)) - 338.0 - 2.0 * around["aloft"]
    cape = 6000 * torch.tanh(130 / 6000 * softplus(excess, beta=0.8))
    deficit = 308.7 + 1.3 * around["cap"] - theta - 0.2 * (d2m - 290)
    cin = -8 * softplus(deficit, beta=1.2) ** 1.3 * cape / (cape + 100)

    # Winds: the mixed layer's as friction and mixing pass it on, slope winds (up by day, down by night), eddies, and
    # the cold pools' outflow, at most 8 m/s, with the storms' own motion brought down in it.
    slope, depth = (torch.stack(torch.gradient(f)[::-1]) for f in (world.orography, pool + 0.125 * laplacian(pool)))
    outflow = -4 / torch.sqrt(1 + depth.square().sum(0) / 4) * depth
    friction = (0.5 + 0.4 * mixing) * (1.25 - 0.25 * world.land)
    gust = 0.25 * pool.clamp(max=6) / 6 * around["steering"]
    wind = friction * around["low wind"] + 90 * (mixing - 0.35) / HRRR_SPACING * slope
    wind = wind + (0.5 + 0.55 * mixing) * around["eddy wind"] + gust + outflow

    # Reflectivity of the rain after Marshall and Palmer; rain too light for a radar is HRRR's floor.
    refc = 10 * torch.log10(200 * (storm[1] + storm[2] - 0.005).clamp(min=0) ** 1.6 + 0.1)
    return {
        "REFC": refc.clamp(min=-10), "T2M": t2m, "D2M": d2m, "U10": wind[0], "V10": wind[1], "CAPE": cape, "CIN": cin,
        "sun": sun(world, time).clamp(min=0), "mixing": mixing, "outflow": outflow,
    }  # fmt: skip


def step(world: World, air: torch.Tensor, storm: torch.Tensor, around: dict, time: np.datetime64) -> tuple:
    """Air and storms one internal step after `time`: heating, growth and decay in place, then transport."""
    now, slow, h = diagnose(world, air, storm, around, time), around["slow"], 1 / SUBSTEPS
    temperature, dew, pool = air
    updraught, rain, sheet = storm
    wet = (rain + sheet).clamp(max=20)

    # Air: towards the balance of sunshine and cooling over land within 4.5 h, towards the air mass over
    # lakes; the dew point towards the air mass in 12 h. Deep mixing dries dry air further: drylines.
    cover = torch.sigmoid(2 * around["cloud"] - 0.5)
    mass_t = 300.0 + 1.0 * slow["warmth"] + 1.3 * around["air"]
    mass_d = 290.3 + 0.7 * slow["dew"] + 3.5 * torch.tanh(1.2 * around["moisture"] + 0.2)
    balance = mass_t - 7.5 * (1 - 0.5 * cover) + 20 * now["sun"] * (1 - 0.4 * cover) * torch.exp(-0.25 * wet)
    warming = world.land * (balance - temperature) / 4.5 + (1 - world.land) * (mass_t - 1 - temperature) / 5
    moistening = (mass_d - dew) / 12 + 1.2 * (1 - world.land) - 0.8 * now["mixing"] * torch.sigmoid(289.5 - dew)
    moistening = moistening + 0.02 * wet * (dew < now["T2M"] - 1)
    stirred = 0.25 * laplacian(air[:2])  # eddies of 600 m2 s-1
    temperature = temperature + h * (warming + stirred[0] + world.rim * (balance.clamp(290, 312) - temperature))
    dew = dew + h * (moistening + stirred[1] + world.rim * (mass_d - dew))
    pool = pool + h * (0.14 * rain.clamp(max=80) * (1 - pool / 9).clamp(min=0) - pool / 1.8)

    # Storms: begin where convergence lifts parcels through a weak lid into CAPE, grow on CAPE and die without
    # it. An organised updraught makes do with less CAPE and lifts air through a lid that stops new ones.
    convergence = -1e4 / HRRR_SPACING * (torch.gradient(now["U10"], dim=1)[0] + torch.gradient(now["V10"], dim=0)[0])
    mature = updraught.clamp(max=1)
    open_lid = torch.sigmoid((now["CIN"] + 20 + 5 * convergence + 40 * mature) / 7)
    fuel = torch.sigmoid((now["CAPE"] - 1850 + 800 * mature) / 300)
    born = 0.25 * torch.sigmoid((convergence - 1.9) / 0.3) * fuel * open_lid
    growth = 4.5 * fuel * open_lid * (0.8 + 0.2 * torch.tanh(convergence)) + 1.2 * around["cloud"] - 1.5
    updraught = (updraught + h * born) * torch.exp((h * (growth - 0.8 * updraught)).clamp(-1.5, 1.5))
    updraught = updraught + h * 0.6 * laplacian(updraught)
    rain = (rain + h * (130 * updraught**1.2 * torch.tanh(3 * updraught) - 0.2)) / (1 + h / 0.45)
    sheet = sheet + h * (3 * updraught.clamp(max=2) - sheet / 1.5 - 0.2 + 0.7 * laplacian(sheet))

    # Transport: the mixed layer and the outflow carry air and cold pools, the steering wind storms.
    keep, tiny = 1 - world.rim, 1e-5  # tails that fade for ever would end as denormals, which are slow
    air = torch.stack([temperature, dew, (pool - tiny).clamp(min=0) * keep])
    storm = (torch.stack([updraught, rain, sheet]) - tiny).clamp(min=0) * keep
    air = advect(air, around["low wind"] + 0.7 * now["outflow"])
    return air, advect(storm, around["storm wind"]).clamp(min=0)


def cycles(world: World, time: np.datetime64) -> dict[str, float]:
    """The synoptic cycles at a time: sums of sines of about 3, 5 and 10 days, each of rms 1."""
    days = (np.datetime64(time, "s") - np.datetime64("2000-01-01")) / np.timedelta64(1, "D")
    values = 0.82 * np.sin(2 * np.pi * days / world.periods + world.phases).sum(1)
    return dict(zip(CYCLES, values.tolist(), strict=True))


def mean_winds(slow: dict[str, float]) -> torch.Tensor:
    """The mean winds LOW and STEERING, (2, 2) m/s along x and y. The one that moves storms comes from the
    west-southwest and is never stored; the mixed layer's is backed from it, so southerly as a rule."""
    speed = np.array([3.6 + 0.5 * slow["speed"] + 0.8 * slow["low_speed"], 4.4 + 0.8 * slow["speed"]])
    angle = np.radians([72 + 18 * slow["direction"] + 14 * slow["backing"], 22 + 18 * slow["direction"]])
    return torch.from_numpy(np.stack([speed * np.cos(angle), speed * np.sin(angle)], axis=1))


def sun(world: World, time: np.datetime64) -> torch.Tensor:
    """Cosine of the solar zenith angle, negative by night (N, N)."""
    declination, hour_angle = map(float, sun_position(time))
    daily = torch.cos(world.latitude) * np.cos(declination) * torch.cos(world.longitude + hour_angle)
    return torch.sin(world.latitude) * np.sin(declination) + daily


def noise(rng: torch.Generator, shape: tuple) -> torch.Tensor:
    """Complex white noise of unit variance."""
    return torch.view_as_complex(torch.randn(*shape, 2, generator=rng) * 0.5**0.5)


def laplacian(field: torch.Tensor) -> torch.Tensor:
    """Five-point Laplacian per cell squared, (N, N) or (C, N, N); the outermost cells see themselves outside."""
    f = pad(field.view(-1, *field.shape[-2:]), (1, 1, 1, 1), mode="replicate")
    return (f[:, 1:-1, 2:] + f[:, 1:-1, :-2] + f[:, 2:, 1:-1] + f[:, :-2, 1:-1]).view_as(field) - 4 * field


def advect(fields: torch.Tensor, wind: torch.Tensor) -> torch.Tensor:
    """Semi-Lagrangian transport of (C, N, N) by a wind (2, N, N) m/s over an internal step, bicubic; outside is the
    outermost value."""
    n = fields.shape[-1]
    cells = torch.arange(n, dtype=torch.float32)
    origin = torch.stack(torch.meshgrid(cells, cells, indexing="xy")) - CELLS / SUBSTEPS * wind
    origin = (2 / (n - 1) * origin - 1).permute(1, 2, 0)[None]
    return grid_sample(fields[None], origin, "bicubic", "border", align_corners=True)[0]


if __name__ == "__main__":
    run(Config, main, __doc__)
