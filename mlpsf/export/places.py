"""What the formats need of a PSF: its values between pixels, at a place and over the frame.

This is the one place that asks how a PSF varies. A PSF with ``varies`` and ``at(x, y)`` is asked
for every place; any other is the same everywhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray

from mlpsf.errors import InputError
from mlpsf.version import __version__

__all__ = [
    "centred",
    "effective",
    "fit_over_frame",
    "frame_size",
    "half_cells",
    "hdu_bytes",
    "monomials",
    "order_of",
    "psf_at",
    "sign",
]

_FREE = 0.01  # of the largest correction, that a corner may be off without a word

FloatArray = NDArray[np.float64]
Place = tuple[float, float]


def order_of(psf: Any) -> int:
    """Return the order of the polynomial by which a PSF varies over its frame; 0: constant."""
    return int(psf.order) if getattr(psf, "varies", False) else 0


def psf_at(psf: Any, at: Place | None) -> Any:
    """Return the PSF of a place, or its mean where no place is given.

    Parameters
    ----------
    psf : PSFModel
    at : (float, float) or None
        x and y on the frame, 0-based pixels.

    Returns
    -------
    PSFModel
        The PSF itself if it is constant.
    """
    if at is None or not getattr(psf, "varies", False):
        return psf
    return psf.at(*at)


def frame_size(psf: Any, given: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return rows and columns of the frame of a PSF.

    Parameters
    ----------
    psf : PSFModel
        Without a known frame, the rectangle from the first pixel to its furthest stars is taken.
    given : (int, int), optional
        Used instead.

    Raises
    ------
    InputError
        If the shape is not two positive numbers, or places do not count from its first pixel.
    """
    terms = getattr(psf, "terms", None)
    if terms is not None and any(terms.first):
        raise InputError(
            f"this PSF's places count from {terms.first} and not from a frame's first pixel; give "
            "a place (at=(x, y), --at X Y) to write the PSF there"
        )
    shape = given or getattr(psf, "frame_shape", None) or getattr(terms, "frame_shape", None)
    if shape is None and len(psf.stars):
        x, y = np.ceil(psf.stars[:, :2].max(axis=0) + 0.5).astype(int)
        shape = (y, x)
    elif shape is None:
        shape = (psf.size, psf.size)
    ny, nx = (int(v) for v in shape)
    if min(nx, ny) < 2:
        raise InputError(f"the frame of a PSF must have 2 x 2 pixels or more; got {nx} x {ny}")
    return ny, nx


def half_cells(psf: Any, step: float) -> int:
    """Return how many cells on each side of the middle hold all light of a star's image.

    Parameters
    ----------
    psf : PSFModel
    step : float
        Distance of the cells in pixels.
    """
    # Half a pixel more than the box of the PSF: a pixel that touches the box takes light of it.
    return int(np.ceil((psf.size + 1) / 2 / step))


