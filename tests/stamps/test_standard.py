"""Stamps with the frame's own PSF taken out."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpsf import extract_cutouts, extract_stamps, frame_star, select_stars, simulate_frame
from mlpsf.detection.sources import find_sources
from mlpsf.errors import InputError
from mlpsf.flags import Flag
from mlpsf.selection.judging import _wanted_cutouts
from mlpsf.selectors import PSFStarSelector
from mlpsf.stamps.common_star import common_star
from mlpsf.stamps.standard import standard_star, standardise

SIZE = 41


def stars(
    n: int, e1: float = 0.0, e2: float = 0.0, width: float = 4.0, seed: int = 1
) -> np.ndarray:
    """Elliptical Moffat stars, off the centre by up to a quarter of a pixel, of many fluxes."""
    rng = np.random.default_rng(seed)
    u = np.arange(SIZE) - SIZE // 2
    dx, dy = rng.uniform(-0.25, 0.25, (2, n, 1, 1))
    x, y = u - dx, u[:, None] - dy
    r2 = ((1 - e1) * x**2 + (1 + e1) * y**2 - 2 * e2 * x * y) / np.sqrt(1 - e1**2 - e2**2)
    peak = rng.uniform(300, 3000, (n, 1, 1))
    return peak * (1 + r2 / (width / 2) ** 2 * (2 ** (1 / 2.5) - 1)) ** -2.5


def departure(stamps: np.ndarray) -> np.ndarray:
    """Largest difference of each stamp from a standard star, over its peak."""
    peak = stamps[:, SIZE // 2, SIZE // 2, None, None]
    return np.nanmax(np.abs(stamps / peak - standard_star(SIZE)), axis=(1, 2))


def test_standard_star_has_the_reference_width() -> None:
    star = standard_star(SIZE)
    assert star.shape == (SIZE, SIZE)
    assert star.max() == star[20, 20] == 1
    assert star[20, 22] == pytest.approx(0.5)
    np.testing.assert_array_equal(star, star[::-1, ::-1])


@settings(max_examples=10, deadline=None)
@given(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3), st.floats(3.7, 4.4))
def test_stars_of_any_psf_become_standard_stars(e1: float, e2: float, width: float) -> None:
    frame = stars(20, e1, e2, width)
    out = standardise(frame, common_star(frame, snr=frame.max(axis=(1, 2))))
    assert departure(out).max() < 0.02


@settings(max_examples=10, deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(0.1, 100))
def test_sky_and_gain_change_nothing(sky: float, gain: float) -> None:
    frame = stars(12, 0.2)
    snr = frame.max(axis=(1, 2))
    once = standardise(frame, common_star(frame, snr))
    again = standardise(gain * frame + sky, common_star(gain * frame + sky, snr))
    np.testing.assert_allclose(again / gain, once, atol=2e-3 * once.max())


def test_what_is_no_psf_stays() -> None:
    frame = stars(20, 0.25, -0.1)
    snr = frame.max(axis=(1, 2))
    dirty = frame.copy()
    dirty[3, 20, 28] += 0.05 * snr[3]
    before = standardise(frame, common_star(frame, snr))
    after = standardise(dirty, common_star(dirty, snr))
    assert (after - before)[3, 20, 28] == pytest.approx(0.05 * snr[3], rel=0.1)
    others = np.delete(np.arange(20), 3)
    assert np.abs((after - before)[others]).max() < 0.01 * snr.max()


def test_galaxies_in_the_majority_are_not_the_common_star() -> None:
    rng = np.random.default_rng(3)
    galaxies = [
        stars(1, *rng.uniform(-0.3, 0.3, 2), width=rng.uniform(5, 12), seed=k) for k in range(40)
    ]
    frame = np.concatenate([stars(15, 0.1), *galaxies])
    out = standardise(frame, common_star(frame, snr=np.full(len(frame), 100.0)))
    assert departure(out)[:15].max() < 0.03
    assert np.median(departure(out)[15:]) > 0.1


def test_flagged_sources_take_no_part() -> None:
    frame = np.concatenate([stars(8), stars(8, 0.3)])
    flags = np.repeat([0, int(Flag.SATURATED)], 8)
    star = common_star(frame, np.full(16, 100.0), flags)
    assert departure(standardise(frame, star))[:8].max() < 0.02


def test_too_few_stars_change_nothing_but_the_sky() -> None:
    frame = stars(2)
    star = common_star(frame, snr=[100, 90])
    assert star is None
    out = standardise(frame + 7.0, star)
    np.testing.assert_allclose(out, standardise(frame, None), atol=1e-3)
    assert standardise(np.zeros((0, SIZE, SIZE)), star).shape == (0, SIZE, SIZE)


def test_masked_pixels_stay_masked() -> None:
    frame = stars(12)
    frame[4, 10:13, 5] = np.nan
    out = standardise(frame, common_star(frame, snr=np.arange(12) + 50.0))
    np.testing.assert_array_equal(np.isnan(out), np.isnan(frame))


def test_not_stamps() -> None:
    with pytest.raises(InputError, match="shape"):
        standardise(np.zeros((3, 41, 40)), None)


@pytest.mark.parametrize(
    "options", [{"e1": 0.3}, {"psf": "optical", "optics": {"coma1": 0.2, "astig1": 0.1}}]
)
def test_on_frames(options: dict) -> None:
    sim = simulate_frame(
        shape=(700, 700),
        n_stars=300,
        n_galaxies=60,
        star_slope=0.3,
        cosmic_rays=0,
        seed=4,
        **options,
    )
    sources = find_sources(sim.frame)
    bright = sources[(sources["snr"] > 300) & (sources["flags"] == 0)]
    options = {"fwhm": sources.meta["fwhm"]}
    stamps, raw = (
        extract_stamps(sim.frame, bright["x"], bright["y"], star=star, **options)
        for star in (frame_star(sim.frame, sources), None)
    )
    assert len(bright) > 5
    # The best quarter: others have neighbours, or are galaxies.
    best, before = (np.nanquantile(departure(c.data), 0.25) for c in (stamps, raw))
    assert best < 0.5 * before


def test_a_psf_that_varies_is_followed() -> None:
    n = 80
    rng = np.random.default_rng(5)
    x, y = rng.uniform(0, 1000, (2, n))
    far = (x - 500) / 500
    frame = np.concatenate(
        [stars(1, 0.15 * f, 0.1 * f, 4.0 * (1 + 0.1 * f), seed=k) for k, f in enumerate(far)]
    )
    snr = frame.max(axis=(1, 2))
    still = standardise(frame, common_star(frame, snr))
    followed = standardise(frame, common_star(frame, snr, None, x, y), x, y)
    edges = np.abs(far) > 0.5
    assert departure(followed)[edges].max() < 0.04
    assert departure(followed)[edges].max() < 0.5 * np.median(departure(still)[edges])


def of_a_crowd(seed: int, bend: float) -> tuple[np.ndarray, ...]:
    """8 bright stars and 30 in the light of others: stamps, S/N, places and harm."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 1000, (2, 38))
    widths = 4.0 * (1 + bend * (x - 500) / 500)
    frame = np.concatenate([stars(1, width=w, seed=seed + k) for k, w in enumerate(widths)])
    frame *= np.where(np.arange(38) < 8, 3000, 600)[:, None, None] / frame.max((1, 2), keepdims=1)
    harm = np.where(np.arange(38) < 8, 0.0, 5.0)
    for k in np.flatnonzero(harm):  # what a poor common star leaves of a neighbour
        frame[k] += 60 * np.roll(standard_star(SIZE), rng.integers(-6, 7, 2), (0, 1))
    frame += rng.normal(size=frame.shape)
    return frame, frame.max(axis=(1, 2)) * 1.5, x, y, harm


