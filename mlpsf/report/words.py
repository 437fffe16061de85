"""The sentences and figures of a report."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from astropy.table import Table

from mlpsf.frames.frame import Frame
from mlpsf.frames.geometry import pixel_scale
from mlpsf.psf.quality.figures import ELLIPTICITY_LIMIT, SIZE_LIMIT, PSFQuality
from mlpsf.rich import known

__all__ = ["Fact", "Verdict", "facts", "meanings", "verdict_of"]


class Verdict(NamedTuple):
    """The verdict on a frame: good, care or bad, in a word and in a sentence."""

    level: str
    word: str
    text: str


class Fact(NamedTuple):
    """A figure of the frame, and what is to be said of it."""

    name: str
    value: str
    note: str = ""


def verdict_of(stars: Table, psf: Any, quality: PSFQuality | None, error: str) -> Verdict:
    """Return the verdict on a frame, its stars and its PSF."""
    verdict = str(stars.meta.get("verdict", "good"))
    reason = str(stars.meta.get("verdict_reason", ""))
    n = int(np.asarray(stars["selected"], bool).sum())
    if error or psf is None:
        level = "bad"
    else:
        level = "good" if verdict == "good" and not stars.meta.get("relaxed") else "care"
    counted = f"{n} of {len(stars)} sources are chosen"
    text = f"{counted}. {reason[:1].upper()}{reason[1:]}." if reason else f"{counted}."
    if quality is not None and quality.reserved and quality.score - quality.score_error > 1:
        level = "care"
        text += " Reserve stars say that the PSF is off: see below."
    return Verdict(level, "no PSF" if error else verdict, text)


def facts(frame: Frame, stars: Table, psf: Any) -> list[Fact]:
    """Return the figures that a page begins with."""
    meta = stars.meta
    fwhm = psf.fwhm if psf is not None else float(meta["fwhm"])
    ellipticity = psf.ellipticity if psf is not None else float(meta["ellipticity"])
    scale = pixel_scale(frame.wcs)
    seeing = "" if scale is None else f"{fwhm * scale:.2f} arcsec"
    whose = "of the PSF" if psf is not None else "of the stars"
    unit = frame.unit_name
    sky = frame.background
    said = [
        Fact("FWHM", f"{fwhm:.2f} pixels", ", ".join(t for t in (seeing, whose) if t)),
        Fact("Ellipticity", f"{ellipticity:.3f}", f"1 \N{MINUS SIGN} b/a, {whose}"),
    ]
    if psf is not None:
        order = ("constant", "linear", "quadratic", "cubic")[psf.order]
        change = [
            f"{name} by {psf.meta[key]:.1%} rms"
            if key == "fwhm_variation"
            else f"{name} by {psf.meta[key]:.3f} rms"
            for key, name in (("fwhm_variation", "FWHM"), ("shape_variation", "ellipticity"))
            if psf.varies and key in psf.meta
        ]
        said.append(Fact("Over the frame", order, ", ".join(change)))
    reserved = int(meta.get("n_reserved", 0))
    kept = f"{reserved} more kept to judge it" if reserved else "none kept to judge it"
    n = int(np.asarray(stars["selected"], bool).sum())
    level, rms = float(np.median(sky.level)), float(np.median(sky.rms))
    said += [
        Fact("Stars", f"{n} make the PSF" if psf is not None else f"{n} chosen", kept),
        Fact("Sky", f"{level:.5g} {unit}", f"noise {rms:.3g} {unit}"),
    ]
    for name, value, of in (
        ("gain", frame.gain, f"e/{unit}"),
        ("saturation", frame.saturation, unit),
    ):
        source = frame.origin.get(name, "")
        guessed = "a guess; " if name in frame.guessed else ""
        said.append(Fact(name.capitalize(), known(value, of), f"{guessed}{source}".strip("; ")))
    return said


def meanings(quality: PSFQuality) -> list[tuple[str, str, str]]:
    """Return the figures of a PSF's judges: name, value, and what it means."""
    q = quality
    wide = "wider" if q.size_residual > 0 else "narrower"
    return [
        (
            "Size, dT/T",
            f"{q.size_residual:+.4f} \N{PLUS-MINUS SIGN} {q.size_error:.4f}",
            f"The PSF's area is {abs(q.size_residual):.2%} {wide} than the stars'. Weak lensing "
            f"asks for {SIZE_LIMIT:.1%} or less.",
        ),
        (
            "Ellipticity",
            f"{q.ellipticity_residual:.4f} \N{PLUS-MINUS SIGN} {q.e_error:.4f}",
            f"So much the PSF's shape is off. Weak lensing asks for {ELLIPTICITY_LIMIT:g} or less.",
        ),
        (
            "Flux within 1.5 FWHM",
            f"{q.flux_residual:+.4f} \N{PLUS-MINUS SIGN} {q.flux_error:.4f}",
            "Relative error of photometry whose aperture is corrected with this PSF.",
        ),
        (
            "Chi-square",
            f"{q.chi_square:.2f}",
            "1: what the PSF leaves of a star is noise. Of bright stars it is more with the best "
            "of PSFs.",
        ),
        (
            "Largest residual",
            f"{q.residual_peak:.4f}",
            "Of the stack of all these stars, over the peak of the PSF.",
        ),
        (
            "Score",
            f"{q.score:.2f} \N{PLUS-MINUS SIGN} {q.score_error:.2f}",
            "1 just meets what weak lensing asks for in size and shape; less is better. An error "
            "above 1: so few stars cannot tell.",
        ),
    ]
