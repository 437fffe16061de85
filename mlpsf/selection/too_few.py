"""What to say, and to try, where too few stars could be chosen."""

from __future__ import annotations

import re

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from mlpsf.errors import TooFewStarsError
from mlpsf.flags import NEVER_A_PSF_STAR, Flag

__all__ = ["fainter", "too_few_stars"]

_LEAST_SNR = 30.0  # of sources that a lower limit asks for: of fainter ones hardly any is sure


def too_few_stars(
    table: Table, ranked: NDArray[np.float64], found: int, threshold: float, wanted: int
) -> TooFewStarsError:
    """Return the error that says why there are too few stars, and what would give more.

    Parameters
    ----------
    table : Table
        All sources, with flags and probabilities.
    ranked : ndarray
        Probabilities of those that could be judged, the largest first.
    found, wanted : int
        Number of stars at or above the threshold, and of those asked for.
    threshold : float
    """
    enough_at = float(ranked[wanted - 1]) if len(ranked) >= wanted else float("nan")
    if np.isfinite(enough_at) and enough_at < 0.5:
        these = f"A lower n_min (--n-min {found}) takes these, r" if found else "R"
        hint = (
            f"the best of the others has {ranked[found]:g}, and too few look like good stars. "
            f"{these}elax (--relax) takes the best there are"
        )
    elif np.isfinite(enough_at):
        # Rounded down, so that the threshold printed does give enough.
        shown = np.floor(enough_at * 1000) / 1000
        these = f"a lower n_min (--n-min {found}) takes those, " if found else ""
        hint = (
            f"the {_ordinal(wanted)} best has {enough_at:g}. A threshold of {shown:.3f} gives "
            f"enough; {these}relax (--relax) takes the best there are"
        )
    else:
        asked = table[np.asarray(table["flags"]) & Flag.NOT_LISTED == 0]
        judged = f"only {len(ranked)}" if len(ranked) else "none"
        hint = (
            f"{judged} of {len(asked)} {'sources' if len(asked) == len(table) else 'listed stars'} "
            f"could be judged at all (of the others, some for more than one reason: "
            f"{_commonest(asked)})"
        )
        if len(ranked):
            lower = f"A lower n_min (--n-min {found}), or relax" if found else "Relax"
            hint += f". {lower} (--relax){',' if found else ''} takes what there is"
        hint += fainter(asked, wanted - len(ranked))
    plural = "star" if found == 1 else "stars"
    return TooFewStarsError(
        f"{found} {plural} at or above {threshold:g}, {wanted} wanted: {hint}.{_about(table)}",
        found=found,
        wanted=wanted,
        threshold=threshold,
        enough_at=enough_at,
        table=table,
    )


def fainter(sources: Table, wanted: int) -> str:
    """Say at which S/N enough sources could be judged that only are faint, if there are any."""
    if "snr" not in sources.colnames:
        return ""
    only = np.asarray(sources["flags"]) & NEVER_A_PSF_STAR == Flag.FAINT
    snr = np.sort(np.nan_to_num(np.asarray(sources["snr"], dtype=np.float64)[only]))[::-1]
    snr = snr[snr > _LEAST_SNR]
    if len(snr) < max(wanted, 1):  # which would not suffice
        return ""
    least = int(snr[max(wanted, 1) - 1])
    n = (snr >= least).sum()
    have = "has" if n == 1 else "have"
    return (
        f". {n} of the faint ones {have} a S/N of {least} or more: a lower snr_min "
        f"(--snr-min {least}) has them judged, too"
    )


def _about(table: Table) -> str:
    """Return what else a user has to know: the guessed gain if sources are faint, the verdict."""
    meta, text = table.meta, ""
    alone = np.asarray(table["flags"]) & (Flag.FAINT | Flag.NO_STARS) == Flag.FAINT
    faint = int(alone.sum())
    if faint and "gain" in str(meta.get("guessed", "")):
        text = (
            f" Whether {faint} are faint hangs on the gain, which is a guess "
            f"({meta.get('gain_from', '')}); give it with gain (--gain) if you know it."
        )
    if meta.get("verdict", "good") != "good" or "linear_to" in meta:
        text += f" The frame is {meta['verdict']}: {meta['verdict_reason']}."
    return re.sub("is (no|few) stars", r"has \1 stars", text)


def _ordinal(n: int) -> str:
    last = {1: "st", 2: "nd", 3: "rd"}
    return f"{n}{'th' if n % 100 in (11, 12, 13) else last.get(n % 10, 'th')}"


def _commonest(table: Table) -> str:
    flags = np.asarray(table["flags"])
    counts = {
        flag.short: int(((flags & flag) != 0).sum()) for flag in Flag if flag & NEVER_A_PSF_STAR
    }
    top = sorted(counts.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{n} {name}" for name, n in top if n) or "no probability"
