"""What a trained network says of cutouts, in few imports: choosing stars needs no more.

`PSFStarSelector` is scikit-learn's and takes a second to import with it; `Judge` reads the same
file, gives the same probabilities, and can do nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError
from mlpsf.stretch import as_cutouts, scaled

__all__ = ["Judge", "as_probabilities", "network_log_odds"]

_BLOCK = 2048  # cutouts scaled at once: no more memory for more sources
_MAX_LOG_ODDS = 16.0  # a network is never surer than 1e-7 of anything, whatever it says


class Judge:
    """A saved `PSFStarSelector` that only judges.

    Attributes
    ----------
    cutout_size_ : int
        Side of the cutouts that it takes.
    reference_fwhm_ : float or None
        FWHM in pixels to which they are resampled; None for the frame's own scale.
    model_name_, model_sha256_ : str
        Of its file.

    Examples
    --------
    >>> from mlpsf.selectors.storage import load_judge, pretrained_path
    >>> judge = load_judge(pretrained_path())
    >>> judge.predict_proba(np.zeros((1, 41, 41))).shape
    (1, 2)
    """

    def __init__(
        self,
        network: Any,
        *,
        scaler: dict[str, Any] | None,
        calibration: tuple[float, float],
        cutout_size: int,
        reference_fwhm: float | None,
        name: str,
        sha256: str,
    ) -> None:
        self.network_ = network
        self.scaler_ = scaler
        self.calibration_ = calibration
        self.cutout_size_ = cutout_size
        self.reference_fwhm_ = reference_fwhm
        self.model_name_ = name
        self.model_sha256_ = sha256

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probability of each class, other and good.

        Parameters
        ----------
        X : array_like, shape (n, size, size) or (n, size * size)
            NaN marks pixels without data.

        Returns
        -------
        ndarray of float64, shape (n, 2)

        Raises
        ------
        InputError
            The cutouts are of another size.
        """
        cutouts = as_cutouts(np.asarray(X, dtype=np.float32))
        if cutouts.shape[-1] != self.cutout_size_:
            raise InputError(
                f"{self.model_name_} takes cutouts of {self.cutout_size_} pixels a side. "
                f"Got {cutouts.shape[-1]}."
            )
        slope, intercept = self.calibration_
        return as_probabilities(
            slope * network_log_odds(self.network_, self._scale, cutouts) + intercept
        )

    def _scale(self, cutouts: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.scaler_ is None:
            return np.nan_to_num(cutouts, nan=0.0)
        return scaled(cutouts, **self.scaler_)


def network_log_odds(
    network: Callable[[NDArray[np.float32]], Any],
    scale: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    cutouts: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Return the log-odds of being good that a network gives, not calibrated yet.

    A cutout gets the same in any batch to 1e-5, and its probability to 5e-6: batch, threads and
    instruction set decide the order in which a network sums in single precision (3e-6 of log-odds
    was seen to change with it). `mlpsf.choose` compares no more decimals than that.

    Parameters
    ----------
    network : callable
        From scaled cutouts to the probabilities of other and good, shape (n, 2).
    scale : callable
        From cutouts to scaled ones.
    cutouts : ndarray of float32, shape (n, size, size)

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    parts = [np.zeros((0, 2), dtype=np.float32)]
    for start in range(0, len(cutouts), _BLOCK):
        images = scale(cutouts[start : start + _BLOCK])
        # In fours: Keras adds a lone row up in another order, which on many processors is all
        # that company changes.
        fours = np.pad(images, ((0, -len(images) % 4), (0, 0), (0, 0)))
        parts.append(network(fours)[: len(images)])
    # Of both classes: 1 - p of a sure one has no digits left in float32.
    other, good = np.log(np.maximum(np.concatenate(parts), 1e-30), dtype=np.float64).T
    return np.asarray(np.clip(good - other, -_MAX_LOG_ODDS, _MAX_LOG_ODDS))


def as_probabilities(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of (other, good), shape (n, 2), of log-odds of being good."""
    good = np.exp(-np.logaddexp(0.0, -log_odds))
    return np.column_stack([1.0 - good, good])
