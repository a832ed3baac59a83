"""A small model of summer weather over the plains: what data/synthetic_storms.py integrates.

`make_world` sets what never changes (terrain, spectra, slow cycles), `first_state` an initial `State`,
`advance` carries a state over one hour, `diagnose` gives the seven surface fields of a state. The outer
domain has RIM + PAD more cells on each side than the stored one: weather forms there, air masses are set
at its rim and storms end there, so everything enters the stored domain from upwind and nothing wraps.

Fields are (N, N) float32 tensors in SI units, rows south to north, speeds m/s along the grid's x and y.
Random fields are Fourier series on a larger torus. They travel with a wind by shifting phases, which
blurs nothing, and forget their past at a rate that grows with the wavenumber.
"""

from dataclasses import dataclass

import numpy as np
import torch

from data.grid import HRRR_SPACING, HRRR_X0, HRRR_Y0, lambert_latlon
from data.solar import sun_position

MARGIN = 32  # cells outside the stored domain on each side
RIM = 12  # of these, cells over which the outermost values fade to the prescribed air mass
SUBSTEPS = 6  # internal steps per hour
CENTRE = (430, 870)  # row and column of HRRR's grid at the middle of the domain: 35.9 N, 98.5 W
HOUR = 3600.0  # s
LAPSE = 0.0065  # K m-1
LOW, STEERING = 0, 1  # the two winds that carry fields: the mixed layer's and the storms'

# name: (slope of the 1-D power spectrum, largest scale in cells, memory at that scale in h, carried by)
RANDOM = {
    "air": (2.4, 60, 36, LOW),  # temperature of the air mass
    "moisture": (2.4, 60, 48, LOW),  # its dew point: tongues and drylines
    "aloft": (3.0, 60, 36, STEERING),  # warmth of the middle troposphere, which takes CAPE away
    "cap": (2.6, 50, 30, STEERING),  # strength of the lid, which makes CIN
    "pressure": (4.6, 70, 48, STEERING),  # stream function of the synoptic and mesoscale wind
    "eddies": (4.4, 30, 30, LOW),  # stream function of boundary-layer eddies
    "lift": (4.2, 20, 30, LOW),  # velocity potential: lines of convergence where storms begin
    "cloud": (2.2, 30, 12, LOW),  # fair-weather cloud that shades the ground
}
CYCLES = ("speed", "direction", "low_speed", "backing", "dew", "warmth")  # synoptic cycles, each of rms 1


@dataclass(frozen=True)
class World:
    """What never changes in one synthetic record. N is the outer domain's side, M the torus's."""

    size: int  # cells on a side of the stored domain
    orography: torch.Tensor  # (N, N) m
    land: torch.Tensor  # (N, N) 1 land, 0 water
    latitude: torch.Tensor  # (N, N) radians
    longitude: torch.Tensor  # (N, N) radians
    rim: torch.Tensor  # (N, N) 1 at the outermost cells, 0 from RIM cells inwards
    amplitude: torch.Tensor  # (F, M, M/2+1) standard deviation of each random coefficient
    memory: torch.Tensor  # (F, M, M/2+1) hours
    periods: np.ndarray  # (cycles, 3) days
    phases: np.ndarray  # (cycles, 3) radians


@dataclass(frozen=True)
class State:
    """Everything the next hour depends on, besides the world, the time and the random numbers."""

    modes: torch.Tensor  # (F, M, M/2+1) complex coefficients of the random fields, in the moving frame
    shift: torch.Tensor  # (2, 2) how far the LOW and STEERING winds have carried them: (x, y) cells, float64
    air: torch.Tensor  # (3, N, N) temperature reduced to sea level (K), dew point (K), cold pool's deficit (K)
    storm: torch.Tensor  # (3, N, N) updraught (1), convective and stratiform rain (mm h-1)


