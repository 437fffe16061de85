"""Detect the sources of a frame and measure positions, fluxes, sizes and the stars' FWHM."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import sep
from astropy.table import Table
from numpy.typing import NDArray

from mlpsf.detection.defects import struck_pixels
from mlpsf.detection.extraction import extract
from mlpsf.detection.linearity import linear_limit
from mlpsf.detection.local_size import zones
from mlpsf.detection.stellar import STELLAR, StellarProfile, any_within, stellar_profile
from mlpsf.detection.surroundings import on_uneven_sky
from mlpsf.errors import CatalogueError, InputError, NoSourcesError
from mlpsf.flags import OVEREXPOSED, Flag
from mlpsf.frames.cutouts import extract_cutouts
from mlpsf.frames.frame import Frame
from mlpsf.frames.near import pairs_within
from mlpsf.stacks.moments import Moments, gaussian_moments

__all__ = ["find_sources", "parts_of"]

DETECTION_SIGMA = 5.0
"""Detection threshold in units of the local noise, as in the ML-PSF study."""

MINIMUM_AREA = 3
"""Minimum number of connected pixels of a source, as in the ML-PSF study."""

_SEP_OBJECTS = 1_000_000  # enough for globular clusters; sep's default is a tenth of it
_MET = 1.0  # pixels between two windows that found one and the same centre
_EDGE_FWHM = 1.5  # a source closer to the edge than this is truncated
_NARROWEST = 0.6  # of the stars' FWHM
_CORE_FWHM = 1.5  # no saturated or masked pixel may be within this radius
_ROUND, _PEAK_SNR = 0.6, 10.0  # of sources that show whether stars grow with their brightness
_STRUCK_SNR = 30.0  # fainter sources are not PSF stars, and weak defects do not show in them
_STRUCK_PIXELS = 1e6  # searched around the brightest sources; a globular cluster has enough


def find_sources(
    frame: Frame,
    catalogue: Table | None = None,
    *,
    sigma: float = DETECTION_SIGMA,
    minimum_area: int = MINIMUM_AREA,
    defects: bool = True,
    linear_to: float | None = None,
) -> Table:
    """Detect and measure the sources of a frame.

    Parameters
    ----------
    frame : Frame
    catalogue : Table, optional
        Sources to measure instead of detecting, with columns x and y (0-based pixels). See
        `mlpsf.frames.io.catalogue.read_catalogue`.
    sigma : float
        Detection threshold in units of the local noise.
    minimum_area : int
        Minimum number of connected pixels above the threshold.
    defects : bool
        Whether to look for struck pixels and uneven skies.
    linear_to : float, optional
        Peak above the sky from which stars are no images of the PSF, as they are wider the brighter
        they are; infinite for none. Measured unless given.

    Returns
    -------
    Table
        One row per source, in the order of detection or of the catalogue. Columns ``id``, ``x``,
        ``y`` (windowed positions, 0-based pixels), ``ra``, ``dec`` (degrees; with a WCS),
        ``flux`` (Kron aperture), ``snr``, ``peak`` (above the sky), ``fwhm`` (pixels),
        ``ellipticity`` (1 - b/a), ``local_fwhm`` (that of the stars at this place, pixels) and
        ``flags`` (`mlpsf.Flag`). NaN marks values that could not be measured. ``meta`` has the
        frame's ``fwhm``, ``ellipticity``, gain and saturation, and where they are from; and
        ``linear_to``, if the stars grow with their brightness.

    Raises
    ------
    NoSourcesError
        If nothing was detected, or nothing from which the frame's FWHM can be measured.

    Examples
    --------
    >>> from mlpsf import simulate_frame
    >>> sim = simulate_frame(shape=(300, 300), n_stars=30, n_galaxies=10, fwhm=4.0, seed=1)
    >>> sources = find_sources(sim.frame)
    >>> round(sources.meta["fwhm"])
    4
    """
    if not sigma > 0:
        raise InputError(f"The detection threshold 'sigma' must be positive. Got {sigma}.")
    light = _Light.of(frame)
    detected = catalogue is None
    if catalogue is None:
        raw, segments = _detect(frame, light, sigma, minimum_area)
    else:
        raw, segments = _as_detections(catalogue), None
    moments = _moments(frame, raw)
    x, y = _windowed_positions(raw, moments, frame.shape, free=detected)
    whole = raw["flag"] & (sep.OBJ_MERGED | sep.OBJ_TRUNC) == 0
    peak = raw["peak"] * light.unit if detected else _peaks(frame, x, y)
    profile = stellar_profile(frame, x, y, moments, whole)
    if linear_to is None:
        linear_to = _linear_to(frame, x, y, peak, moments, whole, profile)
    if np.isfinite(linear_to):
        profile = stellar_profile(frame, x, y, moments, whole & ~(peak > linear_to))
    table = Table(
        {
            "id": np.arange(1, len(x) + 1)
            if catalogue is None
            else catalogue["id"].astype(np.int64),
            "x": x,
            "y": y,
        }
    )
    if frame.wcs is not None:
        sky = frame.wcs.pixel_to_world(x, y).icrs
        table["ra"], table["dec"] = sky.ra.to("deg"), sky.dec.to("deg")
    flux, error = _kron_flux(frame, light, raw, x, y, profile.fwhm)
    table["flux"] = flux
    table["snr"] = flux / error
    table["peak"] = peak
    table["fwhm"] = moments.fwhm * profile.moment_ratio
    table["ellipticity"] = moments.ellipticity
    local = profile.sizes(*frame.place(x, y)) * profile.moment_ratio
    table["local_fwhm"] = local
    flags = _flags(frame, x, y, raw, segments, light.mask, profile.fwhm)
    flags[peak > linear_to] |= Flag.NOT_LINEAR
    # Light from the telescope cannot be that much narrower than its stars.
    usual = local if profile.sizes.varies else profile.fwhm
    flags[~(table["fwhm"] >= _NARROWEST * usual)] |= Flag.TOO_NARROW
    table["flags"] = flags
    sizes = profile.sizes
    table.meta.update(fwhm=profile.fwhm, varies=sizes.varies, jumps=sizes.jumps)
    for rows, fwhm in parts_of(table) if defects else ():
        bright = rows[_worth_a_look(table["snr"][rows], flags[rows], fwhm)]
        struck = struck_pixels(frame, x[bright], y[bright], fwhm).struck
        flags[bright[struck]] |= Flag.STRUCK
        stellar = np.abs(np.log(table["fwhm"][bright] / local[bright])) < STELLAR
        uneven = on_uneven_sky(frame, x[bright], y[bright], table["peak"][bright], fwhm, stellar)
        flags[bright[uneven]] |= Flag.UNEVEN_SKY
    table["flags"] = flags
    table.meta.update(
        {
            "frame": frame.name,
            "frame_sha256": frame.sha256,
            "fwhm_scatter": profile.sizes.scatter,
            "ellipticity": profile.ellipticity,
            "fwhm_n_stars": profile.n,
            **({"linear_to": linear_to} if np.isfinite(linear_to) else {}),
            "gain": float(frame.gain),
            "unit": frame.unit,
            "guessed": ", ".join(sorted(frame.guessed)),
            "saturation": float(frame.saturation),
            "read_noise": float(frame.read_noise),
            **{f"{key}_from": text for key, text in frame.origin.items()},
        }
    )
    for name in ("x", "y", "fwhm", "local_fwhm"):
        table[name].unit = "pix"
    for name in ("flux", "peak"):
        table[name].unit = _table_unit(frame.unit)
    return table


def parts_of(sources: Table) -> list[tuple[NDArray[np.intp], float]]:
    """Divide a frame into parts in which its stars are of about one size.

    Parameters
    ----------
    sources : Table
        Table from `find_sources`.

    Returns
    -------
    list of (ndarray of int, float)
        Rows of each part, and the FWHM of the stars there. There is one part, with the FWHM of the
        frame, unless the PSF varies strongly.
    """
    if not len(sources) or not sources.meta.get("varies", False):
        return [(np.arange(len(sources)), float(sources.meta["fwhm"]))]
    local = np.asarray(sources["local_fwhm"], dtype=np.float64)
    star = np.abs(np.log(np.asarray(sources["fwhm"]) / local)) < STELLAR
    star &= np.asarray(sources["snr"]) > _STRUCK_SNR
    return zones(local, star)


@dataclass(frozen=True, eq=False)
class _Light:
    """Pixels above the sky and their noise, in units of the frame's noise.

    sep's deblending and cleaning depend on amplitudes, and a frame in Jansky must give the sources
    of the same frame in counts.
    """

    pixels: NDArray[np.float32]
    rms: NDArray[np.float32]
    unit: float
    # Saturated cores are not masked: otherwise a bright star would become a ring of fragments.
    mask: NDArray[np.bool_] | None  # None where all are good

    @classmethod
    def of(cls, frame: Frame) -> _Light:
        sky = frame.background
        unit = np.float32(sky.noise)
        pixels = frame.data - sky.level
        pixels /= unit
        bad = frame.mask & ~frame.saturated if frame.mask.any() else frame.mask
        return cls(pixels, sky.rms / unit, sky.noise, bad if bad.any() else None)


def _table_unit(text: str) -> Any:
    """Return the unit of a column of light; counts if the frame's is none that can be written."""
    from astropy.units import Unit

    with suppress(ValueError, TypeError):
        return Unit(text or "adu")
    return Unit("adu")


