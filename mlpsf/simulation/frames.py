"""Simulation of one exposure: all steps from a field of objects to pixels."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from mlpsf.frames.cutouts import nearest_pixels
from mlpsf.frames.frame import Frame
from mlpsf.simulation import detector, objects
from mlpsf.simulation.detector import Defect
from mlpsf.simulation.parameters import Seed, check_parameters, root_of, seed_words
from mlpsf.simulation.psf_making import make_psf
from mlpsf.simulation.results import SimulatedFrame, make_header, make_truth

__all__ = ["simulate_frame"]

_CUT_OFF = 0.1  # in units of the sky noise per pixel; light of objects below is cut off


def simulate_frame(
    *,
    shape: tuple[int, int] = (4176, 2048),
    psf: str = "moffat",
    fwhm: float = 4.0,
    beta: float = 3.0,
    e1: float = 0.0,
    e2: float = 0.0,
    trail: float = 0.0,
    trail_angle: float = 0.0,
    psf_variation: float = 0.0,
    optics: Mapping[str, float] | None = None,
    double: tuple[float, float, float] | None = None,
    pixel_scale: float = 0.168,
    centre: tuple[float, float] = (150.0, 2.2),
    n_stars: int = 1500,
    n_galaxies: int = 4000,
    n_pairs: int | None = None,
    flux_range: tuple[float, float] | None = None,
    star_slope: float = 0.7,
    galaxy_flux_range: tuple[float, float] | None = None,
    galaxy_slope: float = 1.0,
    galaxy_radius: float = 2.0,
    clustering: float = 0.0,
    cluster_radius: float = 200.0,
    stars: ArrayLike | None = None,
    sky: float = 200.0,
    sky_gradient: float = 0.05,
    sky_step: float = 0.0,
    vignetting: float = 0.0,
    subtract_sky: bool = False,
    gain: float = 3.0,
    read_noise: float = 4.5,
    saturation: float = 60000.0,
    bleeding: bool = True,
    brighter_fatter: float = 0.0,
    resampling: float = 0.0,
    drizzle: float = 0.0,
    drop: float = 0.8,
    plate: float = 0.0,
    cosmic_rays: int = 100,
    cosmic_ray_length: float = 8.0,
    bad_columns: int = 4,
    hot_pixels: int = 100,
    ghosts: int = 0,
    edge: int = 0,
    holes: int = 0,
    integer: bool = False,
    seed: Seed = None,
) -> SimulatedFrame:
    """Draw one exposure with known truth.

    The defaults are similar to one Hyper Suprime-Cam detector. Every part has its own random
    numbers: with the same seed, switching off cosmic rays changes nothing else.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    psf : {'moffat', 'kolmogorov', 'gaussian', 'optical'}
        Profile of the PSF. 'optical' is that of a telescope with obstruction and aberrations,
        convolved with the seeing and centred on its Gaussian-weighted centroid.
    fwhm : float
        FWHM of a star in pixels, including pixel response, trail and optics; geometric mean of
        the axes. Accurate to 0.1 percent. At least 1.2, since a pixel alone has 1.13.
    beta : float
        Exponent of the Moffat profile.
    e1, e2 : float
        Shear of the light before trail and pixel: (a - b) / (a + b) along x and the diagonal.
    trail : float
        Length in pixels of a trail, as from a drifting telescope.
    trail_angle : float
        Direction of the trail in degrees from +x towards +y.
    psf_variation : float
        Peak-to-peak change of the FWHM over the frame, in its logarithm: 1.1 is a factor of 3.
        e1 and e2 change by half as much, at most by 0.25.
    optics : mapping, optional
        For 'optical': ``diffraction`` (lambda / D as a fraction of the seeing), ``obscuration``,
        ``nstruts``, ``strut_thick``, ``strut_angle`` (degrees), and in waves ``defocus``,
        ``astig1``, ``astig2``, ``coma1``, ``coma2``, ``trefoil1``, ``trefoil2``, ``spher``;
        ``seeing``, FWHM of the seeing (0.8; 0 for a telescope in space, less than ``diffraction``
        for its jitter); ``segments``, rings of hexagonal mirrors instead of a round one (0).
    double : (float, float, float), optional
        Second image of every object, as of a telescope that moved: its distance in x and y in
        pixels, and its light relative to the first. The truth has the flux of both and the place
        of the first.
    pixel_scale : float
        Pixel scale in arcseconds, for the WCS.
    centre : (float, float)
        Right ascension and declination of the frame's centre, degrees.
    n_stars, n_galaxies : int
        Number of objects in the frame.
    n_pairs : int, optional
        Number of stars that get an additional close companion. Default: one in 40.
    flux_range : (float, float), optional
        Lowest and highest flux of the stars, ADU. Default: from five times the noise of a point
        source to five times the flux that saturates.
    star_slope : float
        Slope of the counts: the number of stars brighter than F goes as F**-star_slope.
    galaxy_flux_range : (float, float), optional
        Lowest and highest flux of the galaxies, ADU. Default: from five times the noise of a
        point source to 0.3 times the flux that saturates.
    galaxy_slope : float
        Slope of the galaxy counts.
    galaxy_radius : float
        Median half-light radius in pixels of the faintest galaxies, before the PSF.
    clustering : float
        Fraction of the stars that belong to one cluster.
    cluster_radius : float
        Half-number radius of the cluster in pixels.
    stars : array_like of shape (n, 3), optional
        Stars to draw, as x, y, flux, instead of random stars and pairs.
    sky : float
        Level of the sky, ADU.
    sky_gradient : float
        Change of the sky over the diagonal of the frame, as a fraction of the level.
    sky_step : float
        Standard deviation of the offsets of four amplifiers, ADU.
    vignetting : float
        Fraction of all light, sky and objects, that is lost in the corners. Fluxes in the truth
        are those drawn, after this loss.
    subtract_sky : bool
        Whether to subtract the median sky, also from the saturation level, as in a finished
        stack.
    gain : float
        Electrons per ADU.
    read_noise : float
        Read noise in electrons.
    saturation : float
        Saturation level in ADU, sky included; no pixel is above it.
    bleeding : bool
        Whether charge above the saturation level spills along the columns.
    brighter_fatter : float
        Boundary shift per electron, about 1e-7; 0 for none.
    resampling : float
        Shift in pixels, 0 to 0.5, of a bilinear resampling that correlates the noise.
    drizzle : float
        Side of the detector's pixels in pixels of the frame, for a frame drizzled from many
        exposures; 0 for a frame of the detector's own pixels. Widens the PSF by detector's pixels
        and drops, correlates the noise and spreads the defects.
    drop : float
        Side of drizzle's drops relative to the detector's pixels (``pixfrac``).
    plate : float
        Light in ADU above the sky at which a photographic plate has lost 63 percent of its
        response: ``plate * (1 - exp(-light / plate))``; 0 for a linear detector. Pixels that lost
        over 6 percent are marked as saturated.
    cosmic_rays, bad_columns, hot_pixels : int
        Number of each.
    cosmic_ray_length : float
        Mean length of the cosmic-ray tracks, pixels.
    ghosts : int
        Number of the brightest stars that have a ghost.
    edge : int
        Width in pixels of a border without data.
    holes : int
        Number of discs without data.
    integer : bool
        Whether pixel values are integers, as from an analogue-to-digital converter.
    seed : int, numpy.random.SeedSequence or numpy.random.Generator, optional
        The same seed gives bit-identical frames. The seed is stored in the header.

    Returns
    -------
    SimulatedFrame

    Raises
    ------
    InputError
        A parameter is invalid.
    MissingPackageError
        GalSim is not installed.

    Examples
    --------
    >>> simulated = simulate_frame(shape=(64, 64), stars=[(31.5, 30, 1e4)], n_galaxies=0, seed=3)
    >>> simulated.truth["x", "y", "flux", "kind"].pformat()[-1].split()
    ['31.5', '30.0', '10000.0', 'star']
    """
    given = dict(locals())
    check_parameters(given)
    root = root_of(seed)
    rng = dict(
        zip(
            ("psf", "stars", "galaxies", "sky", "noise", "rays", "columns", "hot", "holes"),
            (np.random.default_rng(child) for child in root.spawn(9)),
            strict=True,
        )
    )

    noise = math.sqrt(sky / gain + (read_noise / gain) ** 2 + 1e-6)
    point_noise = noise * math.sqrt(4 * math.pi) * fwhm / 2.3548
    peak = 0.7 / fwhm**2  # approximate, for the limits only
    saturating = saturation / peak
    star_fluxes = flux_range or (5 * point_noise, max(5 * saturating, 10 * point_noise))
    galaxy_fluxes = galaxy_flux_range or (5 * point_noise, max(0.3 * saturating, 10 * point_noise))
    if stars is None:
        field_stars = objects.place_stars(
            rng["stars"], shape, n_stars, star_fluxes, star_slope, clustering, cluster_radius
        )
    else:
        field_stars = objects.stars_from(stars)
    brightest = max(field_stars["flux"], default=1.0)
    level = _CUT_OFF * noise
    true_psf = make_psf(
        shape,
        kind=psf,
        fwhm=fwhm,
        beta=beta,
        e1=e1,
        e2=e2,
        trail=trail,
        trail_angle=trail_angle,
        variation=psf_variation,
        optics=optics,
        double=double,
        drizzle=drizzle,
        drop=drop,
        contrast=level / brightest,
        rng=rng["psf"],
    )
    if stars is None:
        n_pairs = n_stars // 40 if n_pairs is None else n_pairs
        field_stars = objects.add_pairs(rng["stars"], field_stars, n_pairs, true_psf)
    galaxies = objects.place_galaxies(
        rng["galaxies"], shape, n_galaxies, galaxy_fluxes, galaxy_slope, galaxy_radius
    )
    throughput = detector.vignetting_map(shape, vignetting) if vignetting else None
    for table in (field_stars, galaxies):
        if throughput is not None:
            table["flux"] *= _at(throughput, table)

    # Light, in ADU.
    defects = np.zeros(shape, np.uint8)
    background = detector.sky_level(shape, sky, sky_gradient, sky_step, rng["sky"])
    if throughput is not None:
        background *= throughput
    image = background.copy()
    objects.draw_stars(image, field_stars, true_psf, level)
    objects.draw_galaxies(image, galaxies, true_psf, level)
    if ghosts:
        order = np.argsort(field_stars["flux"])[::-1][:ghosts]
        bright = np.column_stack([field_stars[name][order] for name in ("x", "y", "flux")])
        radius = max(10 * fwhm, 0.06 * min(shape))
        detector.add_ghosts(image, defects, bright, radius, 0.01, 0.3 * noise)

    if plate:
        detector.expose_plate(image, background, defects, plate)

    # Charge, in electrons.
    full_well = saturation * gain
    image *= np.float32(gain)
    expected = image.copy() if drizzle else None
    if brighter_fatter:
        detector.brighter_fatter(image, brighter_fatter, full_well)
    detector.add_noise(image, read_noise, resampling, rng["noise"])
    detector.add_cosmic_rays(image, defects, cosmic_rays, cosmic_ray_length, rng["rays"])
    detector.add_hot_pixels(image, defects, hot_pixels, full_well, rng["hot"])
    detector.add_bad_columns(image, defects, bad_columns, rng["columns"])
    if bleeding:
        detector.bleed(image, defects, full_well)
    if expected is not None:
        detector.drizzle(image, expected, defects, drizzle, drop, full_well)

    # Numbers, in ADU.
    image /= np.float32(gain)
    if integer:
        np.rint(image, out=image)
    top = np.float32(saturation)
    defects[image >= top] |= np.uint8(Defect.SATURATED)
    np.minimum(image, top, out=image)
    if subtract_sky:
        median = np.median(background)
        background -= median
        image -= median
        top = np.float32(top - median)
    detector.cut_out(defects, edge, holes, rng["holes"])
    no_data = (defects & Defect.NO_DATA) > 0
    image[no_data] = 0
    defects[no_data] &= ~np.uint8(Defect.SATURATED)

    truth = make_truth(field_stars, galaxies, true_psf, defects)
    given |= {"n_pairs": n_pairs, "seed": seed_words(seed, root)}
    header, wcs = make_header(given, float(top), centre)
    frame = Frame(
        data=image,
        mask=no_data,
        gain=float(gain),
        saturation=float(top),
        read_noise=float(read_noise),
        variance=None,
        saturated_plane=None,
        wcs=wcs,
        header=header,
        name="simulated",
        sha256=hashlib.sha256(image.astype("<f4", copy=False).tobytes()).hexdigest(),
        origin=dict.fromkeys(("gain", "saturation", "read_noise"), "simulation"),
    )
    return SimulatedFrame(frame, truth, defects, background, true_psf)


def _at(image: NDArray[np.float32], table: Table) -> NDArray[np.float32]:
    """Return the pixel value at each object, or at the nearest pixel for those off the frame."""
    return np.asarray(image[nearest_pixels(table["x"], table["y"], image.shape)])
