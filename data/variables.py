"""The variables table: the one place that knows what a variable is.

Everything else (normalisation, clipping, augmentation, ingest, scoring) looks a variable up here by
any of its names with `lookup`. A variable that is not in the table is allowed: it gets the identity
transform, no bounds and even mirror parity, and `lookup` says so once through `notes`.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Variable:
    """One variable: names, units, physics. Bounds and floor are in `units`."""

    name: str  # the name in our stores
    units: str
    long_name: str
    standard_name: str = ""
    aliases: tuple[str, ...] = ()  # names in other stores
    grib: tuple[str, str, float] | None = None  # (abbreviation, level type, level) as in NOAA's inventories
    transform: str = "identity"  # "identity", "floor0" (max(x, 0)), "sqrt", "cube_root", "negative_sqrt" (-sqrt(-x))
    lower: float = -math.inf  # physical bounds; forecasts are clipped to them
    upper: float = math.inf
    piles_at: str = ""  # "lower" or "upper": many cells sit exactly at this bound (no echo, no CAPE)
    parity_x: int = 1  # sign after a mirror along x (east-west); -1 for the x component of a vector
    parity_y: int = 1  # sign after a mirror along y
    not_above: str = ""  # a forecast of this variable never exceeds that one (dew point and temperature)
    scored_floor: float = -math.inf  # scores apply max(x, scored_floor) to forecast, truth and baselines alike


TABLE: tuple[Variable, ...] = (
    Variable(
        "REFC", "dBZ", "composite reflectivity", "equivalent_reflectivity_factor",
        aliases=("refc", "composite_reflectivity", "dbz", "DBZ"),
        grib=("REFC", "entire atmosphere", 0.0),
        transform="floor0", lower=0.0, upper=80.0, piles_at="lower", scored_floor=0.0,
    ),
    Variable(
        "T2M", "K", "2 m temperature", "air_temperature",
        aliases=("t2m", "2t", "t2", "tmp2m", "temperature_2m", "2m_temperature", "Temp"),
        grib=("TMP", "height above ground", 2.0),
        lower=180.0, upper=340.0,
    ),
    Variable(
        "D2M", "K", "2 m dew point temperature", "dew_point_temperature",
        aliases=("d2m", "2d", "dpt2m", "dew_point_temperature_2m", "2m_dewpoint_temperature", "Dewpoint"),
        grib=("DPT", "height above ground", 2.0),
        lower=180.0, upper=340.0, not_above="T2M",
    ),
    Variable(
        "U10", "m s-1", "10 m wind, x component of the grid", "x_wind",
        aliases=("u10", "10u", "u10m", "wind_u_10m", "10m_u_component_of_wind", "UGRD"),
        grib=("UGRD", "height above ground", 10.0),
        lower=-100.0, upper=100.0, parity_x=-1,
    ),
    Variable(
        "V10", "m s-1", "10 m wind, y component of the grid", "y_wind",
        aliases=("v10", "10v", "v10m", "wind_v_10m", "10m_v_component_of_wind", "VGRD"),
        grib=("VGRD", "height above ground", 10.0),
        lower=-100.0, upper=100.0, parity_y=-1,
    ),
    Variable(
        "CAPE", "J kg-1", "surface-based CAPE", "atmosphere_convective_available_potential_energy",
        aliases=("cape", "cape_surface", "sbcape"),
        grib=("CAPE", "ground or water surface", 0.0),
        transform="sqrt", lower=0.0, upper=7000.0, piles_at="lower",
    ),
    Variable(
        "CIN", "J kg-1", "surface-based CIN, zero or negative", "atmosphere_convective_inhibition",
        aliases=("cin", "cin_surface", "sbcin"),
        grib=("CIN", "ground or water surface", 0.0),
        transform="negative_sqrt", lower=-2000.0, upper=0.0, piles_at="upper",
    ),
    # Not "tp" nor "APCP": under these names most sources count from the start of a run. The upper bound is the highest
    # rain of an hour that was ever measured (Holt, Missouri, 1947, in 42 minutes).
    Variable(
        "RAIN", "mm", "rain of the hour before", "thickness_of_rainfall_amount",
        aliases=("rain", "precipitation_surface", "total_precipitation_1hr", "GaugeCorrQPE01H", "RadarOnlyQPE01H",
                 "MultiSensorQPE01H"),
        grib=("APCP", "ground or water surface", 0.0),
        transform="cube_root", lower=0.0, upper=305.0, piles_at="lower", scored_floor=0.0,
    ),
)  # fmt: skip

# Static (y, x) fields with the GRIB match that ingest uses.
OROGRAPHY = Variable(
    "orography", "m", "height of the surface", "surface_altitude",
    grib=("HGT", "ground or water surface", 0.0),
)  # fmt: skip
LAND_SEA_MASK = Variable(
    "land_sea_mask", "1", "land fraction", "land_binary_mask",
    grib=("LAND", "ground or water surface", 0.0),
)  # fmt: skip
STATIC: tuple[Variable, ...] = (OROGRAPHY, LAND_SEA_MASK)

_BY_NAME = {name: v for v in TABLE for name in (v.name, *v.aliases)}


def known(name: str) -> bool:
    """Whether the table has a variable of this name or alias."""
    return name in _BY_NAME


def lookup(name: str) -> Variable:
    """The table's entry for a name or alias; identity, unbounded and even for a name it does not have."""
    return _BY_NAME.get(name) or Variable(name, "", name)
