"""Search for wrong labels by confident learning, with a model that has not seen them."""

from __future__ import annotations

from inspect import signature
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, StratifiedKFold

from mlpsf.errors import InputError
from mlpsf.stacks.values import check_frames

__all__ = ["LabelIssues", "find_label_issues"]


class LabelIssues(NamedTuple):
    """Sources whose labels seem wrong, the most certain first.

    `indices`, shape (m,), are rows of the input. `margins`, shape (m,), are the probability of the
    given label minus that of the other, from -1 (certainly wrong) to 1. `probability`, shape
    (n, 2), are the model's probabilities for all sources.
    """

    indices: NDArray[np.intp]
    margins: NDArray[np.float64]
    probability: NDArray[np.float64]


def find_label_issues(
    X: ArrayLike,
    y: ArrayLike,
    *,
    estimator: Any = None,
    groups: ArrayLike | None = None,
    cv: Any = 5,
) -> LabelIssues:
    """Find the sources whose label is wrong according to a model.

    This is confident learning (Northcutt, Jiang & Chuang 2021, J. Artif. Intell. Res. 70, 1373).
    A source belongs confidently to a class if its out-of-fold probability reaches the mean of the
    sources with that label. A source that belongs confidently to another class than its label is
    an issue. Issues are ranked by the probability of the label minus that of the other class.

    Parameters
    ----------
    X : array_like, shape (n, size, size) or (n, size * size)
        Cutouts, or any input that the estimator takes.
    y : array_like, shape (n,)
        Labels of two classes, some of them wrong.
    estimator : classifier, optional
        Default: `mlpsf.NoveltySelector`, whose clusters do not depend on labels.
    groups : array_like, shape (n,), optional
        Frame of each source. The sources of a frame are never both trained on and judged in one
        fold. Estimators whose methods take ``groups`` receive them.
    cv : int, splitter or "prefit"
        Folds, split by frame if `groups` is given. ``"prefit"``: the estimator is already fitted
        to other sources and is used as it is.

    Returns
    -------
    LabelIssues

    Raises
    ------
    InputError
        There are not two classes, fewer frames than folds, or groups or labels of another length.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> X = np.r_[np.linspace(-2, -1, 20), np.linspace(1, 2, 20)][:, None]
    >>> y = (X[:, 0] > 0).astype(int)
    >>> y[3] = 1
    >>> find_label_issues(X, y, estimator=LogisticRegression()).indices.tolist()
    [3]
    """
    X, y = np.asarray(X), np.asarray(y)
    if y.shape != (len(X),):
        raise InputError(f"y must have one label a source: shape ({len(X)},). Got {y.shape}.")
    classes, label = np.unique(y, return_inverse=True)
    if len(classes) != 2:
        raise InputError(f"Labels must be of two classes. Got {len(classes)}.")
    frames = None if groups is None else check_frames(groups, len(X))
    if estimator is None:
        from mlpsf.selectors.novelty import NoveltySelector

        estimator = NoveltySelector()
    if isinstance(cv, str):
        if cv != "prefit":
            raise InputError(f"The 'cv' parameter must be folds or 'prefit'. Got {cv!r}.")
        probability = _probability(estimator, X, frames, classes)
    else:
        probability = _out_of_fold(estimator, X, y, frames, classes, cv)
    own = probability[np.arange(len(y)), label]
    margin = 2.0 * own - 1.0
    # The mean probability of the sources with a label is the threshold for "confident".
    threshold = np.array([probability[label == k, k].mean() for k in (0, 1)])
    other = 1 - label
    confident = 1.0 - own >= threshold[other]
    still_its_own = (own >= threshold[label]) & (own >= 0.5)
    rows = np.flatnonzero(confident & ~still_its_own)
    rows = rows[np.argsort(margin[rows], kind="stable")]
    return LabelIssues(rows, margin[rows], probability)


def _out_of_fold(
    estimator: Any,
    X: NDArray[Any],
    y: NDArray[Any],
    frames: NDArray[Any] | None,
    classes: NDArray[Any],
    cv: Any,
) -> NDArray[np.float64]:
    """Return the probabilities of each source from an estimator fitted without it."""
    # scikit-learn's cross_val_predict passes groups to the splitter or to fit, but not to
    # predict_proba, where the selectors need them.
    splitter = cv
    if isinstance(cv, int | np.integer):
        splitter = StratifiedKFold(cv) if frames is None else GroupKFold(cv)
    out = np.full((len(y), 2), np.nan)
    try:
        folds = list(splitter.split(X, y, frames))
    except ValueError as error:
        raise InputError(f"The sources cannot be split into {cv} folds: {error}") from error
    for train, test in folds:
        extra = _groups(estimator.fit, frames, train)
        fitted = clone(estimator).fit(X[train], y[train], **extra)
        out[test] = _probability(fitted, X[test], None if frames is None else frames[test], classes)
    if np.isnan(out).any():
        raise InputError("The folds must judge every source; these leave some out.")
    return out


def _probability(
    fitted: Any, X: NDArray[Any], frames: NDArray[Any] | None, classes: NDArray[Any]
) -> NDArray[np.float64]:
    if not np.array_equal(fitted.classes_, classes):
        raise InputError(f"The estimator knows the labels {fitted.classes_}, not {classes}.")
    extra = _groups(fitted.predict_proba, frames, slice(None))
    return np.asarray(fitted.predict_proba(X, **extra), dtype=np.float64)


def _groups(method: Any, frames: NDArray[Any] | None, rows: Any) -> dict[str, NDArray[Any]]:
    """Return the frames as a keyword argument, if the method takes it."""
    if frames is None or "groups" not in signature(method).parameters:
        return {}
    return {"groups": frames[rows]}