@pytest.mark.parametrize("seed", range(3))
def test_stars_in_the_light_of_others_count_little(seed: int) -> None:
    frame, snr, x, y, harm = of_a_crowd(seed, 0.0)
    every, some = (common_star(frame, snr, None, x, y, harm=h) for h in (None, harm))
    assert every is not None
    assert some is not None
    true = standard_star(SIZE) / standard_star(SIZE).sum()
    drawn = [s.stamps(*np.zeros((2, 1)), [500.0], [500.0], SIZE)[0] for s in (every, some)]
    off = [np.sqrt(np.mean((d - true) ** 2)) for d in drawn]
    assert off[1] < 0.8 * off[0]


@pytest.mark.parametrize("seed", range(3))
def test_a_crowd_may_vary(seed: int) -> None:
    frame, snr, x, y, harm = of_a_crowd(seed, 0.05)
    star = common_star(frame, snr, None, x, y, harm=harm)
    assert star is not None
    ends = star.change([0.0, 1000.0], [500.0, 500.0])[:, 0]
    assert 0.05 < np.diff(ends)[0] < 0.13


@settings(max_examples=10, deadline=None)
@given(st.floats(0.5, 2.0))
def test_a_scaled_star_is_wider_and_as_bright(factor: float) -> None:
    frame = stars(20, 0.1, 0.05)
    star = common_star(frame, snr=frame.max(axis=(1, 2)))
    assert star is not None
    scaled = star.scaled(factor)
    assert scaled.fwhm == pytest.approx(4.0 * factor)
    assert scaled.psf.grid.max() == pytest.approx(star.psf.grid.max() / factor**2, rel=0.02)
    of = [each.psf.grid > 0.5 * each.psf.grid.max() for each in (star, scaled)]
    assert of[1].sum() == pytest.approx(of[0].sum() * factor**2, rel=0.02)
    drawn = scaled.psf.stamps(np.array([0.3]), np.array([-0.2]), 2 * scaled.psf.half + 1)
    assert drawn.sum() == pytest.approx(1.0, abs=0.01)
    assert star.of_size(0) is star
    assert star.of_size(3) is star.of_size(3)


