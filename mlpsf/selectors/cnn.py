"""PSFStarSelector: the convolutional network as a scikit-learn classifier, using scikeras."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import _fit_context
from sklearn.utils import check_random_state, compute_sample_weight
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from mlpsf.errors import InputError
from mlpsf.frames.cutouts import REFERENCE_FWHM
from mlpsf.labelling import split_frames
from mlpsf.selectors.base import MIN_SIDE, CutoutClassifier
from mlpsf.selectors.inference import KerasNetwork
from mlpsf.selectors.judge import network_log_odds
from mlpsf.stacks.values import as_cutouts, check_frames
from mlpsf.stamps.homogenizer import PSFHomogenizer, stamps_of_weight
from mlpsf.stamps.scaling import CutoutScaler, learns_at_once

if TYPE_CHECKING:
    import os

__all__ = ["PSFStarSelector"]


class PSFStarSelector(CutoutClassifier):
    """Convolutional network that gives the probability that a source is a good PSF star.

    Parameters
    ----------
    architecture : {"compact", "published"}
        ``"compact"``: a small network for stamps resampled to a reference FWHM. ``"published"``:
        the network of the ML-PSF study (Ferreira, Fraser & Kavelaars 2022), for cutouts of
        111 x 111 pixels at the frame's own scale.
    scaling : {"auto", "star", "standard"} or None
        How pixel values are scaled, see `mlpsf.CutoutScaler`. ``"auto"`` is ``"standard"`` for
        the published network and ``"star"`` for others. None: the cutouts are already scaled.
    filters : sequence of int, optional
        Number of filters of each convolution. Default: set by the architecture.
    dropout : float, optional
        Fraction of values dropped in training. Default: set by the architecture, 0.2.
    learning_rate : float
        Learning rate of the Adam optimiser.
    epochs, batch_size : int
    class_weight : "balanced", dict or None
        Weights of the classes in the loss, by label.
    early_stopping : bool
        Whether to stop when the loss of the validation frames has not fallen for `patience`
        epochs, and keep the best epoch.
    patience : int
    validation_fraction : float
        Fraction of the frames (of the cutouts, without ``groups``) that is held out for early
        stopping and to calibrate the probabilities by Platt scaling.
    callbacks : list of keras callbacks, optional
        Each fit uses copies.
    homogenize : bool
        Whether cutouts pass through `mlpsf.PSFHomogenizer` first, in ``fit`` and after: raw cutouts
        of any telescope and of any odd size from 15 to 151 pixels, judged frame by frame
        (``groups``). The model that ships does this.
    pad : bool
        Whether to accept tables of any width. Rows whose length is not an odd square are centred
        in zeros and padded to the next odd square of 15 pixels a side or more.
    random_state : int, RandomState or None
    verbose : int
        Verbosity of Keras: 0 is silent.

    Attributes
    ----------
    classes_ : ndarray, shape (2,)
        Labels: other, good.
    model_ : keras.Model
    network_ : KerasNetwork or OnnxNetwork
        The network as it is run, by Keras or ONNX Runtime.
    estimator_ : scikeras.wrappers.KerasClassifier
        The estimator that trained `model_`; absent on a loaded selector.
    homogenizer_ : PSFHomogenizer or None
        Step that makes stamps of raw cutouts; see `homogenize`.
    scaler_ : CutoutScaler or None
    history_ : dict of list of float
        Loss and accuracy of each epoch.
    calibration_ : (float, float)
        Slope and intercept applied to the log-odds of the network.
    correction_ : (float, float, float) or None
        For what stamps do not show, of the model that ships: `mlpsf.select_stars` applies it, in
        addition to what `predict_proba` says.
    held_out_ : ndarray of int
        Rows held out from training for the validation loss and the calibration; absent on a
        loaded selector.
    cutout_size_ : int
        Side of the cutouts in pixels.
    reference_fwhm_ : float or None
        FWHM in pixels to which the cutouts are resampled; None for the frame's own scale.
    n_features_in_ : int
        Number of pixels of a cutout.

    Notes
    -----
    A cutout of weight 0 is ignored. Other weights multiply the loss. Twice the weight is not
    exactly the same as two copies, because copies fall into different batches.

    scikit-learn's splitters, searches and meta-estimators accept cutouts of shape
    (n, size, size); `permutation_importance` and similar functions need them flattened.

    Examples
    --------
    >>> selector = PSFStarSelector.from_pretrained()
    >>> selector.cutout_size_, selector.reference_fwhm_
    (41, 4.0)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "architecture": [StrOptions({"compact", "published"})],
        "scaling": [StrOptions({"auto", "star", "standard"}), None],
        "filters": ["array-like", None],
        "dropout": [Interval(Real, 0, 1, closed="left"), None],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "early_stopping": ["boolean"],
        "patience": [Interval(Integral, 0, None, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "callbacks": [list, tuple, None],
        "homogenize": ["boolean"],
        "pad": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

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
        callbacks: Sequence[Any] | None = None,
        homogenize: bool = False,
        pad: bool = False,
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
        self.homogenize = homogenize
        self.pad = pad
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    @learns_at_once
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
            Cutouts of odd size, 15 or more; NaN marks pixels without data. `mlpsf.select_stars`
            applies a compact network to stamps from `mlpsf.extract_stamps`, and a published one
            to cutouts at the frame's own scale. Train on the same kind.
        y : array_like, shape (n,)
            Labels of two classes; the larger label means good.
        groups : array_like, shape (n,), optional
            Frame of each cutout. The validation split keeps frames whole.
        sample_weight : array_like, shape (n,), optional

        Returns
        -------
        self
        """
        if self.early_stopping and self.validation_fraction == 0:
            raise InputError("early_stopping needs a validation_fraction above 0, say 0.1.")
        self.homogenizer_ = None
        if self.homogenize:
            self.homogenizer_ = PSFHomogenizer().fit(X)
            X = stamps_of_weight(self.homogenizer_, X, groups, sample_weight)
        cutouts = self._validate_cutouts(X, reset=True)
        n, size = cutouts.shape[:2]
        if size < MIN_SIDE:
            raise InputError(f"Cutouts must be {MIN_SIDE} pixels a side at least. Got {size}.")
        labels = self._validate_labels(y, n)
        weight = self._validate_weight(sample_weight, cutouts)
        frames = np.arange(n) if groups is None else check_frames(groups, n)
        used = np.flatnonzero(weight)
        encoded = np.zeros(n, dtype=int)
        encoded[used] = self._encode(labels[used])
        random = check_random_state(self.random_state)
        train, held = self._split(frames[used], random)
        train, held = used[train], used[held]
        if len(np.unique(encoded[train])) < 2:
            raise InputError("The training part holds one class only: give more frames.")
        method = self._scaling_method()
        self.scaler_ = None if method is None else CutoutScaler(method=method).fit(cutouts[train])
        seed = int(random.randint(2**31 - 1))
        self.estimator_ = self._make_estimator(size, seed)
        in_loss = weight[train] * compute_sample_weight(self.class_weight, labels[train])
        extra: dict[str, Any] = {}
        if held.size:
            images = self._scale(cutouts[held])[..., None]
            extra["validation_data"] = (images, encoded[held], weight[held])
        self.estimator_.fit(
            self._scale(cutouts[train])[..., None], encoded[train], sample_weight=in_loss, **extra
        )
        self.network_ = KerasNetwork(self.estimator_.model_)
        self.history_ = {k: list(map(float, v)) for k, v in self.estimator_.history_.items()}
        self.held_out_, self.cutout_size_ = held, size
        self.reference_fwhm_ = None if self.architecture == "published" else REFERENCE_FWHM
        self.calibration_, self.correction_ = (1.0, 0.0), None
        if len(np.unique(encoded[held])) == 2:
            self._calibrate(cutouts[held], encoded[held], weight[held])
        return self

    @learns_at_once
    def calibrate(
        self,
        X: ArrayLike,
        y: ArrayLike,
        groups: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Calibrate the log-odds by Platt scaling, on labelled cutouts not used in training.

        Parameters
        ----------
        X : array_like, shape (n, size, size) or (n, size * size)
        y : array_like, shape (n,)
        groups : array_like, shape (n,), optional
            Frame of each cutout, where raw cutouts are homogenized.
        sample_weight : array_like, shape (n,), optional

        Returns
        -------
        self
        """
        check_is_fitted(self)
        cutouts = self._prepared(X, groups)
        labels = self._validate_labels(y, len(cutouts))
        unknown = np.setdiff1d(labels, self.classes_)
        if unknown.size:
            raise InputError(
                f"Labels must be those of fit, {self.classes_.tolist()}. Got {unknown.tolist()}."
            )
        weight = self._validate_weight(sample_weight, cutouts)
        self._calibrate(cutouts, (labels == self.classes_[1]).astype(int), weight)
        return self

    def _calibrate(
        self,
        cutouts: NDArray[np.float32],
        good: NDArray[np.int_],
        weight: NDArray[np.float64],
    ) -> None:
        from sklearn.linear_model import LogisticRegression

        score = self._network_log_odds(cutouts)[:, None]
        model = LogisticRegression(C=10.0).fit(score, good, sample_weight=weight)
        self.calibration_ = (max(float(model.coef_[0, 0]), 1e-3), float(model.intercept_[0]))
        self.correction_ = None  # it goes with another calibration

    def embed(self, X: ArrayLike, groups: ArrayLike | None = None) -> NDArray[np.float32]:
        """Return the activations of the last hidden layer, shape (n, width)."""
        check_is_fitted(self)
        cutouts = self._prepared(X, groups)
        embedding: NDArray[np.float32] = self.network_(self._scale(cutouts), embedding=True)
        return embedding

    @property
    def model_(self) -> Any:
        """Trained network as a Keras model. For a loaded selector, this loads TensorFlow."""
        return self.network_.model

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write network, scaling and calibration to one ``.keras`` file, without pickle.

        Parameters
        ----------
        path : path-like
            File name that ends in ``.keras``.

        Returns
        -------
        Path
        """
        from mlpsf.selectors.storage import save_selector

        return save_selector(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, engine: str = "auto") -> Self:
        """Read a selector written by `save`.

        Parameters
        ----------
        path : path-like
        engine : {"auto", "keras"}
            Library that runs the network. ``"auto"``: ONNX Runtime if the file holds an ONNX
            network; it starts without TensorFlow and agrees with Keras to 1e-5. ``"keras"``:
            the library that ran the selector before it was saved, with identical weights.

        Raises
        ------
        ModelFileError
            The file does not exist or does not hold a selector.
        """
        from mlpsf.selectors.storage import load_selector

        selector = load_selector(cls, path, engine)
        # Old files hold the side of the cutouts here, not the number of pixels.
        for part in (None if selector.pad else selector, selector.scaler_):
            if part is not None:
                part.n_features_in_ = selector.cutout_size_**2
        return selector

    @classmethod
    def from_pretrained(cls, name: str = "compact") -> Self:
        """Return a pretrained selector shipped with mlpsf.

        Its `predict_proba` is right for bright stars that were never crowded.

        Parameters
        ----------
        name : {"compact"}

        Raises
        ------
        ModelFileError
            There is no pretrained model of that name.
        """
        from mlpsf.selectors.storage import pretrained_path

        return cls.load(pretrained_path(name))

    def _prepared(self, X: ArrayLike, groups: ArrayLike | None) -> NDArray[np.float32]:
        if self.homogenizer_ is None:
            return self._validate_cutouts(X, reset=False)
        stamps: NDArray[np.float32] = as_cutouts(self.homogenizer_.transform(X, groups))
        return stamps

    def _log_odds_of_good(self, cutouts: NDArray[np.float32]) -> NDArray[np.float64]:
        slope, intercept = self.calibration_
        return slope * self._network_log_odds(cutouts) + intercept

    def _network_log_odds(self, cutouts: NDArray[np.float32]) -> NDArray[np.float64]:
        return network_log_odds(self.network_, self._scale, cutouts)

    def _scale(self, cutouts: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.scaler_ is None:
            return np.nan_to_num(cutouts, nan=0.0)
        scaled: NDArray[np.float32] = self.scaler_.transform(cutouts)
        return scaled

    def _scaling_method(self) -> str | None:
        if self.scaling == "auto":
            return "standard" if self.architecture == "published" else "star"
        return self.scaling

    def _split(
        self, frames: NDArray[Any], random: Any
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return rows to train on and rows held out; no frame is in both."""
        share = self.validation_fraction
        if share == 0:
            return np.arange(len(frames)), np.zeros(0, dtype=np.intp)
        train, held = split_frames(frames, (1 - share, share), random_state=random)
        return train, held

    def _make_estimator(self, size: int, seed: int) -> Any:
        from mlpsf.selectors.networks import build_network, keras

        from scikeras.wrappers import KerasClassifier  # isort: skip - keras is set up first

        # Training ties a callback to its network, so the parameter itself is not used.
        callbacks = [copy.copy(callback) for callback in self.callbacks or []]
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
            callbacks=callbacks or None,
            random_state=seed,
            verbose=self.verbose,
        )
