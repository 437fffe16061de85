"""Cutouts in, the subset to use with their x and y out."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table
from conftest import simulate
from typer.testing import CliRunner

from mlpsf import build_psf, extract_cutouts, find_sources, select_cutouts, select_stars
from mlpsf.cli import app
from mlpsf.errors import InputError, NoSourcesError, TooFewStarsError
from mlpsf.frames.cutouts import Cutouts
from mlpsf.frames.io.cutout_files import read_cutouts, write_cutouts
from mlpsf.frames.tiles import tile_cutouts
from mlpsf.psf import PSFModel

COLUMNS = [
    *("id", "x", "y", "flux", "snr", "peak", "fwhm", "ellipticity", "local_fwhm"),
    *("probability", "selected", "reserved", "flags", "reason"),
]


@pytest.fixture(scope="module")
def sky():
    """A frame, and the cutouts of its sources with x and y."""
    sim = simulate(
        shape=(700, 700), fwhm=4.0, n_stars=120, n_galaxies=40, star_slope=0.3, seed=3,
        cosmic_rays=0, hot_pixels=0, bad_columns=0,
    )  # fmt: skip
    sources = find_sources(sim.frame)
    x, y = np.asarray(sources["x"]), np.asarray(sources["y"])
    return sim, extract_cutouts(sim.frame, x, y, 55).data, x, y


@pytest.fixture(scope="module")
def table(sky):
    _, cutouts, x, y = sky
    return select_cutouts(cutouts, x, y, n_min=5)


def test_the_table_is_that_of_select_stars(sky, table):
    sim, cutouts, x, y = sky
    assert table.colnames == COLUMNS
    assert len(table) == len(cutouts)
    np.testing.assert_array_equal(table["x"], x)
    np.testing.assert_array_equal(table["y"], y)
    assert table["id"].tolist() == list(range(1, len(x) + 1))
    from_frame = select_stars(sim.frame, n_min=5)
    assert table.meta["fwhm"] == pytest.approx(from_frame.meta["fwhm"], rel=0.01)
    both = (table["snr"] > 50) & np.isfinite(from_frame["probability"])
    off = np.abs(table["probability"] - from_frame["probability"])[both]
    assert np.median(off) < 0.02
    chosen, expected = (
        set(np.flatnonzero(table["selected"])),
        np.flatnonzero(from_frame["selected"]),
    )
    assert len(chosen & set(expected)) >= 0.7 * len(expected)
    assert cutouts[table["selected"]].shape == (table.meta["n_selected"], 55, 55)


def test_positions_are_not_needed(sky, table):
    _, cutouts, _, _ = sky
    alone = select_cutouts(cutouts, n_min=5)
    assert np.isnan(alone["x"]).all()
    np.testing.assert_allclose(alone["probability"], table["probability"], atol=0.1)
    of = Cutouts.of(cutouts, *sky[2:])
    np.testing.assert_array_equal(select_cutouts(of, n_min=5)["x"], sky[2])


@pytest.mark.parametrize("selector", ["residual"])
def test_other_selectors(sky, selector):
    _, cutouts, x, y = sky
    stars = select_cutouts(cutouts, x, y, selector=selector, n_min=5)
    assert stars.meta["selector"] == selector
    assert stars.meta["n_selected"] >= 5


def test_every_frame_for_itself(sky, table):
    _, cutouts, x, y = sky
    n = len(cutouts)
    twice = np.concatenate([cutouts, cutouts])
    order = np.random.default_rng(0).permutation(2 * n)
    groups = np.repeat(["a", "b"], n)[order]
    stars = select_cutouts(
        twice[order], np.tile(x, 2)[order], np.tile(y, 2)[order], groups=groups, n_min=5
    )
    assert stars["group"].tolist() == groups.tolist()
    for name, rows in (("a", order < n), ("b", order >= n)):
        own = stars[rows]
        back = np.argsort(order[rows])
        np.testing.assert_allclose(own["probability"][back], table["probability"], atol=1e-3)
        assert set(own["group"]) == {name}
    assert stars.meta["n_selected"] == 2 * table.meta["n_selected"]


def test_a_frame_without_stars_does_not_spoil_the_others(sky, table):
    _, cutouts, x, y = sky
    noise = np.random.default_rng(0).normal(0, 1, (6, 55, 55))
    groups = np.repeat([1, 2], [len(cutouts), 6])
    with pytest.warns(UserWarning, match="frame 2: no star is chosen"):
        stars = select_cutouts(
            np.concatenate([cutouts, noise]), np.append(x, np.zeros(6)), np.append(y, np.zeros(6)),
            groups=groups, n_min=5,
        )  # fmt: skip
    assert stars["selected"].sum() == table["selected"].sum()
    assert not stars["selected"][-6:].any()


def test_too_few_keep_the_table(sky):
    _, cutouts, x, y = sky
    with pytest.raises(TooFewStarsError) as caught:
        select_cutouts(cutouts, x, y, n_min=100, n_max=100)
    assert len(caught.value.table) == len(cutouts)
    assert caught.value.table.colnames == COLUMNS


def test_what_cannot_be_judged_is_an_error(sky):
    _, cutouts, x, y = sky
    with pytest.raises(InputError, match="4 FWHM"):
        select_cutouts(cutouts[:, 20:-20, 20:-20], x, y)
    with pytest.raises(InputError, match="one frame a cutout"):
        select_cutouts(cutouts, x, y, groups=[1, 2])
    with pytest.raises(InputError, match="'threshold'"):
        select_cutouts(cutouts, x, y, threshold=2.0)
    with pytest.raises(NoSourcesError):
        select_cutouts(np.random.default_rng(0).normal(0, 1, (9, 31, 31)))


def test_veto_by_row(sky, table):
    _, cutouts, x, y = sky
    first = int(table["id"][table["selected"]][0])
    stars = select_cutouts(cutouts, x, y, n_min=5, veto=[first])
    assert not stars["selected"][first - 1]


# --- at the prompt


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_a_set_where_a_frame_is_taken(sky, table, tmp_path):
    _, cutouts, x, y = sky
    path = write_cutouts(tmp_path / "set.npz", cutouts, x, y)
    out = tmp_path / "stars.ecsv"
    result = run("select", path, "--out", out, "--n-min", 5)
    assert result.exit_code == 0
    assert "set.npz: " in result.stderr
    again = Table.read(out)
    assert again["selected"].tolist() == table["selected"].tolist()
    with pytest.raises(InputError, match="--hdu is for a frame"):
        run("select", path, "--out", out, "--hdu", "1")


def test_chosen_cutouts_of_a_frame_are_written(sky, tmp_path):
    sim, *_ = sky
    sim.write(tmp_path / "frame.fits")
    out, chosen = tmp_path / "stars.ecsv", tmp_path / "chosen.npz"
    assert run("select", tmp_path / "frame.fits", "--out", out, "--save-cutouts", chosen,
               "--n-min", 5).exit_code == 0  # fmt: skip
    stars, found = Table.read(out), read_cutouts(chosen)
    np.testing.assert_array_equal(found.x, stars["x"][stars["selected"]])
    half = found.cutouts.shape[1] // 2
    brightest = np.argmax(found.cutouts.reshape(len(found.x), -1), axis=1)
    assert np.median(np.abs(brightest // found.cutouts.shape[1] - half)) <= 1


def test_the_psf_of_cutouts_is_that_of_the_frame(sky, table, tmp_path):
    sim, cutouts, x, y = sky
    psf, whole = build_psf(cutouts, table), build_psf(sim.frame, table)
    centre = np.zeros(1)
    stamp, expected = (p.stamps(centre, centre, 25)[0] for p in (psf, whole))
    assert np.abs(stamp - expected).max() < 0.01 * expected.max()
    assert psf.fwhm == pytest.approx(whole.fwhm, rel=0.01)
    np.testing.assert_allclose(np.sort(psf.stars[:, 0]), np.sort(whole.stars[:, 0]), atol=0.1)
    # Without places the PSF is the same everywhere, and nothing is warned of.
    alone = build_psf(cutouts, select_cutouts(cutouts, n_min=5))
    assert not alone.varies
    with pytest.raises(InputError, match="one row of stars a cutout"):
        build_psf(cutouts, table[:-1])
    write_cutouts(tmp_path / "set.fits", cutouts, x, y)
    said = CliRunner().invoke(
        app, ["psf", str(tmp_path / "set.fits"), "--n-min", "5", "--out", str(tmp_path / "a.fits")]
    )
    assert said.exit_code == 0, said.output
    assert PSFModel.load(tmp_path / "a.fits").fwhm == pytest.approx(psf.fwhm, rel=0.01)


def test_cosmic_rays_do_not_narrow_the_tiles(sky):
    _, cutouts, _, _ = sky
    rng = np.random.default_rng(1)
    rays = rng.normal(0, 1, (3 * len(cutouts), 55, 55)).astype(np.float32)
    rays[:, 27, 27] += 5 * cutouts.max()
    assert tile_cutouts(np.concatenate([cutouts, rays])).half >= tile_cutouts(cutouts).half


def test_lone_bad_pixels_are_borne(sky, table):
    _, cutouts, x, y = sky
    holed = cutouts.copy()
    holed[np.random.default_rng(2).random(holed.shape) < 0.01] = np.nan
    stars = select_cutouts(holed, x, y, n_min=5)
    kept = stars["selected"] & table["selected"]
    assert kept.sum() >= 0.7 * table["selected"].sum()
