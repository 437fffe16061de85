"""Creation of the PSF of a simulated frame: scaling to its FWHM at every node, and drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import spline_filter

from mlpsf.simulation.profiles import (
    base_profile,
    centre_of,
    diffracts,
    draw,
    half_maximum_shape,
    load_galsim,
    match_fwhm,
    tabulated,
)
from mlpsf.simulation.psfs import Node, TruePSF, blend

__all__ = ["MOST_SHEAR", "make_psf"]

MOST_SHEAR = 0.25
"""Largest peak-to-peak change of e1 and e2 over a frame."""

_NODES = 4  # nodes per side of the grid of a varying PSF
_FINER = 3  # places a node at which the shape is measured
_SAMPLES_PER_FWHM = 6.0  # of the core's grid; the error of the quintic spline is then below 1e-4
_CORE_RADIUS = 8.0  # in FWHM
_MAX_WING_RADIUS = 700  # pixels


def make_psf(
    frame_shape: tuple[int, int],
    *,
    kind: str,
    fwhm: float,
    beta: float,
    e1: float,
    e2: float,
    trail: float,
    trail_angle: float,
    variation: float,
    optics: Mapping[str, float] | None,
    double: tuple[float, float, float] | None = None,
    drizzle: float = 0.0,
    drop: float = 1.0,
    contrast: float,
    rng: np.random.Generator,
) -> TruePSF:
    """Make the PSF of a frame; see :func:`~mlpsf.simulation.simulate_frame` for the parameters.

    Parameters
    ----------
    frame_shape : (int, int)
        Rows and columns.
    kind, fwhm, beta, e1, e2, trail, trail_angle, variation, optics, double, drizzle, drop
        As ``psf``, ``fwhm``, ..., ``psf_variation`` and the rest there.
    contrast : float
        Light per pixel, as a fraction of a star's, down to which the wings are drawn.
    rng : numpy.random.Generator
        Generator for the variation of the PSF.

    Returns
    -------
    TruePSF
    """
    galsim = load_galsim()
    base = base_profile(galsim, kind, beta, optics)
    near = tabulated(galsim, base) if kind == "optical" else base
    smear = [galsim.Pixel(1.0)]
    if trail > 0:
        # A trail has no width but a box needs one; 0.01 pixels has no visible effect.
        smear.append(galsim.Box(trail, 0.01).rotate(trail_angle * galsim.degrees))
    if drizzle:
        smear += [galsim.Pixel(drizzle), galsim.Pixel(drizzle * drop)]

    def profile(light: Any, scale: float, g1: float, g2: float) -> Any:
        return galsim.Convolve([light.dilate(scale).shear(g1=g1, g2=g2), *smear])

    shapes = _variation(fwhm, e1, e2, variation, rng)
    oversampling = math.ceil(_SAMPLES_PER_FWHM / min(size for size, *_ in shapes))
    core_radius = max(12, math.ceil(_CORE_RADIUS * fwhm))
    if double is not None:
        core_radius += math.ceil(math.hypot(*double[:2]))
    scale, last = fwhm, fwhm
    lights: list[Any] = []
    single: list[tuple[Any, tuple[float, float, float]]] = []
    wide: list[Any] = []
    for size, g1, g2 in shapes:
        start = scale * size / last
        scale, shape = match_fwhm(partial(profile, near, g1=g1, g2=g2), size, start)
        last = size
        light, far = profile(near, scale, g1, g2), profile(base, scale, g1, g2)
        if kind == "optical":
            shift = centre_of(light, size)
            light, far = light.shift(*shift), far.shift(*shift)
        single.append((light, shape))
        if double is not None:
            dx, dy, share = double
            light, far = ((f + share * f.shift(dx, dy)) / (1 + share) for f in (light, far))
        lights.append(light)
        wide.append(far)

    half = math.ceil((core_radius + 1) * oversampling) + 4
    offset = np.hypot(*np.ogrid[-half : half + 1, -half : half + 1]) / oversampling
    taper = _taper(offset, core_radius).astype(np.float32)
    cores = [
        draw(light, 2 * half + 1, 1 / oversampling) * taper * oversampling**2 for light in lights
    ]
    sums = [float(core.sum(dtype=float)) / oversampling**2 for core in cores]
    wing, share = _draw_wing(
        galsim, kind, wide[len(wide) // 2], beta, optics, fwhm, contrast, core_radius
    )
    # Wings are the same over the whole frame; cores are scaled to a total flux of one.
    middle = 1 - float(np.mean(sums)) if share else 0.0
    cores = [
        core * np.float32((1 - middle) / total) for core, total in zip(cores, sums, strict=True)
    ]
    nodes = tuple(Node(core, spline_filter(core, order=5, output=np.float32)) for core in cores)
    envelope = _envelope(cores[len(cores) // 2], oversampling, core_radius, wing)
    if wing.size:
        wing = spline_filter(wing, order=5, output=np.float32)
    return TruePSF(frame_shape, oversampling, core_radius, nodes, _shapes(single), wing, envelope)


def _shapes(images: list[tuple[Any, tuple[float, float, float]]]) -> NDArray[np.float64]:
    """Return FWHM, e1 and e2 on a grid finer than that of the nodes.

    Between nodes the PSF is their mean, and its half-maximum is not the mean of theirs: it lies
    nearer that of the sharpest.
    """
    shapes = np.array([shape for _, shape in images])
    if len(images) == 1:
        return shapes
    low, high = shapes[:, 0].min(), shapes[:, 0].max()
    step = low / 12
    side = 2 * math.ceil(1.5 * high / step) + 1
    drawn = np.array([draw(light, side, step) for light, _ in images])
    fine = _FINER * (_NODES - 1) + 1
    v, u = (each.ravel() for each in np.mgrid[:fine, :fine])
    # On a frame of as many pixels as there are places, whose edges are half a pixel farther out.
    nodes = blend((fine - 1, fine - 1), len(images), u - 0.5, v - 0.5)
    measured = np.empty((len(u), 3))
    for row, index, weight in zip(measured, *nodes, strict=True):
        row[:] = half_maximum_shape(np.tensordot(weight, drawn[index], axes=1))
    measured[:, 0] *= step
    return measured


def _variation(
    fwhm: float, e1: float, e2: float, variation: float, rng: np.random.Generator
) -> list[tuple[float, float, float]]:
    """Return FWHM and shear at every node: smooth quadratic functions over the frame."""
    if variation == 0:
        return [(fwhm, e1, e2)]
    v, u = np.mgrid[-1 : 1 : _NODES * 1j, -1 : 1 : _NODES * 1j]
    terms = np.stack([u, v, u * v, u**2, v**2])
    fields = np.tensordot(rng.normal(size=(3, 5)), terms, axes=1)
    fields -= fields.mean(axis=(1, 2), keepdims=True)
    fields /= np.ptp(fields, axis=(1, 2), keepdims=True)
    shear = min(variation / 2, MOST_SHEAR)
    size = fwhm * np.exp(variation * fields[0])
    g1, g2 = e1 + shear * fields[1], e2 + shear * fields[2]
    return [
        (float(s), float(a), float(b)) for s, a, b in zip(size.flat, g1.flat, g2.flat, strict=True)
    ]


def _taper(offset: NDArray[np.float64], core_radius: float) -> NDArray[np.float64]:
    """Return a taper that falls smoothly from 1 to 0 over the outer quarter of the core."""
    t = np.clip((offset / core_radius - 0.75) / 0.25, 0, 1)
    return 1 - t * t * (3 - 2 * t)


def _draw_wing(
    galsim: Any,
    kind: str,
    light: Any,
    beta: float,
    optics: Mapping[str, float] | None,
    fwhm: float,
    contrast: float,
    core_radius: int,
) -> tuple[NDArray[np.float32], bool]:
    """Draw the wings outside the core on whole pixels; empty if no star is bright enough."""
    if kind == "gaussian":
        return np.empty((0, 0), np.float32), False
    r = np.geomspace(core_radius, _MAX_WING_RADIUS, 60)
    # Trail and shear make the wings longer in one direction; hence the margin below.
    law = base_profile(galsim, kind if kind == "moffat" else "kolmogorov", beta, None)
    if kind == "optical" and diffracts(optics):
        law = base_profile(galsim, "moffat", 1.6, None)  # wings of an aperture fall as r**-3
    law = law.dilate(fwhm)
    level = np.array([law.xValue(float(q), 0.0) for q in r]) * (3 if kind == "optical" else 1)
    bright = r[level > contrast]
    if not bright.size:
        return np.empty((0, 0), np.float32), True
    half = math.ceil(min(bright[-1] * 1.2, _MAX_WING_RADIUS)) + 5
    offset = np.hypot(*np.ogrid[-half : half + 1, -half : half + 1])
    wing = draw(light, 2 * half + 1, 1.0) * (1 - _taper(offset, core_radius))
    return wing.astype(np.float32), True


def _envelope(
    core: NDArray[np.float32], oversampling: int, core_radius: int, wing: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the highest value of the PSF at or beyond each radius in pixels."""
    length = max(core_radius + 2, len(wing) // 2 + 1)
    highest = np.zeros(length)
    for image, spacing in ((core, 1 / oversampling), (wing, 1.0)):
        if image.size:
            middle = len(image) // 2
            r = np.hypot(*np.ogrid[-middle : len(image) - middle, -middle : len(image) - middle])
            index = np.minimum((r * spacing).astype(int), length - 1)
            np.maximum.at(highest, index, image)
    return np.maximum.accumulate(highest[::-1])[::-1]
