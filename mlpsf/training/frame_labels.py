"""Creation of a training set: labelled cutouts of the sources of many frames."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from tqdm import tqdm

from mlpsf.detection.sources import find_sources
from mlpsf.errors import FrameError, InputError, MlpsfError, NoSourcesError, printable
from mlpsf.files import check_folder
from mlpsf.flags import NEVER_A_PSF_STAR, OVEREXPOSED, Flag
from mlpsf.frames.cutouts import PUBLISHED_SIZE, REFERENCE_FWHM, extract_cutouts
from mlpsf.frames.frame import Frame
from mlpsf.frames.io.catalogue import read_catalogue
from mlpsf.frames.io.fitsio import open_fits
from mlpsf.frames.io.reading import HDUSelector, read_frame
from mlpsf.labelling import AMBIGUOUS, N_BEST, truth_labels
from mlpsf.neighbours.subtract import measure_again, subtract_neighbours
from mlpsf.neighbours.truth import light_left
from mlpsf.selection.eligibility import SNR_MIN, check_snr_min
from mlpsf.selection.judging import own_cutout_size
from mlpsf.selection.named import count_of, frame_selector
from mlpsf.stamps.standard import STAMP_SIZE, extract_stamps, frame_star
from mlpsf.training.sets import CutoutSet

__all__ = ["RULES", "label_frames"]

RULES = {
    "residual": "the best of each frame by the residuals of PSF subtraction",
    "truth": "the truth of frames that mlpsf simulate wrote",
    "list": "the user's own list of good stars",
}
"""Labelling rules by name, with a description."""

_FEWEST = 5  # fewest sources that the residual rule can rank
_LISTED = 2.0  # pixels, largest distance from a listed position to its source


class _Labels(NamedTuple):
    """Labels of a frame's sources by a rule: arrays of shape (n,), NaN where unknown."""

    label: NDArray[np.int_]
    flags: NDArray[np.int_]
    probability: NDArray[np.float64]
    distance: NDArray[np.float64]


def label_frames(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    rule: str = "residual",
    good: Sequence[Table | str | os.PathLike[str]] | None = None,
    size: int | None = None,
    native: bool = False,
    snr_min: float = SNR_MIN,
    n_best: int = N_BEST,
    hdu: HDUSelector | None = None,
    progress: bool = False,
) -> Table:
    """Cut out and label the sources of frames, and write them to one set.

    Parameters
    ----------
    paths : sequence of path-like
        FITS files; only one is in memory at a time.
    out : path-like
        HDF5 file of the set, written completely or not at all. Open it with `mlpsf.CutoutSet`.
    rule : {"residual", "truth", "list"}
        ``"residual"``: the rule of the ML-PSF study, see `mlpsf.ResidualSelector`; sources too
        near the edge for it are ambiguous. ``"truth"``: see `mlpsf.labelling.truth_labels`.
        ``"list"``: the source nearest a position in `good`, within 2 pixels, is good; others are
        not.
    good : sequence of Table or path, optional
        With ``rule="list"``: lists of good stars, one per frame, or one for all frames.
    size : int, optional
        Side of the cutouts in pixels. Default: 41, or 111 with `native`.
    native : bool
        Whether to keep cutouts at the frame's own scale, for the published network, instead of
        resampling them to a FWHM of 4 pixels.
    snr_min : float
        Lowest signal-to-noise ratio of a source in the set.
    n_best : int
        Number of candidates per frame, with ``rule="residual"``.
    hdu : int, str, optional
        HDU of the image in each file, as in `mlpsf.read_frame`.
    progress : bool
        Whether to show a progress bar on stderr, if that is a terminal.

    Returns
    -------
    Table
        One row per frame: ``frame``, ``n``, ``good``, ``other``, ``ambiguous`` (numbers of
        cutouts) and ``error``, which is empty if the frame was used.

    Raises
    ------
    InputError
        A parameter is invalid, or a frame is given twice.
    NoSourcesError
        No frame could be used. Nothing is written.
    OutputError
        The set cannot be written.

    Warns
    -----
    UserWarning
        A frame could not be used and is skipped.

    Examples
    --------
    >>> import tempfile
    >>> from mlpsf import simulate_frame
    >>> folder = Path(tempfile.mkdtemp())
    >>> sim = simulate_frame(shape=(300, 300), n_stars=30, n_galaxies=20, fwhm=4.0, seed=2)
    >>> sim.write(folder / "a.fits")
    >>> report = label_frames([folder / "a.fits"], folder / "set.h5", rule="truth")
    >>> with CutoutSet(folder / "set.h5") as made:
    ...     len(made) == int(report["n"].sum()), made[:1].shape
    (True, (1, 41, 41))
    """
    lists = _check(paths, rule, good)
    check_snr_min(snr_min)
    size = size or (PUBLISHED_SIZE if native else STAMP_SIZE)
    reference = None if native else REFERENCE_FWHM
    parameters = {"rule": rule, "snr_min": snr_min, "hdu": hdu, "size": size, "native": native}
    if rule == "residual":
        parameters["n_best"] = n_best
    check_folder(out)
    report = []
    with (
        CutoutSet.create(
            out,
            size=size,
            reference_fwhm=reference,
            label_source=f"{rule}: {RULES[rule]}",
            parameters=parameters,
        ) as writer,
        tqdm(total=len(paths), unit="frame", disable=None if progress else True) as bar,
    ):
        for path, listed in zip(paths, lists, strict=True):
            error, label = "", np.zeros(0, dtype=int)
            bar.set_postfix_str(printable(Path(path).name))
            try:
                name, cutouts, columns = _labelled(
                    path, hdu, rule, listed, size, reference, snr_min, n_best
                )
            except MlpsfError as failure:
                error = str(failure)
                bar.clear()
                warnings.warn(f"{path} is left out: {error}", stacklevel=2)
            else:
                writer.append(name, cutouts, **columns)
                label = columns["label"]
            report.append(
                (str(path), len(label), *(int((label == v).sum()) for v in (1, 0, -1)), error)
            )
            bar.update()
        if all(row[-1] for row in report):
            raise NoSourcesError(
                f"None of the {len(report)} frames could be used, so {out} was not written. "
                f"The first, {report[0][0]}: {report[0][-1]}"
            )
    return Table(rows=report, names=["frame", "n", "good", "other", "ambiguous", "error"])


