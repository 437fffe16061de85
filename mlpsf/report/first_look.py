"""A first look at a file: what is in it, and what was made of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from mlpsf.detection.bad_pixels import fill_lone_pixels
from mlpsf.detection.sources import find_sources
from mlpsf.errors import NoSourcesError
from mlpsf.flags import NEVER_A_PSF_STAR
from mlpsf.frames.geometry import pixel_scale
from mlpsf.frames.io.fitsio import open_fits
from mlpsf.frames.io.reading import list_images, read_frame
from mlpsf.neighbours.crowding import is_crowded
from mlpsf.selection.choice import N_MIN
from mlpsf.selection.eligibility import SNR_MIN, flag_ineligible, flag_other_sizes
from mlpsf.selection.too_few import fainter
from mlpsf.selection.verdict import LEFT_WHOLE, flag_verdict, judge_frame

__all__ = ["as_text", "first_look"]


def first_look(
    path: str | os.PathLike[str], hdu: int | str | None = None, **given: Any
) -> dict[str, Any]:
    """Return what is read of a FITS file, and what is measured on the image.

    Parameters
    ----------
    path : path-like
    hdu : int or str, optional
        As in `mlpsf.read_frame`.
    **given
        ``gain``, ``saturation`` and ``mask`` as in `mlpsf.read_frame`.

    Returns
    -------
    dict
        ``hdus`` (number, kind, name and shape of each), ``read`` (name of the image), ``shape``,
        ``unit``, ``gain``, ``saturation`` and ``read_noise`` with ``_from`` of each, ``guessed``,
        ``masked`` (share of the pixels), ``pixel_scale`` (arcsec), ``centre`` (ra and dec in
        degrees), ``sky``, ``sky_noise``, ``n_sources``, ``n_possible`` (bright, whole sources of
        the stars' size, of which PSF stars are chosen; None in a crowd), ``fainter`` (advice where
        some are only too faint), ``fwhm``, ``ellipticity``, ``verdict`` and
        ``verdict_reason``. None where a value is not known.

    Raises
    ------
    FrameError, InputError

    Examples
    --------
    >>> import tempfile
    >>> from mlpsf import simulate_frame
    >>> path = Path(tempfile.mkdtemp()) / "a.fits"
    >>> simulate_frame(shape=(300, 320), n_stars=40, n_galaxies=0, fwhm=3.0, seed=2).write(path)
    >>> look = first_look(path)
    >>> look["shape"], look["unit"], look["hdus"][0]["kind"]
    ((300, 320), 'adu', 'Primary')
    """
    path = Path(path)
    images = {number: shape for number, _, shape in list_images(path)}
    with open_fits(path) as hdus:
        listed = [
            {
                "number": k,
                "name": f"{item.name},{item.ver}" if item.name else "",
                "kind": type(item).__name__.removesuffix("HDU"),
                "shape": images.get(k),
            }
            for k, item in enumerate(hdus)
        ]
    frame = read_frame(path, hdu=hdu, **given)
    look: dict[str, Any] = {"hdus": listed, "read": frame.name, "shape": frame.shape}
    look["unit"] = frame.unit_name
    look["unit_from"] = frame.origin.get("unit", "")
    for name in ("gain", "saturation", "read_noise"):
        value = getattr(frame, name)
        look[name] = value if np.isfinite(value) else None
        look[f"{name}_from"] = frame.origin.get(name, "")
    look["guessed"] = sorted(frame.guessed)
    look["masked"] = float(frame.mask.mean())
    look["errors"] = "a plane" if frame.variance is not None else "from sky, gain and read noise"
    look["pixel_scale"] = pixel_scale(frame.wcs)
    look["centre"] = _centre(frame)
    look["sky"] = float(np.median(frame.background.level))
    look["sky_noise"] = float(np.median(frame.background.rms))
    look |= {"n_sources": 0, "n_possible": 0, "fainter": ""}
    look |= dict.fromkeys(("fwhm", "ellipticity", "verdict", "verdict_reason"))
    frame = fill_lone_pixels(frame)  # as where stars are chosen
    try:
        sources = find_sources(frame)
    except NoSourcesError as error:
        return look | {"verdict": "no stars", "verdict_reason": str(error)}
    look |= {"n_sources": len(sources)}
    look |= {name: float(sources.meta[name]) for name in ("fwhm", "ellipticity")}
    verdict = judge_frame(frame, sources)
    if verdict["verdict"] not in LEFT_WHOLE and is_crowded(sources):
        return look | verdict | {"n_possible": None}
    flag_verdict(sources, verdict)
    flag_ineligible(frame, sources)
    flag_other_sizes(sources)
    look["n_possible"] = int((np.asarray(sources["flags"]) & NEVER_A_PSF_STAR == 0).sum())
    look["fainter"] = fainter(sources, N_MIN - look["n_possible"])
    return look | verdict


def _possible(look: dict[str, Any]) -> str:
    """Return how many stars may be chosen, and what to do where they are too few."""
    n = look["n_possible"]
    if n is None:
        return "not counted: the light of neighbours is taken away first"
    text = f"{n} at most: S/N over {SNR_MIN:g}, whole, not saturated, of the stars' size"
    if n >= N_MIN or look["verdict"] in LEFT_WHOLE:
        return text
    return f"{text}. mlpsf psf asks for {N_MIN} (--n-min, --relax){look['fainter']}"


def _centre(frame: Any) -> tuple[float, float] | None:
    if frame.wcs is None or not frame.wcs.has_celestial:
        return None
    ny, nx = frame.shape
    ra, dec = frame.wcs.celestial.pixel_to_world_values((nx - 1) / 2, (ny - 1) / 2)
    return (float(ra), float(dec)) if np.isfinite([ra, dec]).all() else None


def as_text(look: dict[str, Any]) -> str:
    """Return a first look as lines of text."""
    lines = [
        f"  {h['number']:>3}  {h['kind']:<10} {h['name']:<16} "
        + ("" if h["shape"] is None else "{} x {} pixels".format(*h["shape"]))
        for h in look["hdus"]
    ]
    unit = look["unit"]
    told = {
        "read": f"{look['read']}: " + "{} rows x {} columns".format(*look["shape"]),
        "unit": f"{unit} ({look['unit_from']})",
        "gain": _valued(look, "gain", f"e/{unit}"),
        "saturation": _valued(look, "saturation", unit),
        "read noise": _valued(look, "read_noise", "e"),
        "errors": look["errors"],
        "masked": f"{look['masked']:.2%} of the pixels",
        "coordinates": _sky_place(look),
        "sky": f"{look['sky']:.6g} {unit}, noise {look['sky_noise']:.4g} {unit}",
        "sources": str(look["n_sources"]),
    }
    if look["fwhm"] is not None:
        scale = look["pixel_scale"]
        seeing = "" if scale is None else f", {look['fwhm'] * scale:.2f} arcsec"
        told["FWHM"] = f"{look['fwhm']:.2f} pixels{seeing}; ellipticity {look['ellipticity']:.3f}"
    told["PSF stars"] = _possible(look)
    told["verdict"] = f"{look['verdict']}: {look['verdict_reason']}"
    return "\n".join(["HDUs", *lines, *(f"{name:<12} {text}" for name, text in told.items())])


def _valued(look: dict[str, Any], name: str, unit: str) -> str:
    value = "not known" if look[name] is None else f"{look[name]:.6g} {unit}"
    guess = "guessed; " if name in look["guessed"] else ""
    source = f"{guess}{look[f'{name}_from']}".rstrip("; ")
    return f"{value} ({source})" if source else value


def _sky_place(look: dict[str, Any]) -> str:
    if look["centre"] is None:
        return "none"
    scale = "" if look["pixel_scale"] is None else f", {look['pixel_scale']:.4g} arcsec a pixel"
    return "centre at ra {:.5f}, dec {:+.5f} degrees".format(*look["centre"]) + scale
