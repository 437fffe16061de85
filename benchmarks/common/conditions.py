"""Figures of merit by condition: seeing, S/N, crowding, optics, detector."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from benchmarks.common.scores import score

_FEWEST = 40  # sources of either class, or the figures say nothing
_SHOWN = ("ROC AUC", "balanced accuracy", "precision at 0.9", "recall at 0.9", "calibration error")


def ranges(name: str, values: NDArray, edges: tuple[float, ...]) -> Iterator[tuple[str, NDArray]]:
    """Give each range of a value and the rows in it."""
    for low, high in pairwise(edges):
        label = f"{name} {low:g} to {high:g}" if np.isfinite(high) else f"{name} over {low:g}"
        yield label, (values >= low) & (values < high)


def conditions_of(
    data: dict[str, NDArray], parameters: dict[int, dict[str, Any]]
) -> Iterator[tuple[str, NDArray]]:
    """Give each condition and the sources that were seen under it."""
    bright = data["aperture_snr"] > 200

    def of_frame(value: Any) -> NDArray:
        table = {frame: value(drawn) for frame, drawn in parameters.items()}
        return np.array([table[frame] for frame in data["frame"]])

    def crowding(drawn: dict[str, Any]) -> float:
        objects = drawn["n_stars"] + drawn["n_galaxies"]
        return float(1000 * objects * drawn["fwhm"] ** 2 / np.prod(drawn["shape"]))

    yield from ranges("S/N", data["aperture_snr"], (50, 100, 200, 500, np.inf))
    for label, rows in ranges("FWHM", data["true_fwhm"], (1.3, 2, 3, 4.5, 6.5, 9, np.inf)):
        yield label, rows & bright
    for label, rows in ranges(
        "objects per 1000 FWHM squared", of_frame(crowding), (0, 2, 6, 15, np.inf)
    ):
        yield label, rows & bright
    density = of_frame(lambda d: 1e6 * d["n_stars"] / np.prod(d["shape"]))
    for label, rows in ranges("stars a megapixel", density, (1000, 3000, 8000, np.inf)):
        yield label, rows & bright
    kinds = of_frame(lambda drawn: drawn["psf"])
    for kind in np.unique(kinds):
        yield f"PSF {kind}", (kinds == kind) & bright
    yes: dict[str, Any] = {
        "elongated over 0.1": lambda d: np.hypot(d["e1"], d["e2"]) > 0.1,
        "trailed": lambda d: d.get("trail", 0) > 0,
        "PSF varies over 5 %": lambda d: d["psf_variation"] > 0.05,
        "PSF varies over 60 %": lambda d: d["psf_variation"] > 0.6,
        "diffraction": lambda d: d.get("optics", {}).get("seeing", 0.8) < 0.8,
        "segmented mirror": lambda d: d.get("optics", {}).get("segments", 0) > 0,
        "defocused": lambda d: abs(d.get("optics", {}).get("defocus", 0)) > 0.15,
        "doubled": lambda d: d.get("double") is not None,
        "plate": lambda d: d.get("plate", 0) > 0,
        "drizzled": lambda d: d.get("drizzle", 0) > 0,
        "unit without a gain": lambda d: "unit" in d,
        "correlated noise": lambda d: d.get("resampling", 0) > 0 or d.get("drizzle", 0) > 0,
        "bright sky steps or gradients": lambda d: (
            d.get("sky_step", 0) > 0 or d["sky_gradient"] > 0.1
        ),
        "over 100 cosmic rays a megapixel": lambda d: (
            d["cosmic_rays"] > 100 * np.prod(d["shape"]) / 2**20
        ),
        "clustered": lambda d: d.get("clustering", 0) > 0,
        "brighter-fatter": lambda d: d.get("brighter_fatter", 0) > 0,
        "pixels over 1 arcsec": lambda d: d.get("pixel_scale", 0) > 1,
    }
    for label, is_so in yes.items():
        yield label, of_frame(is_so).astype(bool) & bright


def by_condition(
    data: dict[str, NDArray], p: NDArray, parameters: dict[int, dict[str, Any]]
) -> Table:
    """Score each condition that has enough sources of both classes.

    Parameters
    ----------
    data : dict of ndarray
        Of S/N > 50; all conditions but those of S/N are of sources over 200.
    p : ndarray, shape (n,)
        Probabilities of good.
    parameters : dict
        What each frame was drawn from.
    """
    rows = []
    for name, inside in conditions_of(data, parameters):
        y = data["label"][inside]
        if min((y == 1).sum(), (y == 0).sum()) < _FEWEST:
            continue
        figures = score(y, p[inside], data["frame"][inside])
        row: dict[str, Any] = {"condition": name, "sources": len(y)}
        row |= {
            str(f["score"]): round(float(f["value"]), 4) for f in figures if f["score"] in _SHOWN
        }
        row["AUC low"] = round(float(figures["low"][0]), 4)
        row["AUC high"] = round(float(figures["high"][0]), 4)
        rows.append(row)
    return Table(rows) if rows else Table(names=["condition"], dtype=[str])