def _check(
    paths: Sequence[str | os.PathLike[str]],
    rule: str,
    good: Sequence[Table | str | os.PathLike[str]] | None,
) -> list[Table | str | os.PathLike[str] | None]:
    """Return the list of good stars of each frame."""
    if rule not in RULES:
        raise InputError(f"The 'rule' must be one of {sorted(RULES)}. Got {rule!r}.")
    if not paths:
        raise InputError("At least one frame is needed.")
    seen: set[Path] = set()
    for path in map(Path, paths):
        if path.resolve() in seen:
            raise InputError(f"The frame {path} is given twice.")
        seen.add(path.resolve())
    if (rule == "list") != bool(good):
        raise InputError("Lists of good stars go with rule='list', and with no other rule.")
    if not good:
        return [None] * len(paths)
    if len(good) not in (1, len(paths)):
        raise InputError(
            f"Give one list of good stars for all frames, or one a frame: {len(paths)}. "
            f"Got {len(good)}."
        )
    return list(good) * (len(paths) if len(good) == 1 else 1)


def _labelled(
    path: str | os.PathLike[str],
    hdu: HDUSelector | None,
    rule: str,
    listed: Any,
    size: int,
    reference: float | None,
    snr_min: float,
    n_best: int,
) -> tuple[str, NDArray[np.float32], dict[str, NDArray[Any]]]:
    """Return name, cutouts and columns of one frame."""
    frame = read_frame(path, hdu=hdu)
    sources = find_sources(frame)
    # As in use: where sources are crowded, each is shown without its neighbours.
    frame = subtract_neighbours(frame, sources)
    sources = measure_again(frame, sources)
    bright = np.asarray(sources["snr"] >= snr_min)
    if not bright.any():
        raise NoSourcesError(
            f"none of its {len(sources)} sources has a S/N of {snr_min:g}: the highest is "
            f"{np.nanmax(sources['snr']):.3g}."
        )
    if rule == "residual":
        labels = _by_residual(frame, sources, bright, n_best)
    elif rule == "truth":
        labels = _by_truth(path, frame, sources)
    else:
        labels = _by_list(listed, frame, sources, bright)
    rows = np.flatnonzero(bright)
    x, y = sources["x"][rows], sources["y"][rows]
    if reference is None:
        cut = extract_cutouts(frame, x, y, size, background=frame.background.level)
    else:
        star = frame_star(frame, sources, size)
        fwhm = float(sources.meta["fwhm"])
        cut = extract_stamps(frame, x, y, size, fwhm=fwhm, star=star)
    columns = {key: np.asarray(sources[key])[rows] for key in ("x", "y", "fwhm", "snr")}
    columns |= {key: values[rows] for key, values in labels._asdict().items()}
    columns["flags"][cut.near_edge] |= Flag.NEAR_EDGE
    return frame.name, cut.data, columns


