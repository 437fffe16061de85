"""Probabilities from a trained network, with few imports.

`PSFStarSelector` needs scikit-learn, which takes a second to import. `Judge` uses the same file
and gives the same probabilities, and has no other function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError
from mlpsf.stacks.values import as_cutouts, scaled

__all__ = ["Judge", "as_probabilities", "network_log_odds"]

_BLOCK = 2048  # cutouts scaled at once, which bounds the memory
_MAX_LOG_ODDS = 16.0  # limits the certainty of a network to 1e-7


class Judge:
    """A saved `PSFStarSelector` that only gives probabilities.

    Attributes
    ----------
    cutout_size_ : int
        Side of the cutouts in pixels.
    reference_fwhm_ : float or None
        FWHM in pixels to which cutouts are resampled; None for the frame's own scale.
    correction_ : (float, float, float) or None
        For what stamps do not show: `mlpsf.select_stars` applies it, `predict_proba` does not.
    model_name_, model_sha256_ : str
        Name and SHA-256 of the model file.

    Examples
    --------
    >>> from mlpsf.selectors.loading import load_judge
    >>> from mlpsf.selectors.storage import pretrained_path
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
        correction: tuple[float, float, float] | None = None,
    ) -> None:
        self.network_ = network
        self.scaler_ = scaler
        self.calibration_ = calibration
        self.correction_ = correction
        self.cutout_size_ = cutout_size
        self.reference_fwhm_ = reference_fwhm
        self.model_name_ = name
        self.model_sha256_ = sha256

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probabilities of the classes other and good.

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
            The cutouts have another size.
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
    """Return the uncalibrated log-odds of being good from a network.

    The log-odds of a cutout agree to 1e-5 between any batches, and its probability to 5e-6. The
    batch, the number of threads and the instruction set decide the order in which a network sums
    in single precision; changes of 3e-6 in the log-odds were observed. `mlpsf.choose` compares no
    more decimals than that.

    Parameters
    ----------
    network : callable
        Maps scaled cutouts to the probabilities of other and good, shape (n, 2).
    scale : callable
        Maps cutouts to scaled cutouts.
    cutouts : ndarray of float32, shape (n, size, size)

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    parts = [np.zeros((0, 2), dtype=np.float32)]
    for start in range(0, len(cutouts), _BLOCK):
        images = scale(cutouts[start : start + _BLOCK])
        # Padded to multiples of four: Keras sums a single row in another order. On many processors
        # that is the only effect of the other rows.
        fours = np.pad(images, ((0, -len(images) % 4), (0, 0), (0, 0)))
        parts.append(network(fours)[: len(images)])
    # Use both classes: 1 - p of a probability near 1 has no digits left in float32.
    other, good = np.log(np.maximum(np.concatenate(parts), 1e-30), dtype=np.float64).T
    return np.asarray(np.clip(good - other, -_MAX_LOG_ODDS, _MAX_LOG_ODDS))


def as_probabilities(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert log-odds of being good to probabilities of (other, good), shape (n, 2)."""
    good = np.exp(-np.logaddexp(0.0, -log_odds))
    return np.column_stack([1.0 - good, good])
