"""Units as sources write them, and how they become those of the variables table."""

# Unit of the table -> {unit as sources write it, lower case and without * and ^: (factor, offset)}.
CONVERSIONS: dict[str, dict[str, tuple[float, float]]] = {
    "K": dict.fromkeys(("k", "kelvin", "degk"), (1, 0))
    | dict.fromkeys(("degree_celsius", "degrees_celsius", "celsius", "degc", "deg_c", "c", "°c"), (1, 273.15)),
    "m s-1": dict.fromkeys(("m s-1", "m/s", "m.s-1", "meters per second", "metre per second"), (1, 0))
    | dict.fromkeys(("knot", "knots", "kt", "kts"), (1852 / 3600, 0))
    | dict.fromkeys(("km/h", "km h-1", "kmh"), (1 / 3.6, 0)),
    "dBZ": dict.fromkeys(("dbz", "db"), (1, 0)),
    "mm": dict.fromkeys(("mm", "kg m-2", "kg/m2", "mm h-1", "mm/h"), (1, 0))  # in an hour
    | dict.fromkeys(("m",), (1000, 0))
    | dict.fromkeys(("kg m-2 s-1", "mm s-1", "mm/s"), (3600, 0)),  # the mean rate of the hour
    "J kg-1": dict.fromkeys(("j kg-1", "j/kg", "m2 s-2", "m2/s2"), (1, 0)),
}


def conversion(found: str, wanted: str) -> tuple[float, float] | None:
    """(factor, offset) that turn values in the unit `found` into `wanted`, a unit of the variables table:
    x * factor + offset. None for a unit that is not known."""
    return CONVERSIONS[wanted].get(" ".join(found.lower().replace("*", "").replace("^", "").split()))
