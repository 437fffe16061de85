"""Neighbours are fitted together and taken away, and a star looks as if it were alone."""

from __future__ import annotations

import gc
import warnings
from dataclasses import replace
from pathlib import Path
from weakref import ref

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from mlpsf import build_psf, extract_cutouts, find_sources, select_stars, simulate_frame
from mlpsf.errors import InputError
from mlpsf.export import write_stars
from mlpsf.export.ldac import ldac_catalogue
from mlpsf.frames.frame import Frame
from mlpsf.neighbours.crowding import is_crowded, light_of_neighbours
from mlpsf.neighbours.scene import Scene
from mlpsf.neighbours.subtract import (
    as_judged,
    measure_again,
    subtract_neighbours,
    without_neighbours,
)
from mlpsf.neighbours.taken import light_taken
from mlpsf.neighbours.truth import light_left
from mlpsf.plots import CutoutSheetDisplay
from mlpsf.psf.quality.profiles import star_profiles
from mlpsf.report.cards import sheet_of
from mlpsf.report.page import render_report
from mlpsf.simulation import SimulatedFrame, random_parameters

CLEAN = {"cosmic_rays": 0, "bad_columns": 0, "hot_pixels": 0}


@pytest.fixture(scope="module")
def crowd() -> SimulatedFrame:
    """5,000 stars a megapixel, FWHM 3.5."""
    return simulate_frame(
        shape=(500, 500), n_stars=1250, n_galaxies=20, fwhm=3.5, star_slope=0.5, seed=16, **CLEAN
    )


@pytest.fixture(scope="module")
def found(crowd: SimulatedFrame) -> Table:
    return find_sources(crowd.frame)


@pytest.fixture(scope="module")
def alone(crowd: SimulatedFrame, found: Table) -> Frame:
    return subtract_neighbours(crowd.frame, found)


@pytest.fixture(scope="module")
def stars(crowd: SimulatedFrame) -> Table:
    return select_stars(crowd.frame, n_min=3, relax=True)


def scene_of(frame: Frame) -> Scene:
    assert isinstance(frame.scene, Scene)
    return frame.scene


@pytest.fixture(scope="module")
def small() -> tuple[Frame, Scene]:
    """A small crowd, and its scene."""
    frame = simulate_frame(
        shape=(200, 200), n_stars=260, n_galaxies=0, fwhm=3.5, star_slope=0.5, seed=4, **CLEAN
    ).frame
    return frame, scene_of(subtract_neighbours(frame, find_sources(frame)))


@pytest.fixture(scope="module")
def wide() -> SimulatedFrame:
    """A crowd whose FWHM is 2.8 to 6 pixels over the frame."""
    sky = {"n_stars": 2500, "flux_range": (1e3, 2e5), "n_galaxies": 20}
    return simulate_frame(shape=(600, 600), fwhm=4.0, psf_variation=0.8, seed=1, **sky, **CLEAN)


