"""Choice of stars from probabilities: threshold, maximum and minimum number, reserve stars."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TypedDict

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError
from mlpsf.flags import NEVER_A_PSF_STAR, UNUSABLE, Flag, describe
from mlpsf.frames.frame import Frame
from mlpsf.selection.star_table import StarTable
from mlpsf.selection.too_few import too_few_stars

__all__ = [
    "FEWEST_RESERVED",
    "N_MAX",
    "N_MIN",
    "THRESHOLD",
    "ChoiceOptions",
    "Rules",
    "candidates",
    "choose",
    "choose_by",
    "unjudged",
    "warn_of_few_reserved",
]

THRESHOLD = 0.9
"""Lowest probability of a chosen star, as in the ML-PSF study."""

N_MAX = 25
"""Maximum number of stars in a PSF, as in the ML-PSF study."""

N_MIN = 7
"""Minimum number of stars for a useful PSF: five would do where it does not vary."""

FEWEST_RESERVED = 3
"""Minimum number of reserve stars to judge a PSF: a median of fewer depends on one star."""

_LARGE = 0.7  # of the first distance: no part of the frame as large is left empty for the surer
_SPREAD = 200  # stars that are spread; all others follow by brightness
_ROUNDING = 1e-6  # tolerance outside [0, 1] for single-precision probabilities


class ChoiceOptions(TypedDict, total=False):
    """Parameters of `choose`, passed on as keywords."""

    threshold: float | None
    n_max: int
    n_min: int
    reserve: float
    relax: bool
    rank_by: str | None


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Rules by which stars are chosen: the parameters of `choose`, checked.

    Raises
    ------
    InputError
        A value is out of range.
    """

    threshold: float = THRESHOLD
    n_max: int = N_MAX
    n_min: int = N_MIN
    reserve: float = 0.0
    relax: bool = False
    rank_by: str = "probability"

    @property
    def needed(self) -> int:
        """Number of stars of a full PSF and its reserve."""
        return int(np.ceil(self.n_max / (1.0 - self.reserve))) if self.reserve else self.n_max

    def __post_init__(self) -> None:
        for name in ("threshold", "n_max", "n_min", "reserve"):
            value, kind = getattr(self, name), Integral if name.startswith("n_") else Real
            if not isinstance(value, kind):
                what = "a whole number" if kind is Integral else "a number"
                raise InputError(f"{_called(name)} must be {what}. Got {value!r}.")
        known = self.rank_by in ("probability", "snr")
        rules = (
            (known, "rank_by", "'probability' or 'snr'", repr(self.rank_by)),
            (0 <= self.threshold <= 1, "threshold", "in [0, 1]", self.threshold),
            (self.n_max >= 1, "n_max", "1 or more", self.n_max),
            (0 <= self.n_min <= self.n_max, "n_min", f"from 0 to n_max = {self.n_max}", self.n_min),
            (0 <= self.reserve < 1, "reserve", "in [0, 1)", self.reserve),
        )
        for holds, name, wanted, got in rules:
            if not holds:
                raise InputError(f"{_called(name)} must be {wanted}. Got {got}.")


def _called(name: str) -> str:
    """Return a rule's name in Python and, where there is one, on the command line."""
    option = "" if name == "rank_by" else f" (--{name.replace('_', '-')})"
    return f"The {name!r} parameter{option}"


# Decimals of a probability that count. The others change with what else is in the batch, threads
# and processor (see `network_log_odds`), and the list of stars must not. Rounding has edges too,
# but halfway between the decimals and not where a threshold is.
_DIGITS = 5
_PERCENT = 2