def make_world(size: int, seed: int) -> World:
    """The terrain, coordinates, spectra and synoptic cycles of one seed for a stored domain of size x size."""
    rng = np.random.default_rng((seed, 0))
    n = size + 2 * MARGIN
    m = -(-3 * n // 2 // 32) * 32
    x = HRRR_X0 + HRRR_SPACING * (CENTRE[1] - size // 2 - MARGIN + np.arange(n))
    y = HRRR_Y0 + HRRR_SPACING * (CENTRE[0] - size // 2 - MARGIN + np.arange(n))
    latitude, longitude = lambert_latlon(x[None, :], y[:, None])
    wavenumber = _wavenumber(m)
    spectra = [_amplitude(wavenumber, slope, scale) for slope, scale, _, _ in RANDOM.values()]
    memory = [hours * (1 + (wavenumber * scale) ** 2) ** (-1 / 4) for _, scale, hours, _ in RANDOM.values()]
    hills, mesa = (_series(_amplitude(wavenumber, s, scale) * _noise(rng, m), n) for s, scale in ((2.6, 40), (3.2, 25)))
    slope = np.linspace(1, -1, n, dtype=np.float32)[None, :] * HRRR_SPACING * n / 2 * 1e-3  # rises 1 m per km westward
    relief = 90 * hills + 60 * torch.tanh(3 * mesa)
    orography = 480 + torch.from_numpy(slope) + relief
    land = (relief > torch.quantile(relief.flatten()[:: max(1, n * n // 60_000)], 0.03)).float()  # basins hold lakes
    edge = torch.from_numpy(np.minimum(np.arange(n), np.arange(n)[::-1]).astype(np.float32))
    rim = (1 - torch.minimum(edge[None, :], edge[:, None]) / RIM).clamp(min=0)
    periods = np.array([3.1, 5.3, 9.7]) * rng.uniform(0.8, 1.25, (len(CYCLES), 3))
    phases = rng.uniform(0, 2 * np.pi, (len(CYCLES), 3))
    return World(
        size, orography, land, *(torch.from_numpy(np.radians(a)).float() for a in (latitude, longitude)),
        rim, torch.stack(spectra), torch.stack(memory), periods, phases,
    )  # fmt: skip


def first_state(world: World, rng: np.random.Generator) -> State:
    """A state without storms whose air is the air mass; a day of `advance` makes weather of it."""
    m, n = world.amplitude.shape[1], world.land.shape[0]
    modes = torch.stack([a * _noise(rng, m) for a in world.amplitude])
    air = torch.stack([torch.full((n, n), v) for v in (298.0, 290.0, 0.0)])
    return State(modes, torch.zeros(2, 2, dtype=torch.float64), air, torch.zeros(3, n, n))


def advance(world: World, state: State, time: np.datetime64, rng: np.random.Generator) -> State:
    """The state one hour after `time`; `rng` supplies what the state does not determine."""
    m = world.amplitude.shape[1]
    spread = world.amplitude * torch.sqrt(1 - torch.exp(-2 / world.memory))
    innovation = torch.stack([s * _noise(rng, m) for s in spread]) / SUBSTEPS
    step = np.timedelta64(3600 // SUBSTEPS, "s")
    for i in range(SUBSTEPS):
        state = _substep(world, state, time + i * step, innovation)
    return state


def diagnose(world: World, state: State, time: np.datetime64) -> dict[str, torch.Tensor]:
    """The seven variables (N, N) in the units of data/variables.py, and what the next step needs beside them."""
    random = dict(zip(RANDOM, _random_fields(world, state), strict=True))
    slow = cycles(world, time)
    sun, mixing = _sun(world, time), (1.3 * _sun(world, time - np.timedelta64(90, "m"))).clamp(0, 1)
    temperature, dew, pool = state.air
    updraught, rain, sheet = state.storm
    out = {"random": random, "slow": slow, "sun": sun.clamp(min=0), "mixing": mixing}

    # Temperature and dew point: cold pools are cooler by their deficit and drier by part of it.
    t2m = temperature - pool - LAPSE * (world.orography - 450)
    d2m = torch.minimum(dew - 0.35 * pool - 0.0015 * (world.orography - 450), t2m)
    # CAPE from the parcel's equivalent potential temperature against the saturated one aloft, CIN from the
    # parcel's potential temperature against that of the lid.
    pressure = 1000 * torch.exp(-world.orography / 8300)  # hPa
    vapour = 6.112 * torch.exp(17.67 * (d2m - 273.15) / (d2m - 29.65))  # hPa
    humidity = 0.622 * vapour / (pressure - 0.378 * vapour)  # kg kg-1
    theta = t2m * (1000 / pressure) ** 0.286
    parcel = theta * torch.exp(2.5e6 * humidity / (1005 * d2m))
    excess = parcel - 338.0 - 2.0 * random["aloft"]
    cape = 130 * torch.nn.functional.softplus(excess, beta=0.8)
    deficit = 307.0 + 1.3 * random["cap"] - theta - 0.2 * (d2m - 290)
    cin = -8 * torch.nn.functional.softplus(deficit, beta=1.2) ** 1.3 * cape / (cape + 100)

    # Winds: the low-level wind as friction and mixing pass it on, slopes, eddies, outflow of cold pools.
    u_low, v_low = _low_wind(random["pressure"], slow)
    roughness = (0.5 + 0.4 * mixing) * (1.25 - 0.25 * world.land)
    z_y, z_x = _gradient(world.orography)
    upslope = 90 * (mixing - 0.35)  # m/s per unit slope: up in the afternoon, down at night
    eddy_y, eddy_x = _gradient(random["eddies"])
    lift_y, lift_x = _gradient(random["lift"])
    stirred = 0.45 + 0.75 * mixing
    pool_y, pool_x = _gradient(_smooth(pool))
    steepness = torch.sqrt(1 + (pool_x**2 + pool_y**2) / 4)
    out["outflow"] = (-4 * pool_x / steepness, -4 * pool_y / steepness)
    gust = 0.25 * pool.clamp(max=6) / 6  # downdraughts bring the storm's own motion to the ground
    u_storm, v_storm = steering_wind(slow)
    spacing = HRRR_SPACING
    u10 = roughness * u_low + upslope * z_x / spacing + stirred * (-0.9 * eddy_y + 0.9 * lift_x) + gust * u_storm
    v10 = roughness * v_low + upslope * z_y / spacing + stirred * (0.9 * eddy_x + 0.9 * lift_y) + gust * v_storm
    u10, v10 = u10 + out["outflow"][0], v10 + out["outflow"][1]

    z = 200 * (rain + sheet).clamp(min=0) ** 1.6 + 0.1  # mm6 m-3, Marshall and Palmer, floor -10 dBZ
    refc = 10 * torch.log10(z)
    return out | {"REFC": refc, "T2M": t2m, "D2M": d2m, "U10": u10, "V10": v10, "CAPE": cape, "CIN": cin}


def cycles(world: World, time: np.datetime64) -> dict[str, float]:
    """The synoptic cycles at a time: sums of sines of about 3, 5 and 10 days, each of rms 1."""
    days = (np.datetime64(time, "s") - np.datetime64("2000-01-01")) / np.timedelta64(1, "D")
    values = (np.array([0.7, 0.9, 0.83]) * np.sin(2 * np.pi * days / world.periods + world.phases)).sum(1)
    return dict(zip(CYCLES, values.tolist(), strict=True))


def steering_wind(slow: dict[str, float]) -> tuple[float, float]:
    """The wind that moves storms, m/s along x and y: from the west-southwest, never stored."""
    speed, angle = 5.2 + 0.9 * slow["speed"], np.radians(22 + 18 * slow["direction"])
    return float(speed * np.cos(angle)), float(speed * np.sin(angle))


def mean_low_wind(slow: dict[str, float]) -> tuple[float, float]:
    """The mixed layer's mean wind, m/s: backed from the steering wind, so southerly as a rule."""
    speed = 4.5 + 0.6 * slow["speed"] + 0.8 * slow["low_speed"]
    angle = np.radians(22 + 18 * slow["direction"] + 50 + 14 * slow["backing"])
    return float(speed * np.cos(angle)), float(speed * np.sin(angle))


def _substep(world: World, state: State, time: np.datetime64, innovation: torch.Tensor) -> State:
    """One internal step: surface fields, growth and decay in place, then transport."""
    step = 1 / SUBSTEPS  # h
    cells = HOUR * step / HRRR_SPACING  # cells moved in a step by 1 m/s
    now = diagnose(world, state, time)
    random, slow, mixing = now["random"], now["slow"], now["mixing"]
    temperature, dew, pool = state.air
    updraught, rain, sheet = state.storm
    wet = (rain + sheet).clamp(max=20)

    # Air: sunshine and cooling towards the night's balance, lakes towards their own; the rim is the air mass.
    mass_t = 300.0 + 1.2 * slow["warmth"] + 1.3 * random["air"]
    mass_d = 290.3 + 1.0 * slow["dew"] + 3.5 * torch.tanh(1.2 * random["moisture"] + 0.2)
    shade = (1 - 0.35 * torch.sigmoid(2 * random["cloud"] - 0.5)) * torch.exp(-0.25 * wet)
    balance = mass_t - 7.0 + 20.0 * now["sun"] * shade
    warming = world.land * (balance - temperature) / 4.5 + (1 - world.land) * (mass_t - 1.0 - temperature) / 5
    dry_mixing = 1.2 * mixing * torch.sigmoid(289.5 - dew)
    moistening = (mass_d - dew) / 12 - dry_mixing + 1.2 * (1 - world.land) + 0.05 * wet * (dew < now["T2M"] - 1)
    temperature = temperature + step * warming
    dew = dew + step * moistening
    temperature = temperature + world.rim * (balance.clamp(290, 312) - temperature) * step
    dew = dew + world.rim * (mass_d - dew) * step
    pool = pool + step * (0.22 * rain.clamp(max=60) * (1 - pool / 9).clamp(min=0) - pool / 1.8)

    # Storms: begin where convergence lifts parcels through a weak lid into CAPE, grow by CAPE, die without it.
    spacing = HRRR_SPACING
    (_, u_x), (v_y, _) = _gradient(now["U10"]), _gradient(now["V10"])
    convergence = -1e4 * (u_x + v_y) / spacing  # 1e-4 s-1
    open_lid = torch.sigmoid((now["CIN"] + 25 + 5 * convergence) / 7)
    fuel = torch.sigmoid((now["CAPE"] - 1200) / 300)
    trigger = torch.sigmoid((convergence - 2.0) / 0.3) * fuel
    growth = 7.0 * fuel * open_lid * (0.8 + 0.2 * torch.tanh(convergence)) - 2.2 - 0.8 * updraught
    updraught = (updraught + step * 0.25 * trigger * open_lid) * torch.exp((step * growth).clamp(-1, 1))
    updraught = updraught + 0.1 * _laplacian(updraught)
    rain = rain + step * (160 * updraught**1.2 * torch.tanh(3 * updraught) - rain / 0.4 - 0.2)
    sheet = sheet + step * (3 * updraught.clamp(max=2) - sheet / 1.3 - 0.2)
    sheet = sheet + 0.2 * _laplacian(sheet)
    keep = (1 - world.rim).clamp(0, 1)

    # Transport: the mixed layer carries air and cold pools, the steering wind storms.
    u_low, v_low = _low_wind(random["pressure"], slow)
    u_out, v_out = now["outflow"]
    u_storm, v_storm = steering_wind(slow)
    press_y, press_x = _gradient(random["pressure"])
    air = _advect(torch.stack([temperature, dew, pool]), cells * (u_low + 0.7 * u_out), cells * (v_low + 0.7 * v_out))
    storm = torch.stack([updraught, rain, sheet]).clamp(min=0) * keep
    storm = _advect(storm, cells * (u_storm - press_y), cells * (v_storm + press_x)).clamp(min=0)
    air[2] = air[2].clamp(min=0) * keep

    carried = cells * torch.tensor([mean_low_wind(slow), (u_storm, v_storm)], dtype=torch.float64)
    modes = state.modes * torch.exp(-step / world.memory) + innovation
    return State(modes, state.shift + carried, air, storm)


def _sun(world: World, time: np.datetime64) -> torch.Tensor:
    """Cosine of the solar zenith angle (N, N)."""
    declination, hour_angle = sun_position(time)
    daily = torch.cos(world.latitude) * float(np.cos(declination)) * torch.cos(world.longitude + hour_angle)
    return torch.sin(world.latitude) * float(np.sin(declination)) + daily


def _low_wind(pressure: torch.Tensor, slow: dict[str, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """The mixed layer's wind (N, N): its mean and the synoptic part along the isobars."""
    (u, v), (y, x) = mean_low_wind(slow), _gradient(pressure)
    return u - 2.2 * y, v + 2.2 * x


def _random_fields(world: World, state: State) -> torch.Tensor:
    """(F, N, N): the random fields at their present place."""
    m, n = world.amplitude.shape[1], world.land.shape[0]
    k_y, k_x = torch.fft.fftfreq(m, dtype=torch.float64), torch.fft.rfftfreq(m, dtype=torch.float64)
    phase = [
        torch.exp(-2j * np.pi * k_y * y)[:, None].to(torch.complex64) * torch.exp(-2j * np.pi * k_x * x).to(torch.complex64)
        for x, y in state.shift.tolist()
    ]
    moved = torch.stack([state.modes[i] * phase[by] for i, (_, _, _, by) in enumerate(RANDOM.values())])
    return torch.fft.irfft2(moved, s=(m, m), norm="forward")[:, :n, :n]


def _series(modes: torch.Tensor, n: int) -> torch.Tensor:
    m = modes.shape[0]
    return torch.fft.irfft2(modes, s=(m, m), norm="forward")[:n, :n]


def _noise(rng: np.random.Generator, m: int) -> torch.Tensor:
    """Complex white noise of unit variance for the half plane of an (m, m) real field."""
    parts = rng.standard_normal((m, m // 2 + 1, 2), dtype=np.float32) * np.float32(np.sqrt(0.5))
    return torch.view_as_complex(torch.from_numpy(parts))


def _wavenumber(m: int) -> torch.Tensor:
    return torch.hypot(torch.fft.fftfreq(m)[:, None], torch.fft.rfftfreq(m)[None, :])


def _amplitude(wavenumber: torch.Tensor, slope: float, scale: float) -> torch.Tensor:
    """Coefficients' standard deviations for a 1-D spectrum k**-slope below `scale` cells.

    Potentials (slope above 3.5) are scaled to a gradient of rms 1 per cell and component, others to a
    standard deviation of 1.
    """
    amplitude = (wavenumber**2 + scale**-2) ** (-(slope + 1) / 4)
    amplitude[0, 0] = 0
    weight = (2 * np.pi * wavenumber) ** 2 / 2 if slope > 3.5 else torch.ones_like(wavenumber)
    weight = weight * torch.where(torch.arange(wavenumber.shape[1]) > 0, 2.0, 1.0)  # irfft2 doubles the others
    return amplitude / torch.sqrt((amplitude**2 * weight).sum())


def _gradient(field: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Central differences per cell along y and x."""
    return torch.gradient(field)


def _smooth(field: torch.Tensor) -> torch.Tensor:
    return field + 0.125 * _laplacian(field)


def _laplacian(field: torch.Tensor) -> torch.Tensor:
    """Five-point Laplacian per cell squared; the outermost cells see themselves outside."""
    f = torch.nn.functional.pad(field[None], (1, 1, 1, 1), mode="replicate")[0]
    return f[1:-1, 2:] + f[1:-1, :-2] + f[2:, 1:-1] + f[:-2, 1:-1] - 4 * field


def _advect(fields: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Semi-Lagrangian transport of (C, N, N) by u, v (N, N) cells per step, first along x, then along y.

    Six-point Lagrange interpolation: repeated every step it keeps waves of six cells for half a day,
    where a bilinear or four-point one would blur them away.
    """
    return _shift(_shift(fields, u).transpose(1, 2), v.T).transpose(1, 2).contiguous()


def _shift(fields: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
    """Values from `distance` cells (N, N) back along the last dimension; outside is the outermost value."""
    c, rows, n = fields.shape
    origin = (torch.arange(n) - distance).clamp(0, n - 1)
    base = origin.floor()
    t = origin - base  # 0..1 between points 0 and 1 of -2..3
    base = base.long()
    out = torch.zeros_like(fields)
    for j in range(-2, 4):
        weight = torch.ones_like(t)
        for k in range(-2, 4):
            if k != j:
                weight = weight * (t - k) / (j - k)
        index = (base + j).clamp(0, n - 1).expand(c, rows, n)
        out += weight * fields.gather(2, index)
    return out
