"""The variables table: the one place that knows what a variable is.

Everything else (normalisation, clipping, augmentation, ingest, scoring) looks a variable up here by any of its names
with `lookup`, whatever their case and punctuation. `identify` looks at the attributes of other people's arrays too, and
at the level: CAPE of a layer is not surface-based CAPE. A variable that is not in the table is allowed: it gets the
identity transform, no bounds and even mirror parity.
"""

import contextlib
import math
import re
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Variable:
    """One variable: names, units, physics. Bounds and floor are in `units`."""

    name: str  # the name in our stores
    units: str
    long_name: str
    standard_name: str = ""
    aliases: tuple[str, ...] = ()  # names in other stores
    said: str = ""  # pattern of the words that other names have beside the height in grib, such as temperature_2m
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
        aliases=("refc", "composite_reflectivity", "dbz", "REFC_entireatmosphere", "mdbz", "cref",
                 "REFC_entireatmosphere_consideredasasinglelayer_"),
        grib=("REFC", "entire atmosphere", 0.0),
        transform="floor0", lower=0.0, upper=80.0, piles_at="lower", scored_floor=0.0,
    ),
    Variable(
        "T2M", "K", "2 m temperature", "air_temperature",
        aliases=("2t", "Temp", "VAR_2T", "tas"), said="t|ta|tmp|temp|temperature|airtemperature",
        grib=("TMP", "height above ground", 2.0),
        lower=180.0, upper=340.0,
    ),
    Variable(
        "D2M", "K", "2 m dew point temperature", "dew_point_temperature",
        aliases=("2d", "Dewpoint", "VAR_2D", "tdps"), said="d|td|dpt|dew|dewpoint|dewpointtemperature",
        grib=("DPT", "height above ground", 2.0),
        lower=180.0, upper=340.0, not_above="T2M",
    ),
    Variable(
        "U10", "m s-1", "10 m wind, x component of the grid", "x_wind",
        aliases=("10u", "UGRD", "VAR_10U", "uas"),
        said="u|ugrd|uwnd|uwind|windu|ucomponent(?:ofwind)?|uwindcomponent|winducomponent|eastwardwind",
        grib=("UGRD", "height above ground", 10.0),
        lower=-100.0, upper=100.0, parity_x=-1,
    ),
    Variable(
        "V10", "m s-1", "10 m wind, y component of the grid", "y_wind",
        aliases=("10v", "VGRD", "VAR_10V", "vas"),
        said="v|vgrd|vwnd|vwind|windv|vcomponent(?:ofwind)?|vwindcomponent|windvcomponent|northwardwind",
        grib=("VGRD", "height above ground", 10.0),
        lower=-100.0, upper=100.0, parity_y=-1,
    ),
    Variable(
        "CAPE", "J kg-1", "surface-based CAPE", "atmosphere_convective_available_potential_energy",
        aliases=("cape", "cape_surface", "sbcape", "convective_available_potential_energy_surface", "m01s20i114",
                 "convective_available_potential_energy"),
        grib=("CAPE", "ground or water surface", 0.0),
        transform="sqrt", lower=0.0, upper=7000.0, piles_at="lower",
    ),
    Variable(
        "CIN", "J kg-1", "surface-based CIN, zero or negative", "atmosphere_convective_inhibition",
        aliases=("cin", "cin_surface", "sbcin", "convective_inhibition_surface", "convective_inhibition"),
        grib=("CIN", "ground or water surface", 0.0),
        transform="negative_sqrt", lower=-2000.0, upper=0.0, piles_at="upper",
    ),
    # Not "tp" nor "APCP": under these names most sources count from the start of a run. The upper bound is the highest
    # rain of an hour that was ever measured (Holt, Missouri, 1947, in 42 minutes).
    Variable(
        "RAIN", "mm", "rain of the hour before", "thickness_of_rainfall_amount",
        aliases=("precipitation_surface", "total_precipitation_1hr", "GaugeCorrQPE01H", "RadarOnlyQPE01H",
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

# Rain as models count it: since the start of a run, or of the hour; the values tell which (letters and digits).
RAIN_TOTALS = ("tp", "apcp", "apcpsurface", "rainnc", "totalprecipitation", "totprec", "var228")
ROUNDING = 0.1  # mm by which a sum since the start of a run may fall, or 1 % of the highest: both are GRIB's rounding
STANDARD_NAMES = {  # of several levels: they count only beside a level that is the variable's
    "x_wind": "U10", "eastward_wind": "U10", "grid_eastward_wind": "U10",
    "y_wind": "V10", "northward_wind": "V10", "grid_northward_wind": "V10",
} | {v.standard_name: v.name for v in TABLE if v.name not in ("U10", "V10")}  # fmt: skip
FILLS = (
    -9999.0,
    -999.0,
    -99999.0,
    -32767.0,
    -32768.0,
    -9999.9,
    -999.9,
    -999.99,
    -99.0,
    -99.99,
    99999.0,
    999999.0,
    9999.0,
)
HUGE = 1e15  # beyond any variable in SI units: 1e20, 9.999e20, 9.96921e36


def plain(name: str) -> str:
    """A name without case and punctuation."""
    return re.sub("[^a-z0-9]", "", str(name).lower())


_BY_NAME = {plain(name): v for v in TABLE for name in (v.name, *v.aliases)}
_BY_HEIGHT = [(re.compile(f"(?:{v.said}){v.grib[2]:g}m?(?:aboveground|agl)?|{v.grib[2]:g}m?(?:{v.said})"), v)
              for v in TABLE if v.said]  # fmt: skip


def known(name: str) -> bool:
    """Whether the table has a variable of this name or alias."""
    return lookup(name).units != ""


def lookup(name: str) -> Variable:
    """The table's entry for a name or alias; identity, unbounded and even for a name it does not have."""
    short = plain(name)
    by_height = (v for pattern, v in _BY_HEIGHT if pattern.fullmatch(short))
    return _BY_NAME.get(short) or next(by_height, None) or Variable(name, "", name)


def identify(name: str, attributes: dict, level: tuple[str, float] | None = None) -> tuple[str, str]:
    """(the table's name of an array of another source or "", why it is not the one that its name says or "").

    Its name counts, then short_name and standard_name, each only if the level fits. `level`: that of the scalar
    coordinates beside it, (kind, value) as of `level_of`; a name that contains a height (u10) does not need it."""
    about = {k: str(v) for k, v in attributes.items()}
    short = [about[k] for k in ("short_name", "GRIB_shortName", "GRIB_cfVarName") if k in about]
    called = next((n for n in (name, *short) if known(n)), None)
    period = f"{about.get('cell_methods', '')} {about.get('GRIB_stepType', '')}".lower()
    if called and (extreme := re.search(r"(?:time: ?|^ )(max\w*|min\w*|range|variance|standard_deviation)", period)):
        return "", f"{name} is the {extreme[1]} of a period, not {lookup(called).long_name}"
    said = level_of(name, about) or (level if called is None or not re.search(r"\d", called) else None)
    if called is not None:
        variable = lookup(called)
        if said is None or said == (variable.grib[1], variable.grib[2]):
            return variable.name, ""
        return "", f"{name} is at {said[0]} {said[1]:g}, not {variable.long_name}"
    by_standard = STANDARD_NAMES.get(about.get("standard_name", ""))
    if by_standard and said == (lookup(by_standard).grib[1], lookup(by_standard).grib[2]):
        return by_standard, ""
    return "", ""


def level_of(name: str, about: dict) -> tuple[str, float] | None:
    """(kind, value) of the level in an array's name and attributes, in the words of the table's `grib`."""
    level = " ".join(about[k] for k in ("GRIB_typeOfLevel", "level_type", "level", "GRIB_LEVEL") if k in about).lower()
    words = " ".join(about.get(k, "") for k in ("long_name", "description", "standard_name"))
    text, name = re.sub("single ?layer", "", f"{level} {name} {words}".lower()), name.lower()
    if match := re.search(r"(\d+(?:\.\d+)?)[ _-]*m(?:et(?:er|re)s?)?[ _]*(?:above|agl)", text):
        return "height above ground", float(match[1])
    if match := re.search(r"(\d+(?:\.\d+)?)[ _-]*(?:mb|hpa)", text):
        return "pressure", float(match[1])
    layers = "pressurefromground|isobaric|sigma|hybrid|tropopause|maxwind|freezing|cloud|depth|layer|most.?unstable"
    if re.search(layers, text):
        return "layer", 0.0
    if re.search("height ?(level )?above ?ground", level):
        with contextlib.suppress(KeyError, ValueError):
            return "height above ground", float(about.get("GRIB_level") or about["level"])
    heights = r"(?<![a-z\d])(\d+)[ _]?m(?![a-z\d])|(?<=[a-z])(\d+)m$|^(\d+)[uvtd]$|^[uv](\d+)$"
    if match := re.search(heights, name):  # 2m_temperature, t2m, 10u, u10
        return "height above ground", float(next(g for g in match.groups() if g))
    if "atmosphere" in level:
        return "entire atmosphere", 0.0
    return ("ground or water surface", 0.0) if re.search(r"surface|(?<![a-z])sfc", level) else None


def coordinate_level(name: str, value: float, about: dict) -> tuple[str, float] | None:
    """The level (kind, value) of a scalar coordinate; None for one that is no level."""
    short, units = plain(name), str(about.get("units", "")).lower()
    if short in ("heightaboveground", "height", "altitude") or about.get("standard_name") == "height":
        return "height above ground", value * (1000 if units.startswith("k") else 1)
    if short in ("surface", "meansea"):
        return "ground or water surface", 0.0
    if short.startswith(("atmosphere", "entireatmosphere")):
        return "entire atmosphere", 0.0
    if units in ("hpa", "mb", "millibar", "pa") or about.get("standard_name") == "air_pressure":
        return "pressure", value / (100 if units == "pa" else 1)
    vertical = "level", "plev", "lev", "sigma", "hybrid", "isobaricinhpa", "depthbelowlandlayer"
    if short in vertical or short.startswith("pressurefromground") or "positive" in about or about.get("axis") == "Z":
        return f"{name}, layer or level", value
    return None


def falls(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether sums of rain (mm) in two fields, of which one cell or more is known, fall by more than rounding."""
    return bool(np.nanmin(after - before) < -max(ROUNDING, 0.01 * float(np.nanmax(before))))


def undeclared(name: str, values: np.ndarray, scale: tuple[float, float] = (1, 0)) -> tuple[float, int] | None:
    """(value, cells) of a fill value that stands among the values of a field, as no attribute declared it; else None.
    It is the lowest or the highest: infinite, beyond anything in SI units, one that tools use for missing data and
    beyond the bounds of the variable, or one of these or far beyond the bounds and far from every other value.
    `scale`: factor and offset from the values to the table's unit."""
    table, (factor, offset) = lookup(name), scale
    lower, upper = ((bound - offset) / factor for bound in (table.lower, table.upper))
    for value in (float(np.fmin.reduce(values, axis=None)), float(np.fmax.reduce(values, axis=None))):
        usual = any(abs(value - f) <= 1e-6 * abs(f) for f in FILLS)
        beyond = max(lower - value, value - upper)
        if abs(value) < HUGE and not (usual and beyond > 0):
            if not usual and not beyond > upper - lower:
                continue
            others = values[np.isfinite(values) & (values != value)]
            if not others.size or np.abs(others - value).min() <= np.ptp(others):
                continue
        if not np.isnan(value):
            return value, int((values == value).sum())
    return None


def refuse_undeclared(where: str, name: str, values: np.ndarray, time: str, array="", scale=(1, 0), packing=(1, 0)):
    """ValueError, whose fix is to declare it, for a fill value among the values of a field of a variable, which its
    source calls `array`, has in another unit (`scale`) and perhaps packed in whole numbers (`packing`)."""
    if found := undeclared(name, values, scale):
        value, cells = found
        stored = round((value - packing[1]) / packing[0]) if packing != (1, 0) else str(np.float32(value))
        array, what = array or name, "infinite values" if np.isinf(value) else f"{value:g}"
        raise ValueError(
            f"{where}: {array} at {time}: got {what} in {cells} cells, which nobody declared as missing, expected "
            f"weather. Fix: declare it: give {array} in the source the attribute _FillValue (or missing_value) {stored}"
        )
