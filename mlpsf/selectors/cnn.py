"""PSFStarSelector: the convolutional network, a guest in scikit-learn by way of scikeras."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from mlpsf.cutouts import REFERENCE_FWHM, CutoutScaler
from mlpsf.errors import InputError
from mlpsf.selectors.base import CutoutClassifier
from mlpsf.selectors.inference import KerasNetwork

if TYPE_CHECKING:
    import os

__all__ = ["PSFStarSelector"]


_BLOCK = 2048  # cutouts scaled at once


class PSFStarSelector(CutoutClassifier):
    """Probability that a source is a good PSF star, by a convolutional network.

    Parameters
    ----------
    architecture : {"compact", "published"}
        ``"compact"``: a small network for stamps resampled to a reference FWHM. ``"published"``:
        that of the ML-PSF study (Ferreira, Fraser & Kavelaars 2022), for 111 x 111 pixels at the
        frame's own scale.
    scaling : {"auto", "star", "standard"} or None
        How pixel values are scaled, see `mlpsf.CutoutScaler`; ``"auto"`` is ``"standard"`` for
        the published network and ``"star"`` for others. None: the cutouts are scaled already.
    filters : sequence of int, optional
        Filters of each convolution; the architecture's own unless given.
    dropout : float, optional
        Share of values dropped in training; the architecture's own, 0.2, unless given.
    learning_rate : float
        Of the Adam optimiser.
    epochs, batch_size : int
    class_weight : "balanced", dict or None
        Weights of the classes in the loss.
    early_stopping : bool
        Stop when the loss of the validation frames has not fallen for `patience` epochs, and
        keep the best epoch.
    patience : int
    validation_fraction : float
        Share of the frames (of the cutouts, without ``groups``) held out: for early stopping, and
        to calibrate the probabilities by Platt's scaling.
    callbacks : list of keras callbacks, optional
    random_state : int, RandomState or None
    verbose : int
        Keras's own: 0 is silent.

    Attributes
    ----------
    classes_ : ndarray, shape (2,)
        Labels: other, good.
    model_ : keras.Model
    network_ : KerasNetwork or OnnxNetwork
        What runs it.
    estimator_ : scikeras.wrappers.KerasClassifier
        What trained `model_`; absent on a loaded selector.
    scaler_ : CutoutScaler or None
    history_ : dict of list of float
        Loss and accuracy of each epoch.
    calibration_ : (float, float)
        Slope and intercept on the log-odds of the network's output.
    cutout_size_ : int
        Side of the cutouts it takes.
    reference_fwhm_ : float or None
        FWHM in pixels to which its cutouts are resampled; None for the frame's own scale.
    n_features_in_ : int

    Examples
    --------
    >>> selector = PSFStarSelector.from_pretrained()
    >>> selector.cutout_size_, selector.reference_fwhm_
    (41, 4.0)
    """

    def __init__(
        self,
        *,
        architecture: str = "compact",
        scaling: str | None = "auto",
        filters: Sequence[int] | None = None,
        dropout: float | None = None,
        learning_rate: float = 1e-3,
        epochs: int = 30,
        batch_size: int = 256,
        class_weight: Any = None,
        early_stopping: bool = False,
        patience: int = 5,
        validation_fraction: float = 0.0,
        callbacks: list[Any] | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.architecture = architecture
        self.scaling = scaling
        self.filters = filters
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.callbacks = callbacks
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        groups: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Train the network.

        Parameters
        ----------
        X : array_like, shape (n, size, size) or (n, size * size)
            Cutouts; NaN marks pixels without data. Size odd, 15 or more.
        y : array_like, shape (n,)
            Labels of two classes; the larger is good.
        groups : array_like, shape (n,), optional
            The frame of each cutout: the validation split keeps frames whole.
        sample_weight : array_like, shape (n,), optional

        Returns
        -------
        self
        """
        self._check_parameters()
        cutouts = self._validate_cutouts(X, reset=True)
        size = cutouts.shape[-1]
        encoded = self._encode(y, len(cutouts))
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, cutouts)
        random = check_random_state(self.random_state)
        train, held = self._split(len(cutouts), groups, random)
        if len(np.unique(encoded[train])) < 2:
            raise InputError("The training part holds one class only: give more frames.")
        method = self._scaling_method()
        self.scaler_ = None if method is None else CutoutScaler(method=method).fit(cutouts[train])
        seed = int(random.randint(2**31 - 1))
        self.estimator_ = self._make_estimator(size, seed)
        extra: dict[str, Any] = {}
        if held.size:
            extra["validation_data"] = (self._scale(cutouts[held])[..., None], encoded[held])
        self.estimator_.fit(
            self._scale(cutouts[train])[..., None],
            encoded[train],
            sample_weight=None if weight is None else weight[train],
            **extra,
        )
        self.network_ = KerasNetwork(self.estimator_.model_)
        self.history_ = {k: list(map(float, v)) for k, v in self.estimator_.history_.items()}
        self.cutout_size_ = size
        self.reference_fwhm_ = None if self.architecture == "published" else REFERENCE_FWHM
        self.calibration_ = (1.0, 0.0)
        if held.size and len(np.unique(encoded[held])) == 2:
            self.calibrate(cutouts[held], y=self.classes_[encoded[held]])
        return self

    def calibrate(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit Platt's scaling of the log-odds to labelled cutouts that were not trained on.

        Parameters
        ----------
        X : array_like, shape (n, size, size) or (n, size * size)
        y : array_like, shape (n,)
        sample_weight : array_like, shape (n,), optional

        Returns
        -------
        self
        """
        from sklearn.linear_model import LogisticRegression

        cutouts = self._validate_cutouts(X, reset=False)
        score = _log_odds(self._forward(cutouts))[:, None]
        good = np.asarray(y) == self.classes_[1]
        model = LogisticRegression(C=10.0).fit(score, good, sample_weight=sample_weight)
        self.calibration_ = (max(float(model.coef_[0, 0]), 1e-3), float(model.intercept_[0]))
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Log-odds of being good, shape (n,)."""
        good = self.predict_proba(X)[:, 1]
        return _log_odds(good)

    def embed(self, X: ArrayLike) -> NDArray[np.float32]:
        """Return the activations of the last hidden layer, shape (n, width)."""
        check_is_fitted(self)
        cutouts = self._validate_cutouts(X, reset=False)
        embedding: NDArray[np.float32] = self.network_(self._scale(cutouts), embedding=True)
        return embedding

    @property
    def model_(self) -> Any:
        """The trained network as a Keras model; for a loaded selector this loads TensorFlow."""
        return self.network_.model

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write network, scaling and calibration to one ``.keras`` file that holds no pickle.

        Parameters
        ----------
        path : path-like
            Ends in ``.keras``.

        Returns
        -------
        Path
        """
        from mlpsf.selectors.storage import save_selector

        return save_selector(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, engine: str = "auto") -> Self:
        """Read a selector that `save` wrote.

        Parameters
        ----------
        path : path-like
        engine : {"auto", "keras"}
            What runs the network. ``"auto"``: ONNX Runtime where the file has that form, which
            starts without TensorFlow and agrees with Keras to 1e-6. ``"keras"``: to the last bit
            what the selector gave before it was saved.

        Raises
        ------
        ModelFileError
            There is no such file, or it is no selector.
        """
        from mlpsf.selectors.storage import load_selector

        return load_selector(cls, path, engine)

    @classmethod
    def from_pretrained(cls, name: str = "compact") -> Self:
        """Return the selector that ships with mlpsf.

        Parameters
        ----------
        name : {"compact"}

        Raises
        ------
        ModelFileError
            No model of that name ships.
        """
        from mlpsf.selectors.storage import pretrained_path

        return cls.load(pretrained_path(name))

    def _probability_of_good(self, cutouts: NDArray[np.float32]) -> NDArray[np.float64]:
        slope, intercept = self.calibration_
        calibrated: NDArray[np.float64] = expit(
            slope * _log_odds(self._forward(cutouts)) + intercept
        )
        return calibrated

    def _forward(self, cutouts: NDArray[np.float32]) -> NDArray[np.float64]:
        # In blocks: no more memory for more sources.
        parts = [
            self.network_(self._scale(cutouts[i : i + _BLOCK]))[:, 1]
            for i in range(0, len(cutouts), _BLOCK)
        ]
        return np.concatenate(parts).astype(np.float64)

    def _scale(self, cutouts: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.scaler_ is None:
            return np.nan_to_num(cutouts, nan=0.0)
        scaled: NDArray[np.float32] = self.scaler_.transform(cutouts)
        return scaled

    def _scaling_method(self) -> str | None:
        if self.scaling == "auto":
            return "standard" if self.architecture == "published" else "star"
        return self.scaling

    def _check_parameters(self) -> None:
        from mlpsf.selectors.networks import ARCHITECTURES

        for name, value, allowed in (
            ("architecture", self.architecture, sorted(ARCHITECTURES)),
            ("scaling", self.scaling, ["auto", "star", "standard", None]),
        ):
            if value not in allowed:
                raise InputError(
                    f"The {name!r} parameter of PSFStarSelector must be one of {allowed}. "
                    f"Got {value!r} instead."
                )
        if not 0 <= self.validation_fraction < 1:
            raise InputError(
                "The 'validation_fraction' parameter of PSFStarSelector must be in [0, 1). "
                f"Got {self.validation_fraction!r} instead."
            )
        if self.early_stopping and self.validation_fraction == 0:
            raise InputError("early_stopping needs a validation_fraction above 0, say 0.1.")

    def _split(
        self, n: int, groups: ArrayLike | None, random: Any
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows to train on and rows held out, no frame on both sides."""
        if self.validation_fraction == 0:
            return np.arange(n), np.zeros(0, dtype=int)
        from mlpsf.labelling import split_frames

        frames = np.arange(n) if groups is None else np.asarray(groups)
        if frames.shape != (n,):
            raise InputError(
                f"groups must name one frame a cutout: shape ({n},). Got {frames.shape}."
            )
        share = self.validation_fraction
        train, held = split_frames(frames, (1 - share, share), random_state=random)
        return train, held

    def _make_estimator(self, size: int, seed: int) -> Any:
        from mlpsf.selectors.networks import build_network, keras

        from scikeras.wrappers import KerasClassifier  # isort: skip - keras is set up first

        callbacks = list(self.callbacks or [])
        if self.early_stopping:
            callbacks.append(
                keras.callbacks.EarlyStopping(
                    monitor="val_loss", patience=self.patience, restore_best_weights=True
                )
            )
        return KerasClassifier(
            model=build_network,
            model__size=size,
            model__architecture=self.architecture,
            model__filters=self.filters,
            model__dropout=self.dropout,
            model__seed=seed,
            loss="sparse_categorical_crossentropy",
            optimizer="adam",
            optimizer__learning_rate=self.learning_rate,
            metrics=["accuracy"],
            epochs=self.epochs,
            batch_size=self.batch_size,
            class_weight=self.class_weight,
            callbacks=callbacks or None,
            random_state=seed,
            verbose=self.verbose,
        )


def _log_odds(probability: NDArray[np.floating]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = logit(np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7))
    return out
