"""What verify_forecast.py writes: scores.json, and the certificate into the forecast store."""

import json
import math
import os
from pathlib import Path

import zarr


def write_scores(path: Path, result: dict) -> None:
    """Write scores.json whole or not at all; what is not a number becomes null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(without_nan(result), indent=1, allow_nan=False) + "\n")
    os.replace(temporary, path)


def write_certificate(store: str, result: dict) -> str:
    """Put the certificate into the attributes of the forecast store, as JSON text, so that it travels with the
    forecast; returns a line to print where the store cannot be written."""
    told = {k: result[k] for k in ("certificate", "certificate_notes")}
    told["certificate_init_times"] = result["init_times"]
    try:
        # A group knows its consolidated metadata, if it has any, and writes them again beside the attributes.
        group = zarr.open_group(store, mode="r+")
        group.attrs.update({k: json.dumps(without_nan(v), allow_nan=False) for k, v in told.items()})
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        return f"note: the certificate was not written into {store} ({type(error).__name__}: {error})"
    return f"wrote the certificate into the attributes of {store}"


def without_nan(value):
    """The same nested dicts and lists with None for every number that is not finite, as JSON needs it."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
