"""Make a training store of synthetic hourly storms: seven variables on HRRR's grid, no download.

    python -m data.synthetic_storms --out data/synthetic.zarr
    python -m data.synthetic_storms --out small.zarr --hours 120 --size 32 --seed 7

Writes --out, a store as data/store.py describes. The same seed gives the same numbers; another seed gives other weather
over the same terrain. A daily cycle of the sun and moving air masses feed storms that are born on CAPE under a weak
lid, move with a wind that is not stored, and leave cold pools and gusts. It is for demos and tests: it says nothing
about how well real storms are forecast.

The outer domain has MARGIN more cells on each side than the stored one: weather forms there, air masses are set at its
rim and storms end there, so everything enters the stored domain from upwind and nothing wraps around. Fields are (N, N)
float32 tensors, rows south to north; speeds are m/s along the grid's x and y; rates are per hour. Random fields are
Fourier series on a torus larger than the domain. They travel with a wind by shifting phases, which blurs nothing, and
forget the past sooner the smaller the scale.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import pad, softplus
from tqdm import tqdm

from data.command import fault, run
from data.forcing import sun_position
from data.grid import HRRR_SPACING, HRRR_X0, HRRR_Y0, LAMBERT_HRRR, Grid, lambert_latlon
from data.times import parse_time, show
from data.write import StoreWriter

VERSION = "2"  # of the generator: raised whenever the same seed gives other numbers
CENTRE = (430, 870)  # row and column of HRRR's grid in the middle of the domain: 35.8 N, 98.5 W
TERRAIN = 1  # seed of hills, mesas and lakes: part of the place, as CENTRE is, so that every record has the same
SPIN_UP = 24  # hours run before the first stored one, so that it is already weather
NAMES = ["REFC", "T2M", "D2M", "U10", "V10", "CAPE", "CIN"]
MARGIN = 28  # cells outside the stored domain on each side
RIM = 12  # cells over which the outermost values of these fade to the prescribed air mass
SUBSTEPS = 5  # internal steps per hour
LAPSE, LAPSE_DEW = 0.0065, 0.0015  # K m-1, of temperature and dew point with the height of the ground
MEAN_HEIGHT = 450.0  # m, to which the prognostic temperature and dew point are reduced
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

    orography: torch.Tensor  # (N, N) m
    land: torch.Tensor  # (N, N) 1 land, 0 water
    latitude: torch.Tensor  # (N, N) radians
    longitude: torch.Tensor  # (N, N) radians
    rim: torch.Tensor  # (N, N) 1 at the outermost cells, 0 from RIM cells inwards
    amplitude: torch.Tensor  # (F, M, M/2+1) standard deviation of each coefficient of the random fields
    decay: torch.Tensor  # (F, M, M/2+1) what is left of a coefficient after an internal step
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


# --- the weather ---


def first_state(world: World, rng: np.random.Generator) -> State:
    """A state of uniform air without storms; a day of `advance` makes weather of it."""
    m, n = world.amplitude.shape[1], world.land.shape[0]
    modes = torch.stack([a * noise(rng, m) for a in world.amplitude])
    air = torch.stack([torch.full((n, n), v) for v in (298.0, 290.0, 0.0)])
    return State(modes, torch.zeros(2, 2, dtype=torch.float64), air, torch.zeros(3, n, n))


def advance(
    world: World, state: State, time: np.datetime64, rng: np.random.Generator, now: dict | None = None
) -> State:
    """The state one hour after `time`; `rng` supplies what the state does not determine. now: `diagnose` of this
    state, if it is known."""
    spread = world.amplitude * torch.sqrt(1 - world.decay ** (2 * SUBSTEPS))  # of an hour's innovation
    innovation = torch.stack([s * noise(rng, world.amplitude.shape[1]) for s in spread]) / SUBSTEPS
    for i in range(SUBSTEPS):
        when = time + i * np.timedelta64(3600 // SUBSTEPS, "s")
        state = _substep(world, state, now or diagnose(world, state, when), innovation)
        now = None
    return state


def diagnose(world: World, state: State, time: np.datetime64) -> dict:
    """The seven variables, (N, N) in the units of data/variables.py, and beside them what the next step
    needs: random fields, cycles, sun (cosine of the zenith angle, >= 0), mixing (0-1), outflow (m/s)."""
    random = dict(zip(RANDOM, _random_fields(world, state), strict=True))
    slow = cycles(world, time)
    mixing = (1.3 * _sun(world, time - np.timedelta64(90, "m"))).clamp(0, 1)  # lags the sun by 1.5 h
    temperature, dew, pool = state.air
    _, rain, sheet = state.storm

    # Temperature and dew point: cold pools are cooler by their deficit and drier by half of it.
    height = world.orography - MEAN_HEIGHT
    skin = 0.35 * (1 - 2 * mixing) * random["cloud"]  # the lowest metres feel cloud at once: warm by night
    t2m = temperature + skin - pool - LAPSE * height
    d2m = torch.minimum(dew + 0.2 * random["cloud"] - 0.5 * pool - LAPSE_DEW * height, t2m)

    # CAPE: the parcel's equivalent potential temperature against the saturated one aloft (130 J/kg per K,
    # levelling off at 6000). CIN: its potential temperature against the lid's.
    pressure = 1000 * torch.exp(-world.orography / 8300)  # hPa
    vapour = 6.112 * torch.exp(17.67 * (d2m - 273.15) / (d2m - 29.65))  # hPa
    humidity = 0.622 * vapour / (pressure - 0.378 * vapour)  # kg kg-1
    theta = t2m * (1000 / pressure) ** 0.286
    excess = theta * torch.exp(2.5e6 * humidity / (1005 * d2m)) - 338.0 - 2.0 * random["aloft"]
    cape = 6000 * torch.tanh(130 / 6000 * softplus(excess, beta=0.8))
    deficit = 308.7 + 1.3 * random["cap"] - theta - 0.2 * (d2m - 290)
    cin = 0.0 - 8 * softplus(deficit, beta=1.2) ** 1.3 * cape / (cape + 100)

    # Winds: the low-level wind as friction and mixing pass it on, slope winds (up by day, down by night),
    # eddies, and the cold pools' outflow with the storms' own motion brought down in it.
    roughness = (0.5 + 0.4 * mixing) * (1.25 - 0.25 * world.land)
    upslope = 90 * (mixing - 0.35) / HRRR_SPACING
    stirred = 0.5 + 0.55 * mixing
    pool_y, pool_x = torch.gradient(pool + 0.125 * _laplacian(pool))
    front = 4 / torch.sqrt(1 + (pool_x**2 + pool_y**2) / 4)  # at most 8 m/s
    gust = 0.25 * pool.clamp(max=6) / 6
    (z_y, z_x), (e_y, e_x), (l_y, l_x) = map(torch.gradient, (world.orography, random["eddies"], random["lift"]))
    (u_low, v_low), (u_storm, v_storm) = _low_wind(random["pressure"], slow), steering_wind(slow)
    u10 = roughness * u_low + upslope * z_x + stirred * (-0.4 * e_y + 0.55 * l_x) + gust * u_storm - front * pool_x
    v10 = roughness * v_low + upslope * z_y + stirred * (0.4 * e_x + 0.55 * l_y) + gust * v_storm - front * pool_y

    # Reflectivity of the rain after Marshall and Palmer; rain too light for a radar is HRRR's floor.
    refc = 10 * torch.log10(200 * (rain + sheet - 0.005).clamp(min=0) ** 1.6 + 0.1)
    return {
        "REFC": refc.clamp(min=-10), "T2M": t2m, "D2M": d2m, "U10": u10, "V10": v10, "CAPE": cape, "CIN": cin,
        "random": random, "slow": slow, "sun": _sun(world, time).clamp(min=0), "mixing": mixing,
        "outflow": (-front * pool_x, -front * pool_y),
    }  # fmt: skip


def cycles(world: World, time: np.datetime64) -> dict[str, float]:
    """The synoptic cycles at a time: sums of sines of about 3, 5 and 10 days, each of rms 1."""
    days = (np.datetime64(time, "s") - np.datetime64("2000-01-01")) / np.timedelta64(1, "D")
    values = 0.82 * np.sin(2 * np.pi * days / world.periods + world.phases).sum(1)
    return dict(zip(CYCLES, values.tolist(), strict=True))


def steering_wind(slow: dict[str, float]) -> tuple[float, float]:
    """The mean wind that moves storms, m/s along x and y: from the west-southwest, never stored."""
    return _components(4.4 + 0.8 * slow["speed"], 22 + 18 * slow["direction"])


def mean_low_wind(slow: dict[str, float]) -> tuple[float, float]:
    """The mixed layer's mean wind, m/s: backed from the steering wind, so southerly as a rule."""
    speed = 3.6 + 0.5 * slow["speed"] + 0.8 * slow["low_speed"]
    return _components(speed, 72 + 18 * slow["direction"] + 14 * slow["backing"])


