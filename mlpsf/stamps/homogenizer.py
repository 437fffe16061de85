"""`PSFHomogenizer`: cutouts of any telescope become stamps that look the same, in a pipeline."""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.utils import _safe_indexing
from sklearn.utils._param_validation import Interval

from mlpsf.errors import InputError, NoSourcesError
from mlpsf.frames.cutouts import Cutouts
from mlpsf.frames.tiles import SMALLEST
from mlpsf.stacks.values import as_cutouts, check_frames, padded
from mlpsf.stamps.from_cutouts import homogenize
from mlpsf.stamps.scaling import CutoutEstimator, learns_at_once
from mlpsf.stamps.standard import STAMP_SIZE

__all__ = ["PSFHomogenizer", "stamps_of_weight"]


class PSFHomogenizer(  # type: ignore[call-arg]
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    CutoutEstimator,
    auto_wrap_output_keys=None,  # images fit into no data frame
):
    """Replace the PSF of each frame's cutouts by one standard star.

    The stars of every frame share an image, its PSF. It is found among the cutouts of the frame,
    fitted to each of them, and replaced by a round star of FWHM 4 pixels and the same flux, on
    stamps resampled to that FWHM. What remains of a source beyond its frame's PSF, a neighbour or
    the width of a galaxy, stays where it was. A classifier then needs to know no telescope.

    Parameters
    ----------
    size : int
        Side of the stamps in pixels, odd: 41 is ten FWHM.
    replace : bool
        Whether the PSF is replaced; otherwise stamps are only resampled.
    pad : bool
        Accept tables of any width: rows that are no odd square are centred in zeros, and rows
        among which no star is found become stamps as they are.

    Attributes
    ----------
    n_features_in_ : int
        Pixels of a cutout in `fit`.

    Notes
    -----
    There is nothing to learn from one frame for another: `transform` measures the FWHM, the noise,
    the saturation level and the PSF of each frame from the cutouts it is given. Give the frame of
    each cutout as ``groups``, all cutouts of a frame together, and ``positions`` where the PSF may
    vary over the frame. In a pipeline with metadata routing enabled::

        PSFHomogenizer().set_transform_request(groups=True)

    Stamps that have been homogenized pass unchanged. Cutouts may be of any odd side from 15 to 151
    pixels, with or without sky; NaN or SExtractor's -1e30 mark missing pixels.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> u = np.arange(-35, 36)
    >>> star = np.exp(-0.5 * (u**2 + u[:, None] ** 2) / 9)  # FWHM 7
    >>> X = rng.uniform(500, 5000, (20, 1, 1)) * star + rng.normal(30, 1, (20, 71, 71))
    >>> stamps = PSFHomogenizer().fit_transform(X)
    >>> stamps.shape, bool(abs(stamps[0, 20, 22] / stamps[0, 20, 20] - 0.5) < 0.02)
    ((20, 41, 41), True)
    """

    replaces_psf: ClassVar[bool] = True

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "size": [Interval(Integral, SMALLEST, None, closed="left")],
        "replace": ["boolean"],
        "pad": ["boolean"],
    }

    def __init__(self, *, size: int = STAMP_SIZE, replace: bool = True, pad: bool = False) -> None:
        self.size = size
        self.replace = replace
        self.pad = pad

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    @learns_at_once
    def fit(self, X: ArrayLike, y: Any = None) -> Self:  # noqa: ARG002 - scikit-learn's signature
        """Check parameters and cutouts; nothing is learned.

        Parameters
        ----------
        X : array_like, shape (n, size, size) or (n, size * size), or Cutouts
        y : None
            Ignored.

        Returns
        -------
        self
        """
        self._check_size()
        self._validate_pixels(X, reset=True)
        return self

    def _check_size(self) -> None:
        if self.size % 2 == 0:
            raise InputError(f"The 'size' of stamps must be odd. Got {self.size}.")

    @property
    def _n_features_out(self) -> int:
        return self.size**2

    def fit_transform(
        self,
        X: ArrayLike | Cutouts,
        y: Any = None,
        groups: ArrayLike | None = None,
        positions: ArrayLike | None = None,
    ) -> NDArray[np.float32]:
        """Check parameters and cutouts, and make the stamps; see `transform`."""
        stamps: NDArray[np.float32] = self.fit(X, y).transform(X, groups, positions)
        return stamps

    def transform(
        self,
        X: ArrayLike | Cutouts,
        groups: ArrayLike | None = None,
        positions: ArrayLike | None = None,
    ) -> NDArray[np.float32]:
        """Make the stamps.

        Parameters
        ----------
        X : array_like, shape (n, size, size) or (n, size * size), or Cutouts
            Of any odd size when three-dimensional.
        groups : array_like, shape (n,), optional
            The frame of each cutout; one frame unless given.
        positions : array_like, shape (n, 2), optional
            x and y of each on its frame, in pixels.

        Returns
        -------
        ndarray of float32, shape (n, size, size), or (n, size * size) for flattened cutouts

        Raises
        ------
        InputError
            Cutouts are of a wrong shape, or smaller than 4 FWHM.
        NoSourcesError
            A frame has no cutout that could be an unsaturated star.

        Warns
        -----
        UserWarning
            A frame has under five cutouts, or too few stars, to find its PSF.
        """
        self._validate_params()  # there may have been no fit
        self._check_size()
        if isinstance(X, Cutouts):
            cutouts: Any = X
        else:
            if isinstance(X, np.ma.MaskedArray):
                X = np.ma.filled(X.astype(np.float32), np.nan)
            cutouts = self._cutouts(X)  # of a data frame, with the names of its columns
            X = np.asarray(X)
        n = len(cutouts)
        frames = np.zeros(n) if groups is None else check_frames(groups, n)
        at = None if positions is None else np.asarray(positions, dtype=np.float64)
        if at is not None and at.shape != (n, 2):
            raise InputError(f"positions must have the shape ({n}, 2). Got {at.shape}.")
        out = np.empty((n, self.size, self.size), dtype=np.float32)
        for frame in np.unique(frames):
            rows = np.flatnonzero(frames == frame)
            name = "the set" if groups is None else f"frame {frame}"
            place = (None, None) if at is None else at[rows].T
            part = cutouts if len(rows) == n else cutouts[rows]
            out[rows] = self._stamps(part, place, name)
        flat = isinstance(X, np.ndarray) and X.ndim == 2
        return out.reshape(n, -1) if flat else out

    def _cutouts(self, X: ArrayLike) -> NDArray[np.float32]:
        pixels = np.asarray(X)
        if pixels.ndim == 3:  # of any size, whatever was fitted
            return as_cutouts(pixels.astype(np.float32, copy=False))
        flat = self._validate_pixels(X if hasattr(X, "columns") else pixels, reset=False)
        return as_cutouts(padded(flat, SMALLEST) if self.pad else flat)

    def _stamps(self, part: Any, place: Any, name: str) -> NDArray[np.float32]:
        try:
            return homogenize(part, *place, size=self.size, replace=self.replace, name=name)
        except (NoSourcesError, InputError):
            if not self.pad or isinstance(part, Cutouts) or part.shape[-1] % 2 == 0:
                raise
        # A table is no image.
        side = (self.size - part.shape[-1]) // 2
        if side < 0:
            return np.asarray(part[:, -side : side or None, -side : side or None])
        return np.pad(np.nan_to_num(part), ((0, 0), (side, side), (side, side)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        tags.requires_fit = False
        return tags


def stamps_of_weight(
    homogenizer: PSFHomogenizer,
    X: ArrayLike,
    groups: ArrayLike | None,
    sample_weight: ArrayLike | None,
) -> NDArray[np.float32]:
    """Make stamps of the cutouts that have a weight; those of the others are of zeros.

    A cutout without weight must not take part in what is measured of its frame.

    Parameters
    ----------
    homogenizer : PSFHomogenizer
    X, groups
        As for `PSFHomogenizer.transform`.
    sample_weight : array_like, shape (n,), optional
    """
    weight = np.ones(1) if sample_weight is None else np.asarray(sample_weight)
    used = np.flatnonzero(weight)
    if len(used) in (0, len(weight)):
        return np.asarray(homogenizer.transform(X, groups))
    frames = None if groups is None else np.asarray(groups)[used]
    stamps = np.asarray(homogenizer.transform(_safe_indexing(X, used), frames))
    out = np.zeros((len(weight), *stamps.shape[1:]), dtype=np.float32)
    out[used] = stamps
    return out
