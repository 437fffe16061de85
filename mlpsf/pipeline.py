"""The full star selection: from a frame to its PSF stars."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, Unpack

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import ArrayLike

from mlpsf.detection.bad_pixels import fill_lone_pixels
from mlpsf.detection.sources import find_sources
from mlpsf.errors import MlpsfError, NoSourcesError, TooFewStarsError
from mlpsf.frames.cutouts import Cutouts
from mlpsf.frames.frame import Frame
from mlpsf.frames.io.catalogue import read_catalogue
from mlpsf.frames.io.reading import FrameSource, read_frame
from mlpsf.frames.tiles import squares
from mlpsf.neighbours.subtract import measure_again, remember, subtract_neighbours
from mlpsf.selection.choice import (
    ChoiceOptions,
    Rules,
    choose_by,
    unjudged,
    warn_of_few_reserved,
    with_places,
)
from mlpsf.selection.eligibility import (
    SNR_MIN,
    check_snr_min,
    flag_ineligible,
    flag_other_sizes,
)
from mlpsf.selection.judging import judge_sources
from mlpsf.selection.lists import (
    StarList,
    flag_listed,
    list_name,
    read_list,
    rows_of_cutouts,
    warn_of_origin,
)
from mlpsf.selection.named import count_of, frame_selector, provenance, rules_for
from mlpsf.selection.second_look import strike_outliers
from mlpsf.selection.verdict import LEFT_WHOLE, flag_verdict, judge_frame
from mlpsf.stacks.values import check_frames
from mlpsf.stamps.from_cutouts import (
    copies_of,
    cutouts_alike,
    measure_cutouts,
    places_of_cutouts,
    with_copies,
)

__all__ = ["select_cutouts", "select_stars"]

Progress = Callable[[str], None]
VERDICT = ("verdict", "verdict_reason")


def select_stars(
    frame: FrameSource,
    *,
    selector: Any = "cnn",
    catalogue: Table | str | os.PathLike[str] | None = None,
    stars: StarList | None = None,
    keep: StarList | None = None,
    veto: StarList | None = None,
    snr_min: float = SNR_MIN,
    second_look: bool = True,
    cutout_size: int | None = None,
    progress: Progress | None = None,
    **choice: Unpack[ChoiceOptions],
) -> Table:
    """Choose the PSF stars of a frame.

    Parameters
    ----------
    frame : Frame or anything that `read_frame` takes
    selector : {"cnn", "residual"} or an estimator
        ``"cnn"`` is the network shipped with mlpsf. ``"residual"`` is the classical rule; its
        brightness range is set by the frame's noise and half of its saturation level. A fitted
        estimator with ``predict_proba`` is used as it is. An unfitted one that needs no labels is
        fitted to the frame's cutouts.
    catalogue : Table or path, optional
        Sources to judge instead of detected ones; see `mlpsf.frames.io.catalogue.read_catalogue`.
    stars : Table, path or list of int, optional
        The stars that make the PSF, chosen before: these and no others, whatever the selector
        thinks of them, as far as they can be used (not saturated, masked, or near the edge). Of a
        star table its selected rows, of any other table all; positions as in `catalogue`, each
        matched with the nearest source within a FWHM. A list of int holds values of ``id``. `n_min`
        and `n_max` give way to the number of stars.
    keep : Table, path or list of int, optional
        Stars that are chosen before all others, in the same way.
    veto : Table, path or list of int, optional
        Sources that must not be chosen, in the same way.
    snr_min : float
        Minimum signal-to-noise ratio of a chosen star.
    second_look : bool
        Whether to compare the best stars, twice as many as needed, with their common PSF. Stars
        that it does not explain are removed, and the next in rank replace them. At least `n_min`
        stars are left: further outliers, and outliers taken by `relax`, are kept with the flag
        ``OUTLIER_KEPT``. The metadata give the numbers: ``n_looked_at`` (0 if there are too few
        to compare), ``n_outliers``, ``n_outliers_kept``. See `mlpsf.selection.second_look`.
    cutout_size : int, optional
        Side of the residual selector's cutouts in pixels, odd, 15 to 301. By default 111, as
        published, or 12 FWHM if that is less.
    progress : callable, optional
        Called with the name of each step before it starts.
    threshold : float, optional
        Minimum probability of a chosen star, 0.9 by default. For the residual selector the default
        is 0: it ranks a frame's sources, and its probabilities do not reach 0.9.
    rank_by : {"probability", "snr"}, optional
        As in `mlpsf.choose`. By default the brightest of the surest are taken, because TRIPPy
        weights all stars equally and faint ones add noise. For the residual selector the default
        is the most probable.
    n_max, n_min, reserve, relax
        As in `mlpsf.choose`.

    Returns
    -------
    Table
        All sources, with the columns ``id x y [ra dec] flux snr peak fwhm ellipticity
        local_fwhm probability selected reserved flags reason``. The metadata hold the frame,
        selector, parameters and versions, and a ``verdict`` on the frame with its
        ``verdict_reason`` (`mlpsf.selection.verdict`).

    Raises
    ------
    TooFewStarsError
        If there are fewer than `n_min` good stars. Its ``table`` is the full table.
    NoSourcesError, FrameError, CatalogueError, InputError

    Warns
    -----
    UserWarning
        If too few stars are reserved to judge a PSF (`mlpsf.selection.choice.FEWEST_RESERVED`).

    Examples
    --------
    >>> from mlpsf import simulate_frame
    >>> sim = simulate_frame(shape=(400, 400), n_stars=60, n_galaxies=20, fwhm=4.0, seed=2)
    >>> stars = select_stars(sim.frame, selector="residual", threshold=0.3, n_min=1)
    >>> "probability" in stars.colnames and stars.meta["n_selected"] >= 1
    True
    """
    say = progress or _silent
    check_snr_min(snr_min)
    rules = rules_for(selector, **choice)
    if not isinstance(frame, Frame):
        say("reading")
        frame = read_frame(frame)
    listed = None if catalogue is None else read_catalogue(catalogue, frame)
    say("finding sources")
    whole = frame
    frame = fill_lone_pixels(frame)
    if listed is None:
        sources = alike = find_sources(frame)
    else:
        sources, alike = _listed_sources(frame, listed)
    if (verdict := judge_frame(frame, alike))["verdict"] not in LEFT_WHOLE:
        frame = subtract_neighbours(frame, alike)
    remember(whole, frame)
    if frame.scene is not None:
        sources = measure_again(frame, sources)
        alike = sources if listed is None else measure_again(frame, alike)
        verdict = judge_frame(frame, alike)
    flag_verdict(sources, verdict)
    wishes = _Wishes(selector, rules, snr_min, stars, keep, veto, second_look, cutout_size, say)
    chosen = _select_found(frame, sources, alike, wishes)
    warn_of_few_reserved(chosen)
    return chosen


def select_cutouts(
    cutouts: ArrayLike | Cutouts,
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    groups: ArrayLike | None = None,
    selector: Any = "cnn",
    gain: float | None = None,
    saturation: float | None = None,
    stars: StarList | None = None,
    keep: StarList | None = None,
    veto: StarList | None = None,
    snr_min: float = SNR_MIN,
    second_look: bool = True,
    cutout_size: int | None = None,
    progress: Progress | None = None,
    **choice: Unpack[ChoiceOptions],
) -> Table:
    """Choose the PSF stars among cutouts of a frame's sources.

    What `select_stars` does, from cutouts alone: FWHM, noise, saturation and PSF are measured from
    the set. Give the cutouts of all sources of a frame: galaxies and faint ones tell, too.

    Parameters
    ----------
    cutouts : array_like, shape (n, size, size) or (n, size * size), or Cutouts
        Of the frame's own pixels, the source on the middle one; any odd side from 15 to 151 pixels,
        10 FWHM or more where possible. With or without sky. NaN, SExtractor's -1e30 or an array's
        mask mark missing pixels.
    x, y : array_like, shape (n,), optional
        Positions on the frame, 0-based pixels: they let the PSF vary over the frame, and show what
        is beside a source whose cutout is small.
    groups : array_like, shape (n,), optional
        The frame of each cutout, when there are several: stars are chosen for each by itself.
    gain : float, optional
        Electrons per unit of the pixels. Unless given, only the noise of the sky is counted.
    saturation : float, optional
        In the unit of the pixels, sky included. Unless given, the level where pixels pile up.
    stars, keep, veto : Table, path or list of int, optional
        As in `select_stars`. Ids are row numbers, from 1. Rows of a table are matched by position,
        or by its ``id`` where the cutouts have none; of several frames, by ``group`` or ``id``.
    selector, snr_min, second_look, cutout_size, progress, **choice
        As in `select_stars`.

    Returns
    -------
    Table
        As `select_stars` returns, a row a cutout, in the order given. The subset to use is
        ``cutouts[table["selected"]]``. ``x`` and ``y`` are as given, or NaN. With `groups` there is
        a column ``group``, and metadata are those of the first frame, with counts of all, and
        ``verdicts``: of each frame, by its name, the verdict and its reason.

    Raises
    ------
    TooFewStarsError
        There are fewer than `n_min` good stars; the whole table is its ``table``.
    NoSourcesError
        No cutout could be an unsaturated star.
    InputError
        The cutouts are of a wrong shape or smaller than 4 FWHM, or a parameter is out of range.

    Warns
    -----
    UserWarning
        One of several frames failed for such a reason; none of its cutouts is chosen. The cutouts
        are smaller than 8 FWHM, or too few of a frame to find its PSF. Some are copies of others;
        these are flagged. Too few stars are reserved to judge a PSF.

    Examples
    --------
    >>> from mlpsf import extract_cutouts, find_sources, simulate_frame
    >>> sim = simulate_frame(shape=(500, 500), n_stars=60, n_galaxies=10, fwhm=4.0, seed=2)
    >>> found = find_sources(sim.frame)
    >>> cutouts = extract_cutouts(sim.frame, found["x"], found["y"], 55).data
    >>> table = select_cutouts(cutouts, found["x"], found["y"], n_min=1)
    >>> len(table) == len(cutouts), cutouts[table["selected"]].shape[1:]
    (True, (55, 55))
    """
    say = progress or _silent
    check_snr_min(snr_min)
    rules = rules_for(selector, **choice)
    if isinstance(cutouts, Cutouts):
        x, y = cutouts.positions if x is None else (x, y)
    pixels = squares(cutouts.data if isinstance(cutouts, Cutouts) else cutouts)
    n = len(pixels)
    places = None if x is None and y is None else places_of_cutouts(x, y, n)
    frames = np.zeros(n) if groups is None else check_frames(groups, n)
    given = {"stars": stars, "keep": keep, "veto": veto}
    several = len(set(frames.tolist())) > 1
    lists = {
        name: read_list(listed, n, name, several=several)
        for name, listed in given.items()
        if listed is not None
    }
    wishes = _Wishes(selector, rules, snr_min, None, None, None, second_look, cutout_size, say)
    tables: list[Table] = []
    failures: list[MlpsfError] = []
    verdicts: dict[str, str] = {}
    unknown = "not judged", ""
    names = list(dict.fromkeys(frames.tolist()))
    for frame in names:
        every = np.flatnonzero(frames == frame)
        name = "the set" if groups is None else f"frame {frame}"
        # A source twice in a set would count twice wherever sources are compared.
        first = copies_of(pixels if len(every) == n else pixels[every])
        rows = every[first == np.arange(len(every))]
        at = (None, None) if places is None else places[:, rows]
        try:
            found = measure_cutouts(
                pixels if len(rows) == n else pixels[rows],
                *at,
                gain=gain,
                saturation=saturation,
                name=name,
                stacklevel=3,
            )
            found.sources["id"] = rows + 1
            found.sources.meta["cutout_size"] = pixels.shape[-1]
            flag_verdict(found.sources, judge_frame(*found))
            alike = cutouts_alike(found, stacklevel=3)
            placed = Table({"id": every + 1}, meta={"fwhm": found.sources.meta["fwhm"]})
            placed["x"], placed["y"] = np.nan, np.nan
            if places is not None:
                placed["x"], placed["y"] = places[:, every]
            original = dict(zip(every + 1, every[first] + 1, strict=True))
            own = {
                key: [
                    original[number]
                    for number in rows_of_cutouts(
                        listed,
                        placed,
                        found.frame,
                        group=frame if several else None,
                    )
                ]
                for key, listed in lists.items()
            }
            table = _select_found(
                *found,
                alike,
                wishes._replace(stars=own.get("stars"), keep=own.get("keep"), veto=own.get("veto")),
            )
            table.meta |= {f"{key}_from": list_name(given[key]) for key in lists}
            warn_of_few_reserved(table)
        except MlpsfError as error:
            failures.append(error)
            unknown = "not judged", str(error)
            table = getattr(error, "table", None)
            if len(names) > 1:
                warnings.warn(f"{name}: no star is chosen. {error}", stacklevel=2)
                table = unjudged(rows + 1) if table is None else table
                table["reason"] = np.where(
                    table["selected"], "too few in its frame", table["reason"]
                )
                table["selected"] = False
            elif table is None:
                raise
        for key, value in zip("xy", at, strict=True):
            table[key] = np.full(len(rows), np.nan) if value is None else value
        if len(rows) < len(every):
            table = with_copies(table, every + 1, first, name=name, stacklevel=3)
        if groups is not None:
            table["group"] = frames[every]
        said = [table.meta.get(key, other) for key, other in zip(VERDICT, unknown, strict=True)]
        verdicts[str(frame)] = ": ".join(said)
        tables.append(table)
    whole = tables[0] if len(tables) == 1 else _stacked(tables)
    if len(tables) > 1:
        whole.meta["verdicts"] = verdicts
    if len(failures) == len(names):
        if isinstance(failures[0], TooFewStarsError):
            failures[0].table = whole
        raise failures[0]
    return whole


class _Wishes(NamedTuple):
    """How stars are chosen; the parameters of `select_stars`."""

    selector: Any
    rules: Rules
    snr_min: float
    stars: StarList | None
    keep: StarList | None
    veto: StarList | None
    second_look: bool
    cutout_size: int | None
    say: Progress


def _select_found(frame: Frame, sources: Table, alike: Table, wishes: _Wishes) -> Table:
    """Choose among sources that were found: judge them, look again, choose."""
    estimator, name = frame_selector(wishes.selector, frame)
    flag_ineligible(frame, sources, snr_min=wishes.snr_min)
    rules = flag_listed(
        frame, sources, wishes.rules, stars=wishes.stars, keep=wishes.keep, veto=wishes.veto
    )
    wishes.say("judging sources")
    sources, probability = judge_sources(
        frame,
        sources,
        estimator,
        cutout_size=wishes.cutout_size,
        alike=alike,
        unit=count_of(wishes.selector, frame),
    )
    flag_other_sizes(sources)
    sources.meta.update(provenance(estimator, name))
    sources.meta.update(snr_min=float(wishes.snr_min), second_look=bool(wishes.second_look))
    if wishes.second_look:
        wishes.say("looking again")
        strike_outliers(frame, sources, probability, rules)
    try:
        return choose_by(rules, with_places(frame, sources), probability)
    except TooFewStarsError as error:
        if error.table is not None and not wishes.rules.relax:
            # What builds PSFs is not needed to choose stars.
            from mlpsf.selection.best_there_are import say_what_the_best_give

            wishes.say("trying the best there are")
            found = error.table.copy()  # on the frame's pixels, which of cutouts are tiles
            found["x"], found["y"] = sources["x"], sources["y"]
            error.args = (f"{error}{say_what_the_best_give(frame, found)}",)
        raise


def _stacked(tables: list[Table]) -> Table:
    """Join the star tables of several frames, in the order of the cutouts."""
    whole = vstack(tables, metadata_conflicts="silent")
    whole = whole[np.argsort(whole["id"], kind="stable")]
    judged = [table for table in tables if table.meta]
    whole.meta = dict(judged[0].meta if judged else {})
    for key in VERDICT:  # of one frame
        whole.meta.pop(key, None)
    for key in ("n_above_threshold", "n_reserved"):
        whole.meta[key] = sum(table.meta[key] for table in judged)
    whole.meta |= {"n_sources": len(whole), "n_selected": int(whole["selected"].sum())}
    return whole


def _listed_sources(frame: Frame, listed: Table) -> tuple[Table, Table]:
    """Measure listed sources, and detect the frame's own: the listed may be few or not stars."""
    try:
        own = find_sources(frame)
    except NoSourcesError:
        sources = find_sources(frame, listed)
        return sources, sources
    warn_of_origin(listed, own)
    return find_sources(frame, listed, linear_to=own.meta.get("linear_to", np.inf)), own


def _silent(step: str) -> None:
    """Report no progress."""