def choose(
    sources: Table,
    probability: ArrayLike,
    *,
    threshold: float = THRESHOLD,
    n_max: int = N_MAX,
    n_min: int = N_MIN,
    reserve: float = 0.0,
    relax: bool = False,
    rank_by: str = "probability",
) -> Table:
    """Choose the PSF stars among sources with probabilities.

    Parameters
    ----------
    sources : Table
        Sources with a column ``flags``. Those with a flag of `mlpsf.flags.NEVER_A_PSF_STAR` are
        not chosen. Those with the flag ``KEPT`` come first, whatever their probability, unless
        they have a flag of `mlpsf.flags.UNUSABLE`. Equal probabilities are ordered by a column
        ``snr``, if there is one.
    probability : array_like, shape (n,)
        Probability of being a good PSF star. Sources without a finite value are never chosen.
        Five decimals are compared, with the threshold and with each other: the rest is rounding.
    threshold : float
        Lowest probability of a chosen star.
    n_max, n_min : int
        Maximum and minimum number of stars for the PSF.
    reserve : float
        Fraction of the good stars kept out of the PSF to judge it, spread evenly over the
        ranking. At least `n_min` stars are left for the PSF, so there may be no reserve stars:
        see ``n_reserved`` in the metadata.
    relax : bool
        Whether to take the best available stars instead of raising when fewer than `n_min`
        reach the threshold. These get the flag ``RELAXED``.
    rank_by : {"probability", "snr"}
        Which stars to take when more than `n_max` reach the threshold: the most probable; or, of
        the surest half as many again, the brightest of each neighbourhood, so that the stars cover
        the frame.

    Returns
    -------
    Table
        A copy with the columns ``probability`` (not rounded), ``selected``, ``reserved``,
        ``flags`` and ``reason`` (text: selected, or why not) set.

    Raises
    ------
    TooFewStarsError
        There are fewer than `n_min` stars. Its ``table`` is the table that would have been
        returned.
    InputError
        A parameter or a probability is out of range.

    Examples
    --------
    >>> sources = Table({"flags": [0, 0, 1]})
    >>> stars = choose(sources, [0.95, 0.4, 0.99], n_min=1)
    >>> stars["selected"].tolist(), stars["reason"].tolist()
    ([True, False, False], ['selected', 'below the threshold', 'saturated'])
    """
    rules = Rules(
        threshold=threshold,
        n_max=n_max,
        n_min=n_min,
        reserve=reserve,
        relax=relax,
        rank_by=rank_by,
    )
    return choose_by(rules, sources, probability)


def choose_by(rules: Rules, sources: Table, probability: ArrayLike) -> Table:
    """Choose stars by the given rules; see `choose`."""
    given = np.asarray(probability, dtype=np.float64)
    if given.shape != (len(sources),):
        raise InputError(
            f"There must be one probability a source: shape ({len(sources)},). Got {given.shape}."
        )
    wrong = np.isfinite(given) & (np.abs(given - 0.5) > 0.5 + _ROUNDING)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(f"Probabilities must be in [0, 1]. Got {given[row]} in row {row}.")
    p, least = _compared(given), _compared(rules.threshold)
    own = Flag.BELOW_THRESHOLD | Flag.BEYOND_N_MAX | Flag.RESERVED | Flag.RELAXED
    own |= Flag.NOT_JUDGED
    flags = np.asarray(sources["flags"], dtype=np.int32) & ~np.int32(own)
    kept_by_user = flags & Flag.KEPT != 0
    possible = _allowed(flags) & (np.isfinite(p) | kept_by_user)
    passes = kept_by_user | (p >= least)
    order = candidates(sources, p)
    n_good = int(passes[order].sum())
    relaxed = rules.relax and n_good < rules.n_min
    good = order[: rules.n_min if relaxed else n_good]
    if rules.rank_by == "snr":
        good = _bright_and_sure(sources, good, p, rules.needed)
    # Stars that the user keeps make the PSF, unless there are no others to reserve.
    free = good[~kept_by_user[good]] if not kept_by_user[good].all() else good
    reserved_rows = _reserve(free, rules)
    kept = good[~np.isin(good, reserved_rows)]
    chosen = kept[: rules.n_max]
    flags[~np.isfinite(p) & (flags & NEVER_A_PSF_STAR == 0) & ~kept_by_user] |= Flag.NOT_JUDGED
    below = possible & ~passes
    flags[below] |= Flag.BELOW_THRESHOLD
    flags[kept[rules.n_max :]] |= Flag.BEYOND_N_MAX
    flags[reserved_rows] |= Flag.RESERVED
    if relaxed:
        taken = good[~passes[good]]
        flags[taken] = flags[taken] & ~np.int32(Flag.BELOW_THRESHOLD) | Flag.RELAXED
    out = StarTable(sources)
    out["probability"] = given
    out["selected"] = np.isin(np.arange(len(p)), chosen)
    out["reserved"] = np.isin(np.arange(len(p)), reserved_rows)
    out.remove_column("flags")
    out["flags"] = flags
    reasons = [describe(f) for f in flags]
    said = Flag.RELAXED | Flag.OUTLIER_KEPT | Flag.KEPT
    for row in chosen:  # flags of a chosen star are notes, not reasons against it
        reasons[row] = "selected; " + reasons[row] if flags[row] & said else "selected"
    out["reason"] = np.array(reasons, dtype=str)
    out.meta.update(
        {
            "threshold": float(rules.threshold),
            "n_max": int(rules.n_max),
            "n_min": int(rules.n_min),
            "reserve": float(rules.reserve),
            "rank_by": rules.rank_by,
            "relaxed": bool(relaxed),
            "n_sources": len(p),
            "n_above_threshold": n_good,
            "n_selected": len(chosen),
            "n_reserved": len(reserved_rows),
        }
    )
    if len(chosen) < rules.n_min and not (relaxed and len(chosen)):
        raise too_few_stars(out, p[order], n_good, rules.threshold, rules.n_min)
    return out


