"""The steps in a row: a frame in, its stars out; coordinates and bad input from end to end."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from conftest import simulate
from sklearn.base import BaseEstimator, ClassifierMixin

import mlpsf
from mlpsf.detection.sources import find_sources
from mlpsf.errors import (
    CatalogueError,
    FrameError,
    FrameNotFoundError,
    InputError,
    MlpsfError,
    NoSourcesError,
    TooFewStarsError,
)
from mlpsf.flags import NEVER_A_PSF_STAR, Flag
from mlpsf.frames.cutouts import extract_cutouts
from mlpsf.frames.io.reading import read_frame
from mlpsf.pipeline import select_stars
from mlpsf.psf import build_psf
from mlpsf.selection.choice import N_MIN
from mlpsf.selectors import ResidualSelector
from mlpsf.simulation import simulate_frame
from mlpsf.stacks.moments import gaussian_moments

CLASSICAL = {"selector": "residual", "cutout_size": 31}
"""The residual rule on cutouts that are small for the sake of speed."""


class Brightness(ClassifierMixin, BaseEstimator):
    """A selector of one's own: the brighter the centre, the better."""

    def fit(self, X, y=None):  # noqa: ARG002
        self.classes_ = np.array([0, 1])
        return self

    def predict_proba(self, X):
        peak = np.nan_to_num(X[:, X.shape[1] // 2, X.shape[2] // 2])
        good = np.clip(peak / 3e4, 0, 1)
        return np.column_stack([1 - good, good])


def quick():
    """Give a selector that takes no time, for what does not depend on the selector."""
    estimator = Brightness().fit(None)
    estimator.cutout_size_, estimator.reference_fwhm_ = 21, 4.0
    return estimator


@pytest.fixture(scope="module")
def stars(field):
    return select_stars(field.frame, threshold=0.0, **CLASSICAL)


# --- what comes out


def test_columns(stars):
    assert stars.colnames == [
        *("id", "x", "y", "ra", "dec", "flux", "snr", "peak", "fwhm", "ellipticity"),
        *("local_fwhm", "probability", "selected", "reserved", "flags", "reason"),
    ]
    assert stars["selected"].dtype == stars["reserved"].dtype == bool


def test_every_source_is_there_with_its_reason(field, stars):
    sources = find_sources(field.frame)
    np.testing.assert_array_equal(stars["x"], sources["x"])
    left_out = ~np.asarray(stars["selected"])
    assert all(stars["reason"][left_out])
    never = (np.asarray(stars["flags"]) & NEVER_A_PSF_STAR) != 0
    assert not (never & ~left_out).any()
    assert ((stars["flags"][stars["snr"] < 50] & Flag.FAINT) > 0).all()


def test_the_chosen_are_stars(field, stars):
    truth = field.truth
    chosen = stars[stars["selected"]]
    assert 10 <= len(chosen) <= 25
    distance = np.hypot(
        chosen["x"][:, None] - truth["x"].data, chosen["y"][:, None] - truth["y"].data
    )
    nearest = distance.argmin(axis=1)
    assert distance.min(axis=1).max() < 0.5
    assert np.mean(truth["kind"][nearest] == "star") > 0.9
    assert np.mean(truth["pair_id"][nearest] < 0) > 0.9
    assert not truth["saturated"][nearest].any()


def test_provenance(field, stars):
    meta = stars.meta
    assert meta["frame"] == field.frame.name
    assert meta["frame_sha256"] == field.frame.sha256
    assert meta["selector"] == "residual"
    assert meta["mlpsf_version"] == mlpsf.__version__
    assert meta["numpy_version"] == np.__version__
    assert {"python_version", "astropy_version", "sep_version"} <= set(meta)
    assert meta["fwhm"] == pytest.approx(4.0, rel=0.05)
    assert meta["threshold"] == 0.0
    assert meta["snr_min"] == 50.0
    assert meta["n_sources"] == len(stars)
    assert meta["n_selected"] == stars["selected"].sum()


def test_same_frame_same_stars(field, stars):
    data, mask = field.frame.data.copy(), field.frame.mask.copy()
    again = select_stars(field.frame, threshold=0.0, **CLASSICAL)
    for name in stars.colnames:
        np.testing.assert_array_equal(again[name], stars[name])
    assert again.meta == stars.meta
    np.testing.assert_array_equal(field.frame.data, data)
    np.testing.assert_array_equal(field.frame.mask, mask)


def test_file_and_frame_give_the_same(field_file, stars):
    before = field_file.read_bytes()
    from_file = select_stars(str(field_file), selector=quick(), threshold=0.0)
    for name in ("x", "y", "flux", "snr", "fwhm"):
        np.testing.assert_allclose(from_file[name], stars[name])
    assert from_file.meta["frame_sha256"] == stars.meta["frame_sha256"]
    assert from_file.meta["frame"] == field_file.name
    assert field_file.read_bytes() == before


def test_flux_unit_changes_hardly_a_star(field, stars):
    frame = field.frame
    other = dataclasses.replace(
        frame,
        data=frame.data * 4,
        gain=frame.gain / 4,
        saturation=frame.saturation * 4,
    )
    scaled = select_stars(other, threshold=0.0, **CLASSICAL)
    # All but one: the study's weights, 1 / (|model| + 1), know the ADU.
    assert (scaled["selected"] != stars["selected"]).sum() <= 2


def test_progress(field):
    steps = []
    select_stars(field.frame, selector=quick(), threshold=0.0, progress=steps.append)
    assert steps == ["finding sources", "judging sources", "looking again"]


def test_catalogue_instead_of_detection(field):
    good = field.truth[(field.truth["kind"] == "star") & ~field.truth["saturated"]]
    catalogue = Table(
        {"NUMBER": good["id"] + 500, "X_IMAGE": good["x"] + 1, "Y_IMAGE": good["y"] + 1}
    )
    out = select_stars(field.frame, selector=quick(), threshold=0.0, catalogue=catalogue)
    assert out["id"].tolist() == catalogue["NUMBER"].tolist()
    off = np.hypot(out["x"] - good["x"], out["y"] - good["y"])[out["selected"]]
    assert np.median(off) < 0.02
    assert catalogue.colnames == ["NUMBER", "X_IMAGE", "Y_IMAGE"]


def test_veto(field):
    plain = select_stars(field.frame, selector=quick(), threshold=0.0)
    first = plain["id"][plain["selected"]][:3].tolist()
    out = select_stars(field.frame, selector=quick(), threshold=0.0, veto=first)
    vetoed = np.isin(out["id"], first)
    assert not out["selected"][vetoed].any()
    assert all("vetoed" in r for r in out["reason"][vetoed])
    with pytest.raises(InputError, match=r"No source has the id to veto.*99999"):
        select_stars(field.frame, selector=quick(), veto=[99999])


def test_reserve(field):
    out = select_stars(field.frame, selector=quick(), threshold=0.0, reserve=0.2, n_max=15)
    assert out["reserved"].sum() == 4
    assert not (out["reserved"] & out["selected"]).any()


def test_too_few_reserve_stars_are_warned_of(field):
    words = {"selector": quick(), "threshold": 0.0, "second_look": False}
    n = select_stars(field.frame, **words).meta["n_above_threshold"]
    words |= {"reserve": 0.2, "n_max": n}
    with pytest.warns(UserWarning, match=f"Of {n} good stars, reserve = 0.2 keeps back 2, with"):
        out = select_stars(field.frame, n_min=n - 2, **words)
    assert out.meta["n_reserved"] == out["reserved"].sum() == 2
    assert select_stars(field.frame, n_min=n - 3, **words).meta["n_reserved"] == 3


def test_an_estimator_of_ones_own(field):
    out = select_stars(field.frame, selector=quick(), threshold=0.05, n_min=1, n_max=5)
    assert out.meta["selector"] == "Brightness"
    chosen = out[out["selected"]]
    assert len(chosen) == 5
    fit = (out["flags"] & NEVER_A_PSF_STAR) == 0
    assert chosen["peak"].min() > np.median(out["peak"][fit])


def test_a_residual_selector_with_other_settings(field):
    out = select_stars(
        field.frame, selector=ResidualSelector(n_iter=1), threshold=0.0, cutout_size=31
    )
    assert out["selected"].sum() >= 10


def test_too_few_above_the_threshold(field):
    with pytest.raises(TooFewStarsError, match="wanted") as caught:
        select_stars(field.frame, selector=quick(), threshold=1.0)
    table = caught.value.table
    assert len(table) == len(find_sources(field.frame))
    assert table.meta["frame"] == field.frame.name
    assert 0 < caught.value.enough_at < 1
    relaxed = select_stars(field.frame, selector=quick(), threshold=1.0, relax=True)
    assert relaxed["selected"].sum() == N_MIN
    under = relaxed["selected"] & (relaxed["probability"] < 1)
    assert ((relaxed["flags"][under] & Flag.RELAXED) > 0).all()


@pytest.mark.parametrize("fwhm", [2.0, 6.0])
def test_other_seeing(fwhm):
    unit = (fwhm / 4) ** 2
    simulated = simulate(
        shape=(500, 500),
        fwhm=fwhm,
        n_stars=40,
        n_galaxies=15,
        flux_range=(2e4 * unit, 3e5 * unit),
        bad_columns=0,
        seed=3,
    )
    out = select_stars(simulated.frame, threshold=0.0, **CLASSICAL, n_max=12)
    assert out.meta["fwhm"] == pytest.approx(fwhm, rel=0.05)
    chosen = out[out["selected"]]
    truth = simulated.truth[simulated.truth["kind"] == "star"]
    distance = np.hypot(
        chosen["x"][:, None] - truth["x"].data, chosen["y"][:, None] - truth["y"].data
    )
    assert np.mean(distance.min(axis=1) < 0.5) > 0.9


# --- coordinates, from the truth to what a subtracted PSF leaves


@pytest.mark.parametrize("fwhm", [2.5, 4.0])
def test_coordinates_from_end_to_end(star_field, fwhm):
    simulated = star_field(fwhm)
    frame, truth = simulated.frame, simulated.truth
    sources = find_sources(frame)
    background = frame.background
    # Every source is its star, to 0.02 pixel.
    distance = np.hypot(
        sources["x"][:, None] - truth["x"].data, sources["y"][:, None] - truth["y"].data
    )
    nearest = distance.argmin(axis=1)
    assert distance.min(axis=1).max() < 0.02
    # The source is where the cutout says it is: at the centre when resampled ...
    stamp = extract_cutouts(
        frame, sources["x"], sources["y"], 31, fwhm=fwhm, background=background.level
    )
    m = gaussian_moments(stamp.data)
    assert np.hypot(m.dx, m.dy).max() * stamp.scale < 0.02
    # ... and at (x - x0, y - y0) when not.
    plain = extract_cutouts(frame, sources["x"], sources["y"], 31, background=background.level)
    m = gaussian_moments(plain.data)
    off = np.hypot(m.dx - (sources["x"] - plain.x0), m.dy - (sources["y"] - plain.y0))
    assert off.max() < 0.02
    # A PSF of half of them takes the other half away.
    made = build_psf(frame, Table({"x": sources["x"][::2], "y": sources["y"][::2]}))
    assert made.fwhm == pytest.approx(fwhm, rel=0.03)
    flux = truth["flux"][nearest]
    image = frame.data - background.level
    left = made.subtract(image, sources["x"], sources["y"], flux)
    core = extract_cutouts(left, sources["x"], sources["y"], 2 * round(fwhm) + 1).data[1::2]
    peak = extract_cutouts(image, sources["x"], sources["y"], 3).data[1::2].max(axis=(1, 2))
    assert np.median(abs(core).max(axis=(1, 2)) / peak) < 0.06
    # A dipole would tell of a shift: dI = -dI/dx * shift.
    half = core.shape[1] // 2
    dipole = (core[:, :, half + 1 :].sum(axis=(1, 2)) - core[:, :, :half].sum(axis=(1, 2))) / flux[
        1::2
    ]
    upright = (core[:, half + 1 :].sum(axis=(1, 2)) - core[:, :half].sum(axis=(1, 2))) / flux[1::2]
    slope = 4 * 0.94 / fwhm / np.sqrt(2 * np.pi) * 1.0
    assert abs(np.median(dipole)) / slope < 0.02
    assert abs(np.median(upright)) / slope < 0.02


def test_psf_of_the_chosen_stars(field, stars):
    made = build_psf(field.frame, stars)
    assert made.fwhm == pytest.approx(4.0, rel=0.03)
    assert made.meta["frame_sha256"] == field.frame.sha256
    assert made.meta["mlpsf_version"] == mlpsf.__version__


# --- bad input: one error each


@pytest.fixture(scope="module")
def sky():
    return np.random.default_rng(1).normal(100, 3, (200, 200)).astype(np.float32)


def write(path, *hdus):
    fits.HDUList(list(hdus)).writeto(path)
    return path


def bad_frame(kind, folder, sky):
    path = folder / "bad.fits"
    if kind == "no such file":
        return path
    if kind == "folder":
        return folder
    if kind == "not FITS":
        path.write_text("hello")
        return path
    if kind == "empty":
        path.write_bytes(b"")
        return path
    if kind == "truncated":
        write(path, fits.PrimaryHDU(sky))
        path.write_bytes(path.read_bytes()[: 2880 * 5])
        return path
    hdu = {
        "no image": fits.PrimaryHDU(),
        "cube": fits.PrimaryHDU(np.stack([sky, sky])),
        "all NaN": fits.PrimaryHDU(np.full_like(sky, np.nan)),
        "constant": fits.PrimaryHDU(np.full_like(sky, 7.0)),
        "no sources": fits.PrimaryHDU(sky),
    }[kind]
    return write(path, hdu)


BAD_FRAMES = {
    "no such file": (FrameNotFoundError, "There is no file"),
    "folder": (FrameError, "is a folder"),
    "not FITS": (FrameError, "no readable FITS file"),
    "empty": (FrameError, "no readable FITS file"),
    "truncated": (FrameError, "cut short"),
    "no image": (FrameError, "no 2-D image"),
    "cube": (FrameError, "no 2-D image"),
    "all NaN": (FrameError, "NaN, infinite or masked"),
    "constant": (FrameError, "have the value 7"),
    "no sources": (NoSourcesError, "No source of 3 pixels"),
}


@pytest.mark.parametrize("kind", BAD_FRAMES)
def test_bad_frames(tmp_path, sky, kind):
    expected, match = BAD_FRAMES[kind]
    with pytest.raises(expected, match=match) as caught:
        select_stars(bad_frame(kind, tmp_path, sky), selector="residual")
    assert isinstance(caught.value, MlpsfError)


def test_mask_of_another_shape(field):
    with pytest.raises(InputError, match=r"'mask'.*\(5, 5\).*Expected"):
        read_frame(field.frame, mask=np.zeros((5, 5)))


@pytest.mark.parametrize(
    ("catalogue", "match"),
    [
        (Table({"x": [9e5], "y": [9e5]}), "None of the 1 positions"),
        (Table({"x": [], "y": []}), "no rows"),
        (Table({"mag": [17.0]}), "no columns of positions"),
        ("none.csv", "There is no file"),
    ],
)
def test_bad_catalogues(field, catalogue, match):
    with pytest.raises(CatalogueError, match=match):
        select_stars(field.frame, selector="residual", catalogue=catalogue)


@pytest.mark.parametrize("selector", ["forest", 3, None])
def test_bad_selectors(field, selector):
    with pytest.raises(InputError, match="'cnn', 'residual'"):
        select_stars(field.frame, selector=selector)


@pytest.mark.parametrize(
    "words",
    [{"threshold": 2.0}, {"n_max": 0}, {"n_min": 99}, {"reserve": 1.0}, {"rank_by": "luck"}],
)
def test_bad_parameters(field, words):
    with pytest.raises(InputError, match=f"'{next(iter(words))}' parameter"):
        select_stars(field.frame, selector=quick(), **words)


def test_bad_cutout_size(field):
    with pytest.raises(InputError, match="'cutout_size' must be"):
        select_stars(field.frame, selector="residual", cutout_size=20)


def test_parameters_are_checked_before_the_work(field):
    steps = []
    with pytest.raises(InputError, match="'threshold'"):
        select_stars(field.frame, selector=quick(), threshold=2.0, progress=steps.append)
    assert "judging sources" not in steps


def test_two_stars_are_too_few_for_the_residual_rule():
    stars = [(100.0, 100.0, 2e5), (200.0, 180.0, 2e5)]
    simulated = simulate(
        shape=(300, 300),
        stars=stars,
        n_galaxies=0,
        cosmic_rays=0,
        hot_pixels=0,
        bad_columns=0,
        seed=1,
    )
    with pytest.raises(MlpsfError, match="needs 5 at least"):
        select_stars(simulated.frame, selector="residual")


def test_public_names():
    for name in mlpsf.__all__:
        assert getattr(mlpsf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mlpsf.nothing  # noqa: B018


def test_threads_change_nothing(monkeypatch):
    """Sources are judged block by block, in one thread or in two."""
    sim = simulate_frame(shape=(500, 500), n_stars=300, n_galaxies=100, fwhm=3.0, seed=4)
    found = []
    for threads in (1, 2):
        monkeypatch.setattr("mlpsf.selection.judging._threads", lambda n=threads: n)
        monkeypatch.setattr("mlpsf.selection.judging._BLOCK", 32)
        found.append(select_stars(sim.frame, n_min=1))
    assert len(found[0]) > 64
    assert found[0].values_equal(found[1])["probability"].all()


def test_chosen_stars_have_room_for_the_psf(recwarn):
    """None of them is left out of the PSF for the edge, however narrow the stars."""
    places = [(x, y, 1e5) for x in (15, 80, 145, 210, 285) for y in (60, 130, 200)]
    none = dict.fromkeys(("n_galaxies", "cosmic_rays", "bad_columns", "hot_pixels"), 0)
    sim = simulate_frame(shape=(260, 300), stars=places, fwhm=2.6, seed=8, **none)
    stars = select_stars(sim.frame, n_min=1, n_max=100)
    outer = np.abs(stars["x"] - 150) > 130
    assert outer.sum() >= 6
    assert (stars["flags"][outer] & Flag.NEAR_EDGE).all()
    psf = build_psf(sim.frame, stars)
    assert len(psf.stars) == stars.meta["n_selected"] > 5
    assert not [w for w in recwarn if "are not in the PSF" in str(w.message)]