def test_narrow_stars_are_not_blurred_by_their_sub_pixel_phase() -> None:
    sim = simulate_frame(
        shape=(500, 500), fwhm=1.9, n_stars=120, star_slope=0.3, n_galaxies=0, cosmic_rays=0,
        seed=6,
    )  # fmt: skip
    sources = find_sources(sim.frame)
    bright = sources[(sources["snr"] > 200) & (sources["flags"] == 0)]
    fwhm, at = sources.meta["fwhm"], (bright["x"], bright["y"])
    star = frame_star(sim.frame, sources)
    stamps = extract_stamps(sim.frame, *at, fwhm=fwhm, star=star)
    resampled = extract_cutouts(
        sim.frame, *at, SIZE, fwhm=fwhm, background=sim.frame.background.level
    )
    later = standardise(resampled.data, common_star(resampled.data, bright["snr"]))
    assert len(bright) > 10
    assert np.median(departure(stamps.data)) < 0.6 * np.median(departure(later))
    np.testing.assert_array_equal(stamps.near_edge, resampled.near_edge)
    assert stamps.scale == resampled.scale
    np.testing.assert_array_equal(stamps.x0, resampled.x0)


def crowd(**options):
    """Simulate a frame of many bright stars, with its sources and common star."""
    given = {"shape": (600, 600), "n_stars": 150, "star_slope": 0.3, "seed": 3} | options
    frame = simulate_frame(**given).frame
    sources = find_sources(frame)
    return frame, sources, frame_star(frame, sources)


@pytest.mark.parametrize("fwhm", [2.4, 6.0])
def test_each_stamp_is_its_own(fwhm: float) -> None:
    frame, sources, star = crowd(fwhm=fwhm)
    options = {"fwhm": sources.meta["fwhm"], "star": star}
    x, y = np.asarray(sources["x"])[:7], np.asarray(sources["y"])[:7]
    together = extract_stamps(frame, x, y, **options)
    one = extract_stamps(frame, x[3], y[3], **options)
    np.testing.assert_allclose(one.data[0], together.data[3], rtol=1e-5, atol=1e-3)
    assert len(extract_stamps(frame, [], [], **options)) == 0
    twice = extract_stamps(frame, np.tile(x, 80), np.tile(y, 80), **options)  # several blocks
    np.testing.assert_allclose(twice.data[-7:], together.data, rtol=1e-5, atol=1e-3)


def test_a_common_star_knows_its_frame() -> None:
    frame, sources, star = crowd(fwhm=2.4)
    x, y = sources["x"][:3], sources["y"][:3]
    with pytest.raises(InputError, match="extract_stamps"):
        standardise(np.ones((1, SIZE, SIZE)), star)
    with pytest.raises(InputError, match=r"FWHM of 2\.4"):
        extract_stamps(frame, x, y, fwhm=6.0, star=star)
    with pytest.raises(InputError, match="give one for all"):
        extract_stamps(frame, x, y, fwhm=sources["local_fwhm"][:3], star=star)
    with pytest.raises(InputError, match="one of them"):
        standardise(np.ones((1, SIZE, SIZE)), None, x=[1.0])


def test_a_catalogue_of_few_is_judged_by_the_frames_own_star() -> None:
    frame, *_ = crowd(fwhm=6.0, e1=0.25, n_stars=60, n_galaxies=30)
    every = select_stars(frame, n_min=1)
    best = every[every["selected"]]
    best = best[np.argsort(-best["probability"])][:2]
    listed = select_stars(frame, catalogue=best["id", "x", "y"], n_min=1)
    np.testing.assert_allclose(listed["probability"], best["probability"], atol=0.05)


def test_selectors_of_other_stamps_are_refused() -> None:
    selector = PSFStarSelector.from_pretrained()
    selector.reference_fwhm_ = 3.0
    frame, *_ = crowd(fwhm=6.0)
    with pytest.raises(InputError, match="FWHM of 3 pixels"):
        select_stars(frame, selector=selector)


def test_wrapped_selectors_get_the_stamps_of_the_one_inside() -> None:
    inner = PSFStarSelector.from_pretrained()

    class Wrapper:
        """Like a fitted CalibratedClassifierCV: what was given is not what was fitted."""

        estimator = PSFStarSelector()

        class _Part:
            estimator = inner
            predict_proba = inner.predict_proba

        calibrated_classifiers_: ClassVar = [_Part()]

    assert _wanted_cutouts(Wrapper()) == (4.0, 41, True)


def test_detections_without_moments_are_measured() -> None:
    sim = simulate_frame(
        shape=(900, 900), n_stars=90, n_galaxies=0, fwhm=6, psf_variation=0.2, star_slope=0.2,
        cosmic_rays=0, seed=5,
    )  # fmt: skip
    assert len(find_sources(sim.frame)) > 30