def unjudged(ids: ArrayLike) -> Table:
    """Return the star table of sources that nothing could be measured of, none of them selected."""
    n = len(np.asarray(ids))
    nan = np.full(n, np.nan)
    measured = ("x", "y", "flux", "snr", "peak", "fwhm", "ellipticity", "local_fwhm")
    columns = dict.fromkeys((*measured, "probability"), nan)
    table = StarTable({"id": np.asarray(ids), **columns})
    table["selected"] = table["reserved"] = np.zeros(n, dtype=bool)
    table["flags"] = np.full(n, int(Flag.NOT_JUDGED), dtype=np.int32)
    table["reason"] = np.array([describe(Flag.NOT_JUDGED)] * n, dtype=str)
    return table


def candidates(
    sources: Table,
    probability: NDArray[np.float64],
    *,
    threshold: float = 0.0,
    rank_by: str = "probability",
    needed: int | None = None,
) -> NDArray[np.intp]:
    """Return the rows that `choose` may choose, in the order of its ranking.

    Parameters are those of `choose`. With `needed`, the number of stars, the brightest are those of
    the surest, as in `choose`. The order is stable, so the same table always gives the same stars.
    """
    probability = _compared(probability)
    flags = np.asarray(sources["flags"], dtype=np.int32)
    kept = flags & Flag.KEPT != 0
    snr = np.asarray(sources["snr"]) if "snr" in sources.colnames else np.zeros(len(flags))
    order = np.lexsort((-np.nan_to_num(snr), -np.nan_to_num(probability)))
    reaches = np.isfinite(probability) & (probability >= _compared(threshold))
    order = order[(_allowed(flags) & (reaches | kept))[order]]
    if rank_by == "snr":
        return _bright_and_sure(sources, order, probability, needed or len(order))
    return _kept_first(sources, order)


