"""What looks wrong on a frame, and what to type about it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from astropy.table import Table

from mlpsf.flags import Flag
from mlpsf.rich import known

__all__ = ["Advice", "Command", "advice_on", "reading_words"]

_APART = 5.0  # times the median share of its light that the PSF leaves of a star stand out
_LEAST_LEFT = 0.02  # of its light: less is not worth a look
_JUDGED = 2.0  # FWHM, radius of the chi-square of a star


_SAID = "PSF varies over the frame"  # a warning that the page words for itself


class Command:
    """The command that made the page, to be given again with other options.

    Parameters
    ----------
    words : sequence of str
        What follows ``mlpsf psf``: the frame and the options that say how it is read.

    Examples
    --------
    >>> Command(["my frame.fits"])("--n-max", "40")
    "mlpsf psf 'my frame.fits' --n-max 40"
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)

    def __call__(self, *options: str) -> str:
        """Return the command with options, quoted for a shell."""
        # A name that begins with a dash would be read as an option.
        first, *rest = self.words
        frame = f"./{first}" if first.startswith("-") else first
        return shlex.join(["mlpsf", "psf", frame, *rest, *options])


def reading_words(frame: str | os.PathLike[str], **given: Any) -> list[str]:
    """Return a frame and how it was read, as words of a command.

    >>> reading_words("a.fits", hdu=None, gain=1.5, saturation=60000.0)
    ['a.fits', '--gain', '1.5', '--saturation', '60000']
    """
    words = [str(frame)]
    for name, value in given.items():
        if value is not None:
            words += [f"--{name}", str(value).removesuffix(".0")]
    return words


class Advice(NamedTuple):
    """Something that looks wrong, and a command about it; empty if there is none."""

    text: str
    command: str = ""


def advice_on(
    stars: Table,
    command: Command,
    *,
    psf: Any = None,
    quality: Any = None,
    cards: Sequence[Any] = (),
    warnings: Sequence[str] = (),
    error: str = "",
) -> list[Advice]:
    """Return what is to be said of a frame, the gravest first."""
    meta = stars.meta
    said = []
    if meta.get("relaxed"):  # without it there would be no PSF
        command = Command([*command.words, "--relax"])
    if error:
        said.append(Advice(error, command("--relax") if "relax" in error else ""))
    verdict = str(meta.get("verdict", "good"))
    if verdict not in ("good", "varying"):
        said.append(Advice(f"The frame is judged {verdict}: {meta['verdict_reason']}."))
    if meta.get("relaxed"):
        said.append(
            Advice(
                "Too few sources reached the threshold, and the best below it were taken: look at "
                "each of them."
            )
        )
    said += [Advice(_sentence(text)) for text in dict.fromkeys(warnings) if _SAID not in text]
    said += _on_stars(stars, cards)
    if psf is not None:
        said += _on_psf(stars, command, psf, quality)
    guessed = [g for g in str(meta.get("guessed", "")).split(", ") if g in ("gain", "saturation")]
    if guessed:
        values = ", ".join(f"{g} {known(meta[g])} ({meta[f'{g}_from']})" for g in guessed)
        options = [word for g in guessed for word in (f"--{g}", "NUMBER")]
        said.append(Advice(f"Guessed, for the header does not say: {values}.", command(*options)))
    return said


def _on_stars(stars: Table, cards: Sequence[Any]) -> list[Advice]:
    said = []
    unlike = np.asarray(stars["flags"]) & int(Flag.OUTLIER_KEPT) != 0
    kept = unlike & np.asarray(stars["selected"], bool)
    if kept.any():
        names = _names(np.asarray(stars["id"])[kept].tolist())
        said.append(
            Advice(f"Unlike the frame's PSF, kept for want of others: {names}. Veto by hand.")
        )
    # Chi-square grows with the star's brightness: what is left beyond noise, relative to the star.
    chosen = [card for card in cards if card.kind == "chosen" and np.isfinite(card.chi_square)]
    pixels = np.pi * (_JUDGED * float(stars.meta["fwhm"])) ** 2
    left = np.array([np.sqrt(max(c.chi_square - 1, 0) * pixels) / max(c.snr, 1e-9) for c in chosen])
    if len(left) >= 5:
        limit = max(_APART * float(np.median(left)), _LEAST_LEFT)
        worst = [chosen[k].id for k in np.argsort(-left) if left[k] > limit]
        if worst:
            said.append(
                Advice(
                    f"The PSF leaves {limit:.0%} or more of {_names(worst)}, of the others "
                    f"{np.median(left):.1%} in the median: a source beside, or under it? If so, "
                    "veto it."
                )
            )
    return said


def _on_psf(stars: Table, command: Command, psf: Any, quality: Any) -> list[Advice]:
    said = []
    if psf.varies:
        said.append(
            Advice(
                "The PSF varies over the frame. The file knows how; a tool that reads one PSF a "
                "frame needs that of a place.",
                command("--at", "X", "Y"),
            )
        )
        if cells := _empty_cells(stars):
            said.append(
                Advice(
                    f"No star of the PSF lies in {cells} of the frame's nine parts: there its "
                    "variation is a continuation. More, fainter stars may cover it.",
                    command("--n-max", "100", "--snr-min", "20"),
                )
            )
    if quality is None or not quality.reserved:
        said.append(
            Advice(
                "No star was kept to judge the PSF: the figures are its own stars', and too good.",
                command("--reserve", "0.2"),
            )
        )
    if quality is not None and quality.score > 1:
        said.append(
            Advice(
                f"The PSF differs from {'the reserve' if quality.reserved else 'its own'} stars by "
                f"{quality.score:.1f} times what weak lensing allows; for photometry see the flux "
                "below."
            )
        )
    return said


def _empty_cells(stars: Table) -> int:
    """Return how many of nine equal parts of the field of the sources hold no chosen star."""
    use = np.asarray(stars["selected"], bool)
    counts = np.ones((3, 3))
    x, y = (np.asarray(stars[c], dtype=np.float64) for c in "xy")
    if use.any() and np.ptp(x) > 0 and np.ptp(y) > 0:
        edges = [np.linspace(v.min(), v.max(), 4) for v in (x, y)]
        counts, *_ = np.histogram2d(x[use], y[use], bins=edges)
    return int((counts == 0).sum())


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '?', '!')) else '.'}"


def _names(ids: Sequence[int], most: int = 6) -> str:
    shown = ", ".join(str(i) for i in ids[:most])
    more = f" and {len(ids) - most} more" if len(ids) > most else ""
    return f"{'star' if len(ids) == 1 else 'stars'} {shown}{more}"