def _components(speed: float, degrees: float) -> tuple[float, float]:
    """x and y of a wind towards `degrees` counterclockwise from x."""
    angle = np.radians(degrees)
    return float(speed * np.cos(angle)), float(speed * np.sin(angle))


def _substep(world: World, state: State, now: dict, innovation: torch.Tensor) -> State:
    """One internal step: heating, growth and decay in place, then transport. now: `diagnose` of the state."""
    step = 1 / SUBSTEPS  # h
    cells = 3600 * step / HRRR_SPACING  # cells moved in a step by 1 m/s
    random, slow, mixing = now["random"], now["slow"], now["mixing"]
    temperature, dew, pool = state.air
    updraught, rain, sheet = state.storm
    wet = (rain + sheet).clamp(max=20)

    # Air: towards the balance of sunshine and cooling over land within 4.5 h, towards the air mass over
    # lakes; the dew point towards the air mass in 12 h. Deep mixing dries dry air further: drylines.
    cover = torch.sigmoid(2 * random["cloud"] - 0.5)
    mass_t = 300.0 + 1.0 * slow["warmth"] + 1.3 * random["air"]
    mass_d = 290.3 + 0.7 * slow["dew"] + 3.5 * torch.tanh(1.2 * random["moisture"] + 0.2)
    balance = mass_t - 7.5 * (1 - 0.5 * cover) + 20 * now["sun"] * (1 - 0.4 * cover) * torch.exp(-0.25 * wet)
    warming = world.land * (balance - temperature) / 4.5 + (1 - world.land) * (mass_t - 1 - temperature) / 5
    moistening = (mass_d - dew) / 12 + 1.2 * (1 - world.land) - 0.8 * mixing * torch.sigmoid(289.5 - dew)
    moistening = moistening + 0.02 * wet * (dew < now["T2M"] - 1)
    temperature = temperature + step * (warming + world.rim * (balance.clamp(290, 312) - temperature))
    dew = dew + step * (moistening + world.rim * (mass_d - dew))
    pool = pool + step * (0.14 * rain.clamp(max=80) * (1 - pool / 9).clamp(min=0) - pool / 1.8)

    # Storms: begin where convergence lifts parcels through a weak lid into CAPE, grow on CAPE and die without
    # it. An organised updraught makes do with less CAPE and lifts air through a lid that stops new ones.
    (_, u_x), (v_y, _) = torch.gradient(now["U10"]), torch.gradient(now["V10"])
    convergence = -1e4 * (u_x + v_y) / HRRR_SPACING  # 1e-4 s-1
    mature = updraught.clamp(max=1)
    open_lid = torch.sigmoid((now["CIN"] + 20 + 5 * convergence + 40 * mature) / 7)
    fuel = torch.sigmoid((now["CAPE"] - 1600 + 800 * mature) / 300)
    born = 0.25 * torch.sigmoid((convergence - 1.9) / 0.3) * fuel * open_lid
    growth = 5.2 * fuel * open_lid * (0.8 + 0.2 * torch.tanh(convergence)) + 1.2 * random["cloud"] - 1.5
    updraught = (updraught + step * born) * torch.exp((step * (growth - 0.8 * updraught)).clamp(-1, 1))
    updraught = updraught + step * 0.6 * _laplacian(updraught)
    rain = rain + step * (170 * updraught**1.2 * torch.tanh(3 * updraught) - rain / 0.45 - 0.2)
    sheet = sheet + step * (3 * updraught.clamp(max=2) - sheet / 1.5 - 0.2 + 1.2 * _laplacian(sheet))

    # Transport: the mixed layer and the outflow carry air and cold pools, the steering wind storms.
    u_low, v_low = _low_wind(random["pressure"], slow)
    u_out, v_out = now["outflow"]
    u_storm, v_storm = steering_wind(slow)
    wave_y, wave_x = torch.gradient(random["pressure"])
    keep, tiny = 1 - world.rim, 1e-5  # tails that fade for ever would end as denormals, which are slow
    air = torch.stack([temperature, dew, (pool - tiny).clamp(min=0) * keep])
    air = _advect(air, cells * (u_low + 0.7 * u_out), cells * (v_low + 0.7 * v_out))
    storm = (torch.stack([updraught, rain, sheet]) - tiny).clamp(min=0) * keep
    storm = _advect(storm, cells * (u_storm - wave_y), cells * (v_storm + wave_x)).clamp(min=0)
    winds = (*mean_low_wind(slow), u_storm, v_storm)
    carried = cells * torch.stack([torch.as_tensor(w, dtype=torch.float64) for w in winds]).view(2, 2)
    return State(state.modes * world.decay + innovation, state.shift + carried, air, storm)