def _detect(
    frame: Frame,
    light: _Light,
    sigma: float,
    minimum_area: int,
) -> tuple[NDArray[Any], NDArray[np.int32]]:
    pixels = light.pixels
    raw, segments = extract(
        pixels,
        sigma,
        err=light.rms,
        mask=light.mask,
        minarea=minimum_area,
        segmentation_map=True,
    )
    if len(raw) == 0:
        raise NoSourcesError(
            f"No source of {minimum_area} pixels over {sigma:g} sigma on {frame.name}: the noise "
            f"is {light.unit:.4g} {frame.unit_name} and the highest pixel is "
            f"{pixels[~frame.mask].max() * light.unit:.4g} above the sky. Is this "
            "the right image of the file (hdu, --hdu)? For fainter sources give a catalogue "
            "(--catalogue); find_sources makes one with a lower sigma."
        )
    # Where there is negative light, its centre may be anywhere.
    off = np.zeros(len(raw), dtype=bool)
    for axis, n in zip("xy", pixels.shape[::-1], strict=True):
        off |= ~((raw[axis] >= -0.5) & (raw[axis] <= n - 0.5))
    raw["x"][off], raw["y"][off] = raw["xpeak"][off], raw["ypeak"][off]
    if len(raw) > _SEP_OBJECTS:
        raise NoSourcesError(
            f"{len(raw)} detections on {frame.name}: noise, not stars. Is this the right image of "
            "the file (hdu, --hdu)? A catalogue (--catalogue) of its stars does without detection."
        )
    return raw, segments