def _bright_and_sure(
    sources: Table, rows: NDArray[np.intp], p: NDArray[np.float64], needed: int
) -> NDArray[np.intp]:
    """Order rows so that the first of them are bright, sure, and cover the frame.

    Where there are more than half as many again as a PSF needs, the less sure come last, unless the
    surer leave a large part of the frame to them. Percents are compared: less is no difference, and
    would hang on rounding. Those that the user keeps are the first of all.
    """
    if "snr" not in sources.colnames:
        return _kept_first(sources, rows)
    fainter = -np.nan_to_num(np.asarray(sources["snr"])[rows])
    order = np.lexsort((fainter, -np.nan_to_num(p[rows]).round(_PERCENT)))
    n_sure = min(needed + (needed + 1) // 2, len(rows))
    parts = order[:n_sure], order[n_sure:]
    by_light = np.concatenate([part[np.argsort(fainter[part], kind="stable")] for part in parts])
    return _kept_first(sources, _spread(sources, rows[by_light], n_sure))


def _allowed(flags: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return which sources may be chosen by their flags."""
    never = np.where(flags & Flag.KEPT != 0, int(UNUSABLE), int(NEVER_A_PSF_STAR))
    return np.asarray(flags & never == 0)


def _compared(probability: ArrayLike) -> NDArray[np.float64]:
    """Round probabilities, or a threshold of them, to the decimals that count."""
    return np.asarray(probability, dtype=np.float64).round(_DIGITS)


def _kept_first(sources: Table, rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Move the stars that the user keeps to the front of an order."""
    kept = np.asarray(sources["flags"], dtype=np.int32)[rows] & Flag.KEPT != 0
    return np.concatenate([rows[kept], rows[~kept]])


def with_places(frame: Frame, sources: Table) -> Table:
    """Return sources with x and y on the detector; those on a frame of cutouts say nothing."""
    placed = sources.copy(copy_data=False)
    for name, value in zip("xy", frame.place(sources["x"], sources["y"]), strict=True):
        column = sources[name].copy()  # keeps its unit
        column[:] = value
        placed[name] = column
    return placed


def _spread(sources: Table, rows: NDArray[np.intp], n_sure: int) -> NDArray[np.intp]:
    """Order rows, the best first, so that the first of them cover the frame.

    The best star is the first. Then, in the order given, those that are farther from all that were
    taken than a certain distance. When none is left, that distance is halved in area. So the first
    10, 25 or 100 of a long list have no large gap between them. Rows beyond the sure ones take part
    at the first distances, and then when those are used up. Without positions the order stays.
    """
    if len(rows) < 3 or not {"x", "y"} <= set(sources.colnames):
        return rows
    place = np.column_stack([np.asarray(sources[k], dtype=np.float64)[rows] for k in "xy"])
    gap = np.full(len(rows), np.inf)
    across = distance = float(np.hypot(*np.ptp(place, axis=0))) / 4
    taken: list[int] = []
    left = np.ones(len(rows), dtype=bool)
    while left.any():
        asked = np.flatnonzero(left)
        if distance < _LARGE * across and left[:n_sure].any():
            asked = asked[asked < n_sure]
        if distance == 0:
            taken += asked.tolist()
            left[asked] = False
            continue
        for k in asked:
            if gap[k] > distance:
                taken.append(int(k))
                left[k] = False
                gap = np.minimum(gap, np.hypot(*(place - place[k]).T))
        distance = distance / np.sqrt(2) if distance > 1 and len(taken) < _SPREAD else 0.0
    return rows[taken]


def _reserve(good: NDArray[np.intp], rules: Rules) -> NDArray[np.intp]:
    """Return the reserve stars, evenly spaced over the ranking of the stars in use."""
    if rules.reserve == 0:
        return good[:0]
    used = min(len(good), rules.needed)
    n = min(int(np.rint(used * rules.reserve)), max(used - rules.n_min, 0))
    reserved: NDArray[np.intp] = good[np.floor((np.arange(n) + 0.5) * used / max(n, 1)).astype(int)]
    return reserved


def warn_of_few_reserved(stars: Table) -> None:
    """Warn if too few stars were reserved to judge a PSF; see `FEWEST_RESERVED`."""
    meta = stars.meta
    if meta["reserve"] > 0 and meta["n_reserved"] < FEWEST_RESERVED:
        warnings.warn(
            f"Of {meta['n_above_threshold']} good stars, reserve = {meta['reserve']:g} keeps back "
            f"{meta['n_reserved']}, with n_min = {meta['n_min']} left at least: too few to judge "
            f"the PSF, which takes {FEWEST_RESERVED}. A lower n_min (--n-min), or a larger "
            "reserve (--reserve), keeps more.",
            stacklevel=3,
        )