def _by_residual(frame: Frame, sources: Table, bright: NDArray[np.bool_], n_best: int) -> _Labels:
    flags = np.array(sources["flags"])
    rows = np.flatnonzero(bright & (flags & (OVEREXPOSED | Flag.TOO_NARROW) == 0))
    fwhm = float(sources.meta["fwhm"])
    size = own_cutout_size(fwhm)
    x, y = np.asarray(sources["x"])[rows], np.asarray(sources["y"])[rows]
    cut = extract_cutouts(frame, x, y, size, background=frame.background.level)
    rows = rows[~cut.near_edge]
    if rows.size < _FEWEST:
        raise NoSourcesError(
            f"only {rows.size} of its sources are bright, unsaturated and {size // 2} pixels from "
            f"the edge; the residual rule needs {_FEWEST}."
        )
    # The same rule as 'select --selector residual', including the limits for this frame.
    selector, _ = frame_selector("residual", frame)
    selector.set_params(n_best=n_best)
    inner = cut.data[~cut.near_edge] / np.float32(count_of("residual", frame))
    selector.fit(inner)
    label = np.full(len(sources), AMBIGUOUS)
    probability, distance = np.full((2, len(sources)), np.nan)
    label[rows], distance[rows] = selector.labels_, selector.distance_
    probability[rows] = selector.predict_proba(inner)[:, 1]
    # These flags rule a source out; the edge alone does not make it bad.
    label[flags & (NEVER_A_PSF_STAR & ~Flag.NEAR_EDGE) != 0] = 0
    return _Labels(label, flags, probability, distance)


def _by_truth(path: str | os.PathLike[str], frame: Frame, sources: Table) -> _Labels:
    try:
        with open_fits(Path(path)) as hdus:
            truth = Table(hdus["TRUTH"].data)
            defects = np.asarray(hdus["DEFECTS"].data)
        x, y, flux = (np.asarray(truth[key]) for key in ("x", "y", "flux"))
        star = np.char.strip(np.asarray(truth["kind"]).astype(str)) == "star"
        true_fwhm = np.asarray(truth["fwhm"])
    except KeyError as error:
        raise FrameError(
            f"it has no truth to label by ({error.args[0]}): expected a frame that "
            "'mlpsf simulate' wrote, with the extensions TRUTH and DEFECTS."
        ) from error
    fwhm = float(np.median(true_fwhm)) if len(true_fwhm) else float(sources.meta["fwhm"])
    at = sources["x"], sources["y"]
    left = None if frame.scene is None else light_left(frame, *at, x, y, flux)
    label, _ = truth_labels(*at, x, y, flux, star, fwhm=fwhm, defects=defects, left=left)
    unknown = np.full(len(sources), np.nan)
    return _Labels(label, np.array(sources["flags"]), unknown, unknown)


def _by_list(listed: Any, frame: Frame, sources: Table, bright: NDArray[np.bool_]) -> _Labels:
    stars = read_catalogue(listed, frame)
    rows = np.flatnonzero(bright)
    at = np.column_stack([sources["x"], sources["y"]])[rows]
    distance, nearest = cKDTree(at).query(np.column_stack([stars["x"], stars["y"]]))
    found = distance <= _LISTED
    if not found.any():
        raise NoSourcesError(
            f"none of the {len(stars)} listed stars has a source of sufficient S/N within "
            f"{_LISTED:g} pixels. Are their positions this frame's?"
        )
    if not found.all():
        warnings.warn(
            f"{int((~found).sum())} of {len(stars)} listed stars of {frame.name} have no source "
            f"of sufficient S/N within {_LISTED:g} pixels.",
            stacklevel=4,
        )
    label = np.zeros(len(sources), dtype=int)
    label[rows[nearest[found]]] = 1
    unknown = np.full(len(sources), np.nan)
    return _Labels(label, np.array(sources["flags"]), unknown, unknown)
