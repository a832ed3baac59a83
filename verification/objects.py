"""Storms as objects: connected areas of strong echo, their number, size, strength, and whether they are matched."""

import numpy as np

STRONG = 30.0  # dBZ, the edge of an object
SMALLEST = 4  # cells; a smaller area is speckle
BINS = np.arange(0.0, 100.5, 0.5)  # dBZ, classes of echo strength


def label(event: np.ndarray) -> np.ndarray:
    """Number the connected areas (8 neighbours) of a (y, x) bool field: 0 outside, 1, 2, ... in order of first cell.

    Every cell starts as its own root; neighbours take the smaller root and chains are shortened until nothing
    changes (Shiloach and Vishkin, 1982), which is a few passes over arrays even for a winding squall line.
    """
    event = np.asarray(event, bool)
    cells = np.flatnonzero(event)
    number = np.full(event.shape, -1)
    number.flat[cells] = np.arange(cells.size)
    edges = []
    for a, b in (
        (number[:, :-1], number[:, 1:]), (number[:-1], number[1:]),
        (number[:-1, :-1], number[1:, 1:]), (number[:-1, 1:], number[1:, :-1]),
    ):  # fmt: skip
        both = (a >= 0) & (b >= 0)
        edges.append(np.stack([a[both], b[both]]))
    a, b = np.concatenate(edges, axis=1)
    root = np.arange(cells.size)
    while (root[a] != root[b]).any():
        low, high = np.minimum(root[a], root[b]), np.maximum(root[a], root[b])
        np.minimum.at(root, high, low)
        while (root != root[root]).any():
            root = root[root]
    out = np.zeros(event.shape, np.int64)
    out.flat[cells] = np.unique(root, return_inverse=True)[1] + 1
    return out


def object_sums(forecast, truth, scored=None, strong: float = STRONG, smallest: int = SMALLEST) -> dict:
    """Sums of one case of (y, x) fields in dBZ: objects, their cells, how many share a cell with an object of the
    other field, and the histogram of echo inside them; each for forecast and truth."""
    fields = [np.asarray(x) if scored is None else np.where(scored, x, -np.inf) for x in (forecast, truth)]
    labels = [_large(label(x >= strong), smallest) for x in fields]
    out = {}
    for side, x, own, other in zip(("forecast", "truth"), fields, labels, labels[::-1], strict=True):
        found = np.unique(own[own > 0])
        out[side] = {
            "count": float(found.size),
            "cells": float((own > 0).sum()),
            "matched": float(np.unique(own[(own > 0) & (other > 0)]).size),
            "histogram": np.histogram(np.clip(x[own > 0], BINS[0], BINS[-1]), BINS)[0].astype(float),
        }
    return out


def object_scores(sums: dict, cases: int, cell_area: float) -> dict:
    """By side: objects per case, mean area (unit of `cell_area`, that of one cell), the echo that 1 % of their cells
    exceed, and the share matched by an object of the other side; NaN where there was none."""
    out = {}
    for side, s in sums.items():
        count, cells = s["count"], s["cells"]
        out[side] = {
            "per_case": count / cases,
            "mean_area_km2": cells / count * cell_area if count else np.nan,
            "p99": _quantile(s["histogram"], 0.99) if cells else np.nan,
            "matched_share": s["matched"] / count if count else np.nan,
        }
    return out


def _large(labels: np.ndarray, smallest: int) -> np.ndarray:
    """The labels without the areas of fewer than `smallest` cells."""
    keep = np.bincount(labels.ravel()) >= smallest
    keep[0] = False
    return np.where(keep[labels], labels, 0)


def _quantile(histogram: np.ndarray, q: float) -> float:
    """The upper end of the class in which the share q of all counts is reached."""
    return float(BINS[1:][np.searchsorted(np.cumsum(histogram), q * histogram.sum())])