def effective(psf: Any, step: float, half: int | None = None) -> FloatArray:
    """Sample the effective PSF: the light that a pixel takes, by its distance from the star.

    The response of the pixel is in it, so its values are those of pixels, not to be integrated.

    Parameters
    ----------
    psf : PSFModel
    step : float
        Distance of the samples in pixels, a whole part of one.
    half : int, optional
        Samples on each side of the middle; by default as many as hold all the light.

    Returns
    -------
    (2 * half + 1, 2 * half + 1) array
        For a star of flux 1; the middle sample is a pixel that is centred on the star. The sum
        times the square of `step` is 1.

    Examples
    --------
    >>> from mlpsf.psf import PSFModel
    >>> values = effective(PSFModel(np.zeros((210, 210)), 3.0, 3.0), 0.5)
    >>> values.shape, float((values.sum() * 0.25).round(3))
    ((45, 45), 1.0)
    """
    half = half_cells(psf, step) if half is None else half
    cells = round(1 / step)
    # A star at each cell of a pixel: pixel a of its stamp is at a minus the star's offset.
    reach = -(-half // cells)
    side = 2 * reach + 1
    y, x = np.mgrid[cells - 1 : -1 : -1, cells - 1 : -1 : -1] / cells
    stamps = psf.stamps(x.ravel(), y.ravel(), side).reshape(cells, cells, side, side)
    fine = stamps.transpose(2, 0, 3, 1).reshape(side * cells, side * cells)
    first = (reach + 1) * cells - 1 - half
    return np.asarray(fine[first : first + 2 * half + 1, first : first + 2 * half + 1])


def centred(x: FloatArray, y: FloatArray, shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """Return coordinates that run from -1 at the first pixel of the frame to 1 at the last."""
    ny, nx = shape
    return np.asarray(x) / ((nx - 1) / 2) - 1, np.asarray(y) / ((ny - 1) / 2) - 1


def monomials(u: FloatArray, v: FloatArray, degree: int) -> FloatArray:
    """Return the products u^i v^j with i + j of at most `degree`; i runs fastest.

    Examples
    --------
    >>> monomials(np.array([2.0]), np.array([3.0]), 2)
    array([[1., 2., 4., 3., 6., 9.]])
    """
    return np.column_stack([u**i * v**j for j in range(degree + 1) for i in range(degree + 1 - j)])


def fit_over_frame(
    psf: Any,
    sample: Callable[[Any], FloatArray],
    terms: Callable[[FloatArray, FloatArray], FloatArray],
    shape: tuple[int, int],
) -> FloatArray:
    """Fit the terms of a format's polynomial to samples of a PSF at places over its frame.

    Parameters
    ----------
    psf : PSFModel
        A constant PSF is sampled once, and the first term alone is not zero.
    sample : callable
        Takes the PSF of a place, returns an array.
    terms : callable
        Takes x and y of n places, 0-based pixels, returns (n, n_terms); the first term is 1.
    shape : (int, int)
        Rows and columns of the frame.

    Returns
    -------
    (n_terms, ...) array
        The coefficients, each of the shape of a sample.
    """
    ny, nx = shape
    order = order_of(psf)
    terms_of_psf = getattr(psf, "terms", None)
    if terms_of_psf is not None and terms_of_psf.limits is not None:
        # No format holds its polynomial: one through held samples would be wrong at the stars.
        _warn_of_free_corners(terms_of_psf, psf.lookup_table, shape)
        psf = replace(psf, terms=terms_of_psf.free)
    if order == 0:
        value = sample(psf)
        n_terms = terms(np.zeros(1), np.zeros(1)).shape[1]
        return np.concatenate([value[None], np.zeros((n_terms - 1, *value.shape))])
    # Chebyshev's points: a polynomial through them does not run away between or beyond.
    n = order + 2
    at = np.cos(np.pi * (np.arange(n) + 0.5) / n) / np.cos(np.pi / (2 * n))
    y, x = np.meshgrid((at + 1) * (ny - 1) / 2, (at + 1) * (nx - 1) / 2, indexing="ij")
    x, y = x.ravel(), y.ravel()
    values = np.stack(
        [sample(psf_at(psf, (float(a), float(b)))) for a, b in zip(x, y, strict=True)]
    )
    matrix = terms(x, y)
    # Powers of pixels grow large: without a common size the solution would lose its decimals.
    size = np.abs(matrix).max(axis=0)
    solution = np.linalg.lstsq(matrix / size, values.reshape(len(values), -1), rcond=None)[0]
    return np.asarray((solution / size[:, None]).reshape(-1, *values.shape[1:]))


def _warn_of_free_corners(terms: Any, table: FloatArray, shape: tuple[int, int]) -> None:
    """Warn if a polynomial that is not held leaves the PSF at a corner of the frame."""
    tables = np.asarray(terms.tables)
    x, y = (np.array(v, dtype=float) for v in zip(*_corners(shape), strict=True))
    off = np.tensordot(terms.free.amounts(x, y) - terms.amounts(x, y), tables, (1, 0))
    off = np.abs(off).max(axis=(1, 2))
    size = max(np.abs(table).max(), np.abs(tables).max())
    if off.max() > _FREE * size:
        at = int(off.argmax())
        warnings.warn(
            f"far from its stars this PSF is held near what they show, and the polynomial of this "
            f"format is not: it leaves it at the corner ({x[at]:.0f}, {y[at]:.0f}). Use it where "
            "the stars are, or write the PSF of a place (at=(x, y), --at X Y)",
            AstropyUserWarning,
            stacklevel=2,
        )


def _corners(shape: tuple[int, int]) -> list[tuple[int, int]]:
    ny, nx = shape
    return [(x, y) for x in (0, nx - 1) for y in (0, ny - 1)]


def sign(header: fits.Header, meta: Any, n_stars: int | None = None) -> None:
    """Write into a header what made the file: mlpsf, the frame and the selector.

    Parameters
    ----------
    header : Header
        Changed.
    meta : mapping
        Of a PSF or a star table.
    n_stars : int, optional
        Number of stars of the PSF.
    """
    header["CREATOR"] = (f"mlpsf {meta.get('mlpsf_version', __version__)}", "what made this")
    for name, key, comment in (
        ("frame", "FRAME", "name of the frame"),
        ("frame_sha256", "FRAMESHA", ""),
        ("selector", "SELECTOR", "what chose the stars"),
        ("model_sha256", "MODELSHA", ""),
    ):
        if meta.get(name):
            text = str(meta[name]).encode("ascii", "backslashreplace").decode()
            header[key] = (text, comment if len(text) < 25 else "")
    if n_stars is not None:
        header["NSTARS"] = (n_stars, "stars this PSF was made from")


def hdu_bytes(*hdus: Any) -> bytes:
    """Return the content of a FITS file."""
    file = BytesIO()
    fits.HDUList(list(hdus)).writeto(file)
    return file.getvalue()
