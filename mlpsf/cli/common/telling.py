"""The results of a command: in words, and as values for scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from mlpsf.errors import printable
from mlpsf.rich import known

__all__ = ["figures", "judgement", "order_of", "summary", "tell"]


def tell(*lines: str) -> None:
    """Print lines on stderr.

    Names in them are others' text: what would act on a terminal, or end a line, is escaped.
    """
    for line in lines:
        typer.echo(printable(line).replace("\n", "\\n"), err=True)


def order_of(psf: Any) -> str:
    """Return the order of a PSF's variation in words, with its reason, if both are known."""
    if "order_reason" not in psf.meta:
        return ""
    order = ("constant", "linear", "quadratic", "cubic")[psf.meta["order"]]
    least, most = (psf.meta.get(name) for name in ("fwhm_least", "fwhm_most"))
    seen = f", FWHM {least:.2f} to {most:.2f}" if psf.varies and least is not None else ""
    return f"; {order} over the frame{seen}: {psf.meta['order_reason']}"


def judgement(quality: Any) -> str:
    """Return a line on the quality of a PSF from reserve stars."""
    return (
        f"{quality.n_stars} reserve stars: dT/T {quality.size_residual:+.4f} +- "
        f"{quality.size_error:.4f}, ellipticity off by {quality.ellipticity_residual:.4f} +- "
        f"{quality.e_error:.4f}, chi-square {quality.chi_square:.2f}; score {quality.score:.1f} "
        "(1 just meets what weak lensing asks)."
    )


def summary(table: Any, path: Path) -> list[str]:
    """Return what was chosen, in a line, and the verdict in others."""
    meta = table.meta
    relaxed = ""
    if meta["relaxed"]:
        least = min(table["probability"][table["selected"]], default=float("nan"))
        relaxed = f" (relaxed: the least probable is one by {least:.2g})"
    reserved = f", {meta['n_reserved']} reserved" if meta["n_reserved"] else ""
    verdicts = []
    if "verdict" in meta:
        verdicts = [f"Verdict: {meta['verdict']}: {meta['verdict_reason']}."]
    for name, said in meta.get("verdicts", {}).items():
        verdicts.append(f"Verdict on frame {name}: {said.rstrip('.')}.")
    return [
        f"{meta['frame']}: {meta['n_selected']} of {meta['n_sources']} sources "
        f"selected{relaxed}{reserved}; "
        f"FWHM {meta['fwhm']:.2f} pixels; table in {path}.{_guesses(meta)}",
        *_crowd(meta),
        *verdicts,
    ]


def _crowd(meta: Any) -> list[str]:
    """Say what was done where stars have neighbours."""
    if not meta.get("n_subtracted"):
        return []
    return [
        f"A crowd: {meta['n_subtracted']:,} stars, hidden ones too, were fitted together; each was "
        "judged without the others."
    ]


def _guesses(meta: Any) -> str:
    """Say where gain, saturation and unit are from if neither header nor user gave them."""
    unit = meta["unit"] or "ADU"
    texts = {
        "gain": f"gain {known(meta['gain'], f'e/{unit}', 3)} ({meta['gain_from']})",
        "saturation": f"saturation {known(meta['saturation'], unit, 6)} "
        f"({meta['saturation_from']})",
        "unit": "unit ADU",
    }
    guessed = [text for key, text in texts.items() if key in meta["guessed"].split(", ")]
    return f" Guessed: {'; '.join(guessed)}." if guessed else ""


def figures(
    table: Any, path: Path, psf: Any = None, psf_path: Path | None = None, quality: Any = None
) -> dict[str, Any]:
    """Return the result of ``select`` or ``psf`` by name, for ``--json``."""
    meta = table.meta
    names = ("frame", "n_sources", "n_selected", "n_reserved", "fwhm", "ellipticity")
    found = {
        name: meta.get(name)
        for name in (*names, "n_subtracted", "verdict", "verdict_reason", "guessed")
    }
    found["stars"] = path
    if psf is not None:
        found |= {
            "psf": psf_path,
            "psf_fwhm": psf.fwhm,
            "psf_ellipticity": psf.ellipticity,
            "psf_order": psf.order,
        }
    if quality is not None:
        found |= {
            name: getattr(quality, name)
            for name in ("size_residual", "ellipticity_residual", "chi_square", "score")
        }
    return found