class TestScene:
    def test_fluxes_are_true(self, crowd: SimulatedFrame, alone: Frame) -> None:
        truth, scene = crowd.truth, scene_of(alone)
        bright = truth[(truth["kind"] == "star") & ~truth["saturated"]]
        bright = bright[np.argsort(-bright["flux"])][:60]
        apart, row = cKDTree(np.column_stack([scene.x, scene.y])).query(
            np.column_stack([bright["x"], bright["y"]])
        )
        inside = np.all([bright[c] > 10 for c in "xy"] + [bright[c] < 490 for c in "xy"], axis=0)
        ratio = scene.flux[row] / bright["flux"]
        assert np.median(apart[inside]) < 0.05
        assert abs(np.median(ratio[inside]) - 1) < 0.01

    def test_less_is_left_than_was_there(self, crowd: SimulatedFrame, alone: Frame) -> None:
        stars = crowd.truth[~crowd.truth["saturated"] & (crowd.truth["kind"] == "star")]
        near = np.abs(scene_of(alone).rest - crowd.sky)
        at = tuple(np.clip(np.rint(stars[c]).astype(int), 0, 499) for c in "yx")
        before = (crowd.frame.data - crowd.sky)[at]
        bright = before > 500
        assert np.median(near[at][bright] / before[bright]) < 0.05

    def test_no_star_is_two(self, alone: Frame) -> None:
        scene = scene_of(alone)
        x, y = (each[scene.flux > 0] for each in (scene.x, scene.y))
        apart = cKDTree(np.column_stack([x, y])).query(np.column_stack([x, y]), 2)[0][:, 1]
        assert apart.min() > 0.3 * scene.star.fwhm

    def test_sky_is_nearer_the_truth(self, crowd: SimulatedFrame, alone: Frame) -> None:
        def off(frame: Frame) -> float:
            return abs(float(np.median(frame.background.level - crowd.sky)))

        assert off(alone) < 0.7 * off(crowd.frame)

    def test_a_star_looks_alone(self) -> None:
        places = [(60, 60, 3e4), (70, 64, 6e4)]
        grid = [(20 + 50 * (k % 6), 140 + 50 * (k // 6), 5e4) for k in range(24)]
        turn = np.random.default_rng(1).uniform(0, 2 * np.pi, len(grid))
        pairs = [
            (x + 11 * np.cos(a), y + 11 * np.sin(a), 4e4)
            for (x, y, _), a in zip(grid, turn, strict=True)
        ]
        options = {"shape": (360, 320), "n_galaxies": 0, "fwhm": 4.0, "seed": 3, **CLEAN}
        both = simulate_frame(stars=[*places, *grid, *pairs], **options)
        one = simulate_frame(stars=[places[0]], **options)
        frame = subtract_neighbours(both.frame, find_sources(both.frame))
        sky = {"background": both.sky}
        cut = extract_cutouts(frame, [60], [60], 41, **sky).data[0]
        true = extract_cutouts(one.frame, [60], [60], 41, **sky).data[0]
        raw = extract_cutouts(both.frame, [60], [60], 41, **sky).data[0]
        assert np.abs(raw - true).max() > 1000
        # The noise of the star that went is left.
        assert np.abs(cut - true).max() < 0.02 * true.max() + 5 * np.sqrt(raw.max() / 3)

    def test_cutout_of_a_source_that_was_not_fitted(self, alone: Frame) -> None:
        scene = scene_of(alone)
        assert not scene.own_light(np.array([-50.0]), np.array([-50.0]), 5).any()

    @settings(max_examples=5, deadline=None)
    @given(exponent=st.floats(-22, 15))
    def test_unit_changes_nothing(self, small: tuple[Frame, Scene], exponent: float) -> None:
        frame, scene = small
        unit = np.float32(10.0**exponent)
        other = replace(
            frame,
            data=frame.data * unit,
            gain=frame.gain / float(unit),
            saturation=frame.saturation * float(unit),
        )
        scaled = scene_of(subtract_neighbours(other, find_sources(other)))
        # Rounding moves detections at the threshold, but not the stars that matter.
        bright = scene.flux > 100 * scene.error
        apart, row = cKDTree(np.column_stack([scaled.x, scaled.y])).query(
            np.column_stack([scene.x, scene.y])[bright]
        )
        ratio = scaled.flux[row] / float(unit) / scene.flux[bright]
        assert bright.sum() > 10
        assert np.quantile(apart, 0.9) < 0.02
        assert np.quantile(np.abs(ratio - 1), 0.9) < 0.02


class TestStability:
    """What comes of a crowd hangs on its stars, not on the last digits of its pixels."""

    def test_a_ripple_stays_small(self) -> None:
        changes = []
        for kind, seed in (("moved", 17), ("varying", 75), ("varying", 99)):
            rng = np.random.default_rng([91, seed])
            frame = simulate_frame(**random_parameters(rng, (300, 400), kind), seed=seed).frame
            noise = frame.background.noise
            left = []
            for share in (0.0, 1e-5):
                ripple = share * noise * np.random.default_rng(1).normal(size=frame.shape)
                near = replace(frame, data=(frame.data + ripple).astype(np.float32))
                left.append(scene_of(subtract_neighbours(near, find_sources(near))).rest)
            change = np.abs(left[0] - left[1])[~frame.mask] / noise
            changes.append(np.quantile(change, 0.99))
        # Sources so near each other that either may be the brighter remain: not on most frames.
        assert np.median(changes) < 0.02


class TestSizesThatVary:
    def test_fluxes_are_true_everywhere(self, wide: SimulatedFrame) -> None:
        scene = scene_of(without_neighbours(wide.frame))
        truth = wide.truth[(wide.truth["kind"] == "star") & ~wide.truth["saturated"]]
        truth = truth[(truth["flux"] > 3e4) & np.all([abs(truth[c] - 300) < 280 for c in "xy"], 0)]
        apart, row = cKDTree(np.column_stack([scene.x, scene.y])).query(
            np.column_stack([truth["x"], truth["y"]])
        )
        ratio = scene.flux[row] / truth["flux"]
        for part in (truth["fwhm"] < 3.5, truth["fwhm"] > 4.7):
            assert part.sum() > 15
            assert np.median(apart[part]) < 0.06
            assert abs(np.median(ratio[part]) - 1) < 0.04
            assert np.median(np.abs(ratio[part] - 1)) < 0.06

    def test_stars_of_all_sizes_are_chosen(self, wide: SimulatedFrame) -> None:
        stars = select_stars(wide.frame)
        assert stars.meta["verdict"] == "varying"
        width = stars["local_fwhm"][stars["selected"]]
        assert len(width) >= 20
        assert width.min() < 3.5
        assert width.max() > 4.7


class TestCrowding:
    def test_a_sparse_frame_is_as_it_was(self) -> None:
        stars = [(40 + 50 * (k % 5), 40 + 50 * (k // 5), 5e4) for k in range(25)]
        sim = simulate_frame(shape=(290, 290), stars=stars, n_galaxies=0, seed=1, **CLEAN)
        sources = find_sources(sim.frame)
        assert not is_crowded(sources)
        assert subtract_neighbours(sim.frame, sources) is sim.frame
        assert without_neighbours(sim.frame).scene is None
        assert measure_again(sim.frame, sources) is sources

    @given(
        st.lists(
            st.tuples(st.floats(0, 100), st.floats(0, 100), st.floats(1, 1e4)),
            min_size=1,
            max_size=12,
        )
    )
    def test_light_of_neighbours(self, sources: list[tuple[float, float, float]]) -> None:
        x, y, flux = np.array(sources).T
        apart = np.hypot(x - x[:, None], y - y[:, None]) / 4.0
        share = np.where(apart <= 4, 1.0, np.where(apart <= 6, 0.15, 0.0))
        np.fill_diagonal(share, 0.0)
        got = light_of_neighbours(x, y, flux, 4.0)
        np.testing.assert_allclose(got, (share * flux).sum(axis=1) / flux, rtol=1e-6, atol=1e-12)


class TestSelection:
    def test_stars_and_their_psf(self, crowd: SimulatedFrame) -> None:
        stars = select_stars(crowd.frame)
        assert stars.meta["n_selected"] >= 10
        assert stars.meta["n_subtracted"] > 300
        psf = build_psf(crowd.frame, stars)
        got = psf.stamps([0.0], [0.0], 31)[0]
        true = crowd.psf.stamp(250, 250, 31)
        got, true = got / got.sum(), true / true.sum()
        assert np.abs(got - true).max() < 0.01 * true.max()

    def test_psf_of_a_table_alone_is_the_same(self, crowd: SimulatedFrame) -> None:
        stars = select_stars(crowd.frame)
        again = build_psf(replace(crowd.frame), stars[stars["selected"]])
        first = build_psf(crowd.frame, stars)
        pair = [psf.stamps([0.0], [0.0], 31)[0] for psf in (first, again)]
        np.testing.assert_allclose(*pair, atol=1e-6)


class TestCosmicRays:
    def test_they_are_no_crowd(self) -> None:
        sim = simulate_frame(shape=(300, 300), n_stars=25, n_galaxies=0, fwhm=3, seed=2)
        found = find_sources(sim.frame)
        alone = subtract_neighbours(sim.frame, found)
        assert alone is sim.frame
        assert measure_again(alone, found).meta["fwhm"] == pytest.approx(3, rel=0.15)


class TestMemory:
    def test_a_frame_is_kept_no_longer_than_it_is_used(self) -> None:
        sim = simulate_frame(shape=(300, 300), n_stars=30, n_galaxies=5, fwhm=4.0, seed=1)
        frame = replace(sim.frame)
        kept = ref(frame)
        assert without_neighbours(frame) is without_neighbours(frame)
        del frame
        gc.collect()
        assert kept() is None


class TestTruth:
    def test_what_is_left_is_less(self, crowd: SimulatedFrame, found: Table, alone: Frame) -> None:
        truth = crowd.truth
        bright = found[(found["snr"] > 100) & (found["flags"] == 0)]
        at = bright["x"], bright["y"]
        objects = truth["x"], truth["y"], truth["flux"]
        left = light_left(alone, *at, *objects)
        scene = scene_of(alone)
        nothing = replace(scene, flux=np.zeros_like(scene.flux), rest=crowd.frame.data)
        before = light_left(replace(alone, scene=nothing), *at, *objects)
        assert np.median(left) < 0.5 * np.median(before)

    def test_needs_a_scene(self, crowd: SimulatedFrame) -> None:
        with pytest.raises(InputError, match="no scene"):
            light_left(crowd.frame, [1], [1], [1], [1], [1])


class TestWhatIsShown:
    """Whatever shows or gives away the stars of a list has them as they were judged."""

    def test_frame_as_judged(self, crowd: SimulatedFrame, stars: Table) -> None:
        assert as_judged(crowd.frame, stars).scene is not None
        assert as_judged(crowd.frame, stars["x", "y"].as_array()) is crowd.frame
        plain = stars.copy()
        del plain.meta["n_subtracted"]
        assert as_judged(crowd.frame, plain) is crowd.frame

    def test_sheet(self, crowd: SimulatedFrame, stars: Table) -> None:
        sheet = CutoutSheetDisplay.from_stars(crowd.frame, stars)
        chosen = stars[stars["selected"]]
        chosen = chosen[np.argsort(-chosen["probability"], kind="stable")]
        seen = as_judged(crowd.frame, stars)
        side = sheet.cutouts.shape[-1]
        want = extract_cutouts(
            seen, chosen["x"], chosen["y"], side, background=seen.background.level
        )
        np.testing.assert_array_equal(sheet.cutouts, want.data)
        assert f"{stars.meta['n_subtracted']:,} neighbours" in sheet.figure_.get_supxlabel()

    def test_report_has_both(self, crowd: SimulatedFrame, stars: Table) -> None:
        sheet = sheet_of(crowd.frame, stars, np.arange(5))
        assert sheet.given
        assert sheet.given != sheet.wings
        text = render_report(crowd.frame, stars)
        assert 'data-show="given"' in text
        assert f"{stars.meta['n_subtracted']:,} stars" in text

    def test_profiles(self, crowd: SimulatedFrame, stars: Table) -> None:
        psf = build_psf(crowd.frame, stars)
        chosen = stars[stars["selected"]]
        raw = chosen.copy()
        del raw.meta["n_subtracted"]

        def off(table: Table) -> float:
            profiles = star_profiles(crowd.frame, psf, table)
            return float(np.nanmedian(np.abs(profiles.stars - profiles.psf)))

        assert off(chosen) < 0.7 * off(raw)

    def test_catalogue_for_psfex(self, crowd: SimulatedFrame, stars: Table) -> None:
        hdus = fits.HDUList.fromstring(ldac_catalogue(crowd.frame, stars))
        rows, chosen = hdus["LDAC_OBJECTS"].data, stars[stars["selected"]]
        truth = crowd.truth[crowd.truth["kind"] == "star"]
        place = cKDTree(np.column_stack([truth["x"], truth["y"]]))
        _, at = place.query(np.column_stack([chosen["x"], chosen["y"]]))
        ratio = rows["FLUX_APER"] / truth["flux"][at]
        assert abs(np.median(ratio) - np.median(rows["FLUX_AUTO"] / truth["flux"][at])) < 0.05
        assert ratio.std() < 0.03

    def test_no_core_is_blank_in_the_catalogue(self) -> None:
        sim = simulate_frame(
            shape=(450, 450), fwhm=3.5, n_stars=1100, clustering=0.8, cluster_radius=110, seed=3,
            n_galaxies=50,
        )  # fmt: skip
        stars = select_stars(sim.frame, n_max=25, n_min=5)
        hdus = fits.HDUList.fromstring(ldac_catalogue(sim.frame, stars))
        vignets = hdus["LDAC_OBJECTS"].data["VIGNET"]
        c = vignets.shape[-1] // 2
        blank = (vignets[:, c - 2 : c + 3, c - 2 : c + 3] < -1e29).any(axis=(1, 2))
        assert blank.sum() <= 1

    @pytest.mark.parametrize("ending", [".fits", ".csv"])
    def test_however_the_table_is_read(
        self, crowd: SimulatedFrame, stars: Table, tmp_path: Path, ending: str
    ) -> None:
        path = write_stars(stars, tmp_path / f"stars{ending}")
        how = {"format": "ascii.csv", "comment": "#"} if ending == ".csv" else {}
        again = Table.read(path, **how)
        assert as_judged(crowd.frame, again) is as_judged(crowd.frame, stars)

    def test_pixels_alone_are_a_frame_too(self, crowd: SimulatedFrame, stars: Table) -> None:
        one = build_psf(crowd.frame, stars)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other = build_psf(crowd.frame.data, stars)
        np.testing.assert_allclose(other.image(), one.image(), atol=2e-3 * one.image().max())


def test_light_taken_is_that_of_the_neighbours_in_reach(small):
    frame, scene = small
    rows = np.flatnonzero(scene.flux > 100 * scene.error)
    inner = np.hypot(scene.x[rows] - 100, scene.y[rows] - 100) < 70
    rows = rows[inner]
    alone = subtract_neighbours(frame, find_sources(frame))
    taken = light_taken(alone, scene.x[rows], scene.y[rows], scene.star.fwhm)
    apart = np.hypot(scene.x[rows, None] - scene.x, scene.y[rows, None] - scene.y)
    # What is within 3 FWHM is in the circle of 4 whole, of what is beyond 5.5 the wings alone.
    near, far = ((apart < reach * scene.star.fwhm) * scene.flux for reach in (3, 5.5))
    low, high = (part.sum(axis=1) / scene.flux[rows] - 1 for part in (near, far))
    assert len(rows) > 10
    assert (taken > 0.8 * low - 0.05).all()
    assert (taken < 1.2 * high + 0.2).all()


def test_nothing_is_taken_from_a_frame_that_is_no_crowd(small):
    frame, _ = small
    assert light_taken(frame, [50.0, 60.0], [50.0, 60.0], 3.5).tolist() == [0.0, 0.0]