def _as_detections(catalogue: Table) -> NDArray[Any]:
    """Return catalogue positions with the columns that the measurements need."""
    raw = np.zeros(
        len(catalogue),
        dtype=[(k, float) for k in ("x", "y", "a", "b", "theta", "peak", "npix")] + [("flag", int)],
    )
    if not {"x", "y"} <= set(catalogue.colnames) or len(catalogue) == 0:
        raise CatalogueError(
            "A catalogue needs rows and the columns x and y, 0-based pixels. Got "
            f"{len(catalogue)} rows of: {', '.join(catalogue.colnames)}. "
            "mlpsf.frames.io.catalogue.read_catalogue reads other names and files."
        )
    raw["x"], raw["y"] = catalogue["x"], catalogue["y"]
    raw["a"] = raw["b"] = 2.0
    raw["npix"] = 16
    return raw


def _windowed_positions(
    raw: NDArray[Any], moments: Moments, shape: tuple[int, int], *, free: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Gaussian-windowed centroids; the isophotal position where they diverge."""
    limit = np.maximum(1.0, np.sqrt(raw["npix"] / np.pi)) if free else np.full(len(raw), 2.0)
    with np.errstate(invalid="ignore"):
        good = moments.ok & (np.hypot(moments.dx, moments.dy) <= limit)
    x, y = raw["x"].astype(np.float64), raw["y"].astype(np.float64)
    at = np.rint(x) + moments.dx, np.rint(y) + moments.dy
    with np.errstate(invalid="ignore"):
        for place, n in zip(at, shape[::-1], strict=True):
            good &= (place >= -0.5) & (place <= n - 0.5)
    if free:
        # Two stars nearer than a window are one in it: their windows meet between them.
        windowed = np.where(good, at[0], x), np.where(good, at[1], y)
        pairs = pairs_within(np.column_stack(windowed), _MET)
        apart = np.hypot(*(axis[pairs[:, 0]] - axis[pairs[:, 1]] for axis in (x, y)))
        good[pairs[apart > 2 * _MET]] = False
    return np.where(good, at[0], x), np.where(good, at[1], y)


def _moments(frame: Frame, raw: NDArray[Any]) -> Moments:
    """Return moments of all sources, with separate windows for small, medium and large ones."""
    x, y = raw["x"], raw["y"]
    guess = 2.355 * np.sqrt(np.maximum(raw["a"] * raw["b"], 0.5))
    parts: list[tuple[NDArray[np.intp], Moments]] = []
    done = np.zeros(len(raw), dtype=bool)
    for limit, size in ((4.5, 25), (9.0, 49), (np.inf, 97)):
        rows = np.flatnonzero(~done & (guess <= limit))
        done[rows] = True
        for start in range(0, len(rows), 2048):
            block = rows[start : start + 2048]
            cut = extract_cutouts(
                frame, x[block], y[block], size, background=frame.background.level
            )
            m = gaussian_moments(cut.data, np.clip(guess[block], 2.0, size / 4))
            parts.append((block, m))
    out = np.full((6, len(raw)), np.nan)
    ok = np.zeros(len(raw), dtype=bool)
    for block, m in parts:
        out[:, block] = np.array(m[:6])
        ok[block] = m.ok
    return Moments._make([*out, ok])


def _kron_flux(
    frame: Frame,
    light: _Light,
    raw: NDArray[Any],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    fwhm: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return SExtractor's FLUX_AUTO and FLUXERR_AUTO: Kron factor 2.5, minimum radius 3.5.

    The error counts the correlation of a resampled frame's noise, and the photon noise of the
    source where the gain is known.
    """
    pixels = light.pixels
    # sep's moments of some flat-topped detections are NaN.
    b = np.fmax(raw["b"], 0.3)
    a = np.fmax(np.fmax(raw["a"], 0.3), b)
    theta = np.clip(np.nan_to_num(raw["theta"]), -np.pi / 2, np.pi / 2)
    radius, _ = sep.kron_radius(pixels, x, y, a, b, theta, 6.0, mask=light.mask)
    radius = np.where(np.isfinite(radius), radius, 0.0)
    small = (radius * 2.5 * np.sqrt(a * b) < 3.5) | (radius == 0)
    # A variance plane already includes the photon noise of the sources.
    noise = light.rms
    if frame.background.correlation != 1:
        noise = noise * np.float32(frame.background.correlation)
    options: dict[str, Any] = {"err": noise, "mask": light.mask, "subpix": 1}
    if frame.variance is None and np.isfinite(frame.known_gain):
        options["gain"] = frame.known_gain * light.unit
    flux, error, _ = sep.sum_ellipse(
        pixels,
        x,
        y,
        a,
        b,
        theta,
        np.where(small, 0.1, 2.5 * radius),
        **options,
    )
    round_radius = max(3.5, 1.5 * fwhm)
    flux[small], error[small], _ = sep.sum_circle(
        pixels, x[small], y[small], round_radius, **options
    )
    return flux * light.unit, np.where(error > 0, error, np.inf) * light.unit


def _peaks(frame: Frame, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the highest of the central 3 x 3 pixels; NaN where all are masked."""
    cut = extract_cutouts(frame, x, y, 3, background=frame.background.level).data
    highest = np.nan_to_num(cut, nan=-np.inf).max(axis=(1, 2)).astype(np.float64)
    return np.where(np.isfinite(highest), highest, np.nan)


def _linear_to(
    frame: Frame,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    peak: NDArray[np.float64],
    moments: Moments,
    whole: NDArray[np.bool_],
    profile: StellarProfile,
) -> float:
    """Return the peak from which the stars grow, infinite where they do not."""
    with np.errstate(invalid="ignore", divide="ignore"):
        growth = np.log(moments.fwhm / profile.sizes(*frame.place(x, y)))
    asked = moments.ok & whole & (moments.ellipticity < _ROUND)
    asked &= peak > _PEAK_SNR * frame.background.noise
    asked &= ~any_within(frame.saturated | frame.mask, x, y, max(_CORE_FWHM * profile.fwhm, 1.5))
    return linear_limit(peak[asked], growth[asked])


def _worth_a_look(
    snr: NDArray[np.float64], flags: NDArray[np.int32], fwhm: float
) -> NDArray[np.intp]:
    """Return the rows of possible PSF stars, limited in number to save time."""
    usable = (flags & (OVEREXPOSED | Flag.TOO_NARROW) == 0) & (snr >= _STRUCK_SNR)
    rows = np.flatnonzero(usable)
    most = int(_STRUCK_PIXELS / (3 * fwhm) ** 2)
    return np.sort(rows[np.argsort(-snr[rows], kind="stable")][:most])


def _flags(
    frame: Frame,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    raw: NDArray[Any],
    segments: NDArray[np.int32] | None,
    bad: NDArray[np.bool_] | None,
    fwhm: float,
) -> NDArray[np.int32]:
    saturated = frame.saturated
    flags = np.zeros(len(x), dtype=np.int32)
    core = max(_CORE_FWHM * fwhm, 1.5)
    hit = any_within(saturated, x, y, core)
    if segments is not None and saturated.any():
        # The centre of a large saturated star may be further than that from its clipped pixels.
        hit |= np.bincount(segments[saturated], minlength=len(x) + 1)[1:] > 0
    flags[hit] |= Flag.SATURATED
    if bad is not None:
        flags[any_within(bad, x, y, core)] |= Flag.MASKED
    flags[(raw["flag"] & sep.OBJ_MERGED) != 0] |= Flag.BLENDED
    ny, nx = frame.data.shape
    edge = _EDGE_FWHM * fwhm
    flags[(x < edge) | (y < edge) | (x > nx - 1 - edge) | (y > ny - 1 - edge)] |= Flag.NEAR_EDGE
    return flags