def _sun(world: World, time: np.datetime64) -> torch.Tensor:
    """Cosine of the solar zenith angle, negative by night (N, N)."""
    declination, hour_angle = sun_position(time)
    daily = torch.cos(world.latitude) * float(np.cos(declination)) * torch.cos(world.longitude + hour_angle)
    return torch.sin(world.latitude) * float(np.sin(declination)) + daily


def _low_wind(pressure: torch.Tensor, slow: dict[str, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """The mixed layer's wind (N, N): its mean and the synoptic part along the isobars (rms 2.5 m/s)."""
    (u, v), (y, x) = mean_low_wind(slow), torch.gradient(pressure)
    return u - 2.5 * y, v + 2.5 * x


def _random_fields(world: World, state: State) -> torch.Tensor:
    """(F, N, N): the random fields where they are now."""
    m, n = world.amplitude.shape[1], world.land.shape[0]
    k_y, k_x = torch.fft.fftfreq(m, dtype=torch.float64), torch.fft.rfftfreq(m, dtype=torch.float64)
    turns = [[torch.exp(-2j * np.pi * k * d).to(torch.complex64) for k, d in ((k_x, x), (k_y, y))]
             for x, y in state.shift]  # fmt: skip
    phase = [along_y[:, None] * along_x for along_x, along_y in turns]
    moved = torch.stack([state.modes[i] * phase[by] for i, (_, _, _, by) in enumerate(RANDOM.values())])
    return torch.fft.irfft2(moved, s=(m, m), norm="forward")[:, :n, :n]


def noise(rng: np.random.Generator, m: int) -> torch.Tensor:
    """Complex white noise of unit variance for the half plane (m, m/2+1) of an (m, m) real field."""
    parts = rng.standard_normal((m, m // 2 + 1, 2), dtype=np.float32) * np.float32(np.sqrt(0.5))
    return torch.view_as_complex(torch.from_numpy(parts))


def _laplacian(field: torch.Tensor) -> torch.Tensor:
    """Five-point Laplacian per cell squared; the outermost cells see themselves outside."""
    f = pad(field[None], (1, 1, 1, 1), mode="replicate")[0]
    return f[1:-1, 2:] + f[1:-1, :-2] + f[2:, 1:-1] + f[:-2, 1:-1] - 4 * field


def _advect(fields: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Semi-Lagrangian transport of (C, N, N) by u, v (N, N) cells per step, first along x, then along y."""
    return _shift(_shift(fields, u).transpose(1, 2), v.T).transpose(1, 2).contiguous()


def _shift(fields: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
    """Values from `distance` cells (N, N) back along the last dimension; outside is the outermost value.

    Six-point Lagrange interpolation: repeated every step it keeps waves of six cells for half a day,
    where bilinear interpolation would blur them away within the hour.
    """
    c, rows, n = fields.shape
    origin = (torch.arange(n) - distance).clamp(0, n - 1)
    base = origin.floor()
    t = origin - base  # 0..1 between points 0 and 1 of -2..3
    base = base.long()
    a, b, d = (t + 2) * (t - 3), (t + 1) * (t - 2), t * (t - 1)
    ab, ad, bd = a * b / 12, a * d / 24, b * d / 120
    weights = (-bd * (t - 3), ad * (t - 2), -ab * (t - 1), ab * t, -ad * (t + 1), bd * (t + 2))
    out = torch.zeros_like(fields)
    for j, weight in enumerate(weights):
        out += weight * fields.gather(2, (base + (j - 2)).clamp(0, n - 1).expand(c, rows, n))
    return out


if __name__ == "__main__":
    run(Config, main, __doc__)
