"""Import TRIPPy, fix its defects, and create its PSF objects.

Other modules should import :mod:`mlpsf.psf.trippy.border` instead.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError, MissingPackageError
from mlpsf.psf.trippy.tables import centre_on_pixel, line_kernel, profile

__all__ = ["REP_FACTS", "downsample", "load_trippy", "new_psf", "release_downsample"]

FloatArray = NDArray[np.float64]

#: Values supported by TRIPPy; its constructor raises for any other.
REP_FACTS = (3, 5, 10)

_LOCK = threading.RLock()


class _LazyPylab(ModuleType):
    """Placeholder for pylab until TRIPPy first draws, so that the import loads no matplotlib."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module("matplotlib.pylab"), name)


class _OlderNumpy:
    """NumPy with a linspace that takes a number of places that is no integer, as it once did."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def linspace(start: Any, stop: Any, num: float = 50) -> FloatArray:
        return np.linspace(start, stop, int(num))


def _stand_in_imp() -> ModuleType:
    """Return a replacement of module imp (removed in Python 3.12) with the function TRIPPy uses."""
    module = ModuleType("imp")

    def find_module(name: str) -> None:
        if importlib.util.find_spec(name) is None:
            raise ImportError(name)

    module.find_module = find_module  # type: ignore[attr-defined]
    return module


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Install stand-ins for modules that TRIPPy imports, and remove them afterwards."""
    added = {}
    for name, module in (("imp", _stand_in_imp()), ("pylab", _LazyPylab("pylab"))):
        if name not in sys.modules:
            added[name] = sys.modules[name] = module
    try:
        yield
    finally:
        for name, module in added.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def downsample(a: FloatArray, factor: int) -> FloatArray:
    """Return the mean over blocks, as TRIPPy's downSample2d; one reshape, fits 8 times faster."""
    rows, columns = a.shape[0] // factor, a.shape[1] // factor
    blocks = a[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    return np.asarray(blocks.mean(axis=(1, 3)))


def load_trippy() -> Any:
    """Import TRIPPy, on any supported Python, without matplotlib and without a display.

    During the import, the modules ``imp`` (removed in Python 3.12) and ``pylab`` are replaced by
    stand-ins. The second loads the real pylab if TRIPPy draws. A user's matplotlib backend is not
    changed. Then ``trippy.psf.downSample2d`` is replaced by the same sum as one reshape, and
    ``trippy.pill``, whose apertures NumPy has refused since 1.18, is given what it expects.

    Returns
    -------
    module
        ``trippy``, with ``trippy.psf`` and ``trippy.MCMCfit.MCMCfit`` loaded.

    Raises
    ------
    MissingPackageError
        If TRIPPy is not installed, or emcee, which its fitter imports.

    Examples
    --------
    >>> load_trippy().__version__
    '1.1.1'
    """
    with _LOCK:
        try:
            with _stand_ins(), warnings.catch_warnings():
                # TRIPPy's source uses outdated syntax; users cannot change that.
                warnings.simplefilter("ignore", SyntaxWarning)
                warnings.simplefilter("ignore", DeprecationWarning)
                package = importlib.import_module("trippy")
                psf: Any = importlib.import_module("trippy.psf")
                importlib.import_module("trippy.MCMCfit.MCMCfit")
        except ImportError as error:
            raise MissingPackageError(
                f"the PSF is built with TRIPPy, which cannot be imported here ({error}); "
                "try: pip install 'trippy[mcmcfit]==1.1.1'"
            ) from error
        if not hasattr(psf, "_release_downSample2d"):
            psf._release_downSample2d = psf.downSample2d
            psf.downSample2d = downsample
            package.pill.np = _OlderNumpy()
        return package


@contextmanager
def release_downsample() -> Iterator[None]:
    """Restore TRIPPy's own downSample2d temporarily, to time it as released.

    Not for use from several threads at once.

    Examples
    --------
    >>> with release_downsample():
    ...     load_trippy().psf.downSample2d(np.ones((20, 20)), 10).shape
    (2, 2)
    """
    psf = load_trippy().psf
    psf.downSample2d = psf._release_downSample2d
    try:
        yield
    finally:
        psf.downSample2d = downsample


@cache
def _model_class() -> Any:
    """Return a subclass of trippy.psf.modelPSF that fixes its defects."""
    base: Any = load_trippy().psf.modelPSF

    class ModelPSF(base):  # type: ignore[misc]
        """TRIPPy's modelPSF with an optional fixed sky, an aligned PSF and unbroken trails."""

        sky: float | None = None

        @property
        def bg(self) -> float:
            return self._bg

        @bg.setter
        def bg(self, value: float) -> None:
            self._bg = float(value) if self.sky is None else self.sky

        def fitMoffat(self, *args: Any, **kwargs: Any) -> Any:
            if self.sky is not None:
                # The fastest estimate, because the setter of bg ignores its value.
                kwargs.update(mode="median", bgRadius=-1.0)
            return super().fitMoffat(*args, **kwargs)

        def genPSF(self, A: float = 1.0) -> None:
            self.moffProf = self.moffat(self.R - np.min(self.R))
            light = profile(self.alpha, self.beta, self.lookupTable, self.repFact)
            table, oversampling = centre_on_pixel(light, self.repFact)
            self.fullPSF = downsample(table, oversampling // self.repFact) * A
            self.fullpsf = downsample(self.fullPSF, self.repFact)

        def line(
            self,
            rate: float,
            angle: float,
            dt: float,
            pixScale: float = 0.2,
            display: bool = False,  # noqa: ARG002
            useLookupTable: bool = True,
            verbose: bool = False,  # noqa: ARG002
        ) -> None:
            self.rate, self.angle, self.dt, self.pixScale = rate, angle, dt, pixScale
            from scipy.signal import fftconvolve  # takes a second

            length = abs(rate * dt / pixScale)
            self.line2d = line_kernel(length * self.repFact, angle)
            table = self.lookupTable if useLookupTable else np.zeros_like(self.lookupTable)
            # Light from outside the box trails into it; without the margin its edge would be dark.
            margin = int(np.ceil(length / 2)) + 1
            light = profile(self.alpha, self.beta, table, self.repFact, margin)
            light = fftconvolve(light, self.line2d, mode="same")
            cut = margin * self.repFact
            light = light[cut:-cut, cut:-cut]
            full = profile(self.alpha, self.beta, table, self.repFact)
            inside = centre_on_pixel(light, self.repFact)[0].sum()
            light *= centre_on_pixel(full, self.repFact)[0].sum() / inside
            self.trailed = light
            # plant shifts this from the lower left corner of the middle pixel, like the lookup
            # table, so both kinds of source use the same coordinates.
            self.longPSF = light[self.repFact :, self.repFact :].copy()
            self.longpsf = downsample(self.longPSF, self.repFact)

    return ModelPSF


def new_psf(
    size: int, alpha: float, beta: float, rep_fact: int = 10, table: ArrayLike | None = None
) -> Any:
    """Create a TRIPPy PSF object.

    It is a ``trippy.psf.modelPSF`` with three fixes: `sky` sets the background and disables
    TRIPPy's estimator; ``fullPSF`` and ``fullpsf`` are aligned, so that ``fullpsf.sum()`` is the
    flux of amplitude 1; ``line`` draws trails without gaps at any angle.

    Parameters
    ----------
    size : int
        Side in pixels, odd.
    alpha, beta : float
        Parameters of the Moffat profile; alpha in pixels.
    rep_fact : {3, 5, 10}
        Sub-pixels per pixel.
    table : (size * rep_fact, size * rep_fact) array, optional
        Finished lookup table. The PSF is then ready for plant, remove, line and psfStore.

    Returns
    -------
    trippy.psf.modelPSF

    Raises
    ------
    InputError
        If a parameter is invalid.

    Examples
    --------
    >>> new_psf(21, 3.0, 3.0, table=np.zeros((210, 210))).fullpsf.shape
    (21, 21)
    """
    if size < 3 or size % 2 == 0:
        raise InputError(f"the PSF's size must be an odd number of pixels, 3 or more; got {size}")
    if rep_fact not in REP_FACTS:
        raise InputError(f"rep_fact must be one of {REP_FACTS}; got {rep_fact}")
    if not (alpha > 0 and beta > 1 and np.isfinite([alpha, beta]).all()):
        raise InputError(
            f"a Moffat profile needs alpha > 0 and beta > 1; got alpha {alpha}, beta {beta}"
        )
    axis = np.arange(size)
    psf = _model_class()(axis, axis, alpha=float(alpha), beta=float(beta), repFact=int(rep_fact))
    psf.psfStars = []
    if table is not None:
        psf.lookupTable = np.array(table, dtype=np.float64)
        if psf.lookupTable.shape != (size * rep_fact, size * rep_fact):
            raise InputError(
                f"the lookup table of a {size} pixel PSF with rep_fact {rep_fact} must be "
                f"{size * rep_fact} square; got shape {psf.lookupTable.shape}"
            )
        psf.boxSize = size // 2
        psf.genPSF()
        psf.fitted = True
    return psf
