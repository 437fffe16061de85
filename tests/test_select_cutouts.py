"""Cutouts in, the subset to use with their x and y out."""

from __future__ import annotations

import re

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import Table
from conftest import simulate
from typer.testing import CliRunner

from mlpsf import build_psf, extract_cutouts, find_sources, select_cutouts, select_stars
from mlpsf.cli import app
from mlpsf.errors import CatalogueError, InputError, NoSourcesError, TooFewStarsError
from mlpsf.export import export_psf
from mlpsf.frames.cutouts import Cutouts
from mlpsf.frames.io.cutout_files import read_cutouts, write_cutouts
from mlpsf.frames.tiles import tile_cutouts
from mlpsf.psf import PSFModel, measure_variation

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
    said = stars.meta["verdicts"]
    assert said["1"] == f"{table.meta['verdict']}: {table.meta['verdict_reason']}"
    assert said["2"].startswith("not judged: None of the 6 sources of frame 2")
    assert "inf" not in said["2"]


def test_too_few_keep_the_table(sky):
    _, cutouts, x, y = sky
    with pytest.raises(TooFewStarsError) as caught:
        select_cutouts(cutouts, x, y, n_min=100, n_max=100)
    table = caught.value.table
    assert len(table) == len(cutouts)
    assert table.colnames == COLUMNS
    np.testing.assert_array_equal(table["x"], x)  # of the frame; the PSF is made of tiles
    said = re.search(r"make a PSF of FWHM ([\d.]+) pixels", str(caught.value))
    assert said
    assert float(said[1]) == pytest.approx(table.meta["fwhm"], rel=0.05)


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
    with pytest.raises(InputError, match="row numbers from 1"):
        select_cutouts(cutouts, x, y, veto=[0])


@pytest.mark.parametrize("placed", [True, False])
def test_lists_as_tables(sky, table, placed, tmp_path):
    _, cutouts, x, y = sky
    at = (x + 20000, y - 50) if placed else ()  # of a tract
    chosen = np.flatnonzero(table["selected"])
    other = np.flatnonzero(~table["selected"] & (table["snr"] > 50) & (table["flags"] & 7 == 0))[0]
    columns = {"x": x + 20000.3, "y": y - 50.2} if placed else {"id": table["id"]}
    named = Table(columns)
    path = tmp_path / "veto.csv"
    named[chosen[:2]].write(path)
    stars = select_cutouts(cutouts, *at, n_min=3, veto=path, keep=named[[other]])
    assert not stars["selected"][chosen[:2]].any()
    assert stars["selected"][other]
    assert (stars.meta["veto_from"], stars.meta["keep_from"]) == ("veto.csv", "the table")
    stars = select_cutouts(cutouts, *at, stars=named[chosen])
    assert stars["selected"].tolist() == table["selected"].tolist()
    if not placed:
        with pytest.raises(CatalogueError, match="no column id"):
            select_cutouts(cutouts, stars=Table({"x": x, "y": y}))


def test_lists_of_several_frames(sky, table):
    _, cutouts, x, y = sky
    n, first = len(cutouts), np.flatnonzero(table["selected"])[0]
    twice, at = np.concatenate([cutouts, cutouts]), (np.tile(x, 2), np.tile(y, 2))
    groups = np.repeat(["a", "b"], n)
    one = Table({"x": [x[first]], "y": [y[first]], "group": ["b"]})
    for veto in (one, Table({"id": [n + first + 1]}), [int(n + first + 1)]):
        stars = select_cutouts(twice, *at, groups=groups, n_min=5, veto=veto)
        assert stars["selected"][first]
        assert not stars["selected"][n + first]
    with pytest.raises(CatalogueError, match="no column group"):
        select_cutouts(twice, *at, groups=groups, n_min=5, veto=one["x", "y"])


def test_copies_are_used_once(sky, table):
    _, cutouts, x, y = sky
    again = np.flatnonzero(table["selected"])[:3]
    rows = np.append(np.arange(len(x)), again)
    with pytest.warns(UserWarning, match=f"3 of {len(rows)} cutouts are copies"):
        stars = select_cutouts(cutouts[rows], x[rows], y[rows], n_min=5)
    assert stars["selected"][again].all()
    assert stars["reason"][-3:].tolist() == ["a copy"] * 3
    assert stars["selected"][: len(x)].tolist() == table["selected"].tolist()


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


def test_a_catalogue_gives_its_chosen_rows_even_if_they_are_few(sky, tmp_path):
    _, cutouts, x, y = sky
    columns = [
        fits.Column("X_IMAGE", "E", array=x + 1),
        fits.Column("Y_IMAGE", "E", array=y + 1),
        fits.Column("VIGNET", "3025E", dim="(55, 55)", array=cutouts),
    ]
    path, out, veto = (tmp_path / name for name in ("frame.cat", "stars.cat", "veto.csv"))
    objects = fits.BinTableHDU.from_columns(columns, name="LDAC_OBJECTS")
    fits.HDUList([fits.PrimaryHDU(), objects]).writeto(path)
    out.write_text("rows of before")
    Table({"x": x[:20], "y": y[:20]}).write(veto)
    with pytest.raises(TooFewStarsError):
        run("select", path, "--out", out, "--n-min", 100, "--n-max", 100, "--veto", veto,
            "--overwrite")  # fmt: skip
    with fits.open(out) as hdus:
        chosen = hdus["LDAC_OBJECTS"].data["X_IMAGE"]
    assert 0 < len(chosen) < 100
    assert not np.isin(chosen, (x[:20] + 1).astype(np.float32)).any()


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
    write_cutouts(tmp_path / "set.fits", cutouts, x, y)
    said = CliRunner().invoke(
        app, ["psf", str(tmp_path / "set.fits"), "--n-min", "5", "--out", str(tmp_path / "a.fits")]
    )
    assert said.exit_code == 0, said.output
    assert PSFModel.load(tmp_path / "a.fits").fwhm == pytest.approx(psf.fwhm, rel=0.01)


def test_rows_are_matched_with_their_cutouts(sky, table):
    _, cutouts, x, y = sky
    chosen, order = np.asarray(table["selected"]), np.argsort(table["probability"])
    psf = build_psf(cutouts, table)
    for some, rows in (
        (cutouts, table[order]),
        (cutouts.reshape(len(cutouts), -1), table),
        (list(cutouts), table),
    ):
        again = build_psf(some, rows)
        assert again.fwhm == pytest.approx(psf.fwhm, rel=1e-4)
        assert sorted(again.stars[:, 0].tolist()) == pytest.approx(
            sorted(psf.stars[:, 0]), abs=0.01
        )
    places = np.column_stack([x, y])
    ways = [
        build_psf(cutouts, table[chosen]),
        build_psf(cutouts, table[order][chosen[order]]),
        build_psf(cutouts[chosen], table[chosen]),
        build_psf(cutouts[chosen].reshape(chosen.sum(), -1), places[chosen]),
    ]
    assert [way.fwhm for way in ways] == pytest.approx([ways[0].fwhm] * 4, rel=1e-4)
    with pytest.raises(InputError, match="do not tell which"):
        build_psf(cutouts[chosen], table[order][chosen[order]])
    with pytest.raises(InputError, match="one row of stars a cutout"):
        build_psf(cutouts, places[:-1])


@pytest.mark.filterwarnings("ignore:the PSF varies")
def test_places_of_a_tract(tmp_path):
    sim = simulate(
        shape=(600, 600), fwhm=3.5, n_stars=60, n_galaxies=0, star_slope=0.2, seed=5,
        psf_variation=0.25, cosmic_rays=0, hot_pixels=0, bad_columns=0,
    )  # fmt: skip
    stars = sim.truth[~sim.truth["saturated"]]
    stars = stars[np.maximum(abs(stars["x"] - 300), abs(stars["y"] - 300)) < 270]
    x, y = (np.asarray(stars[name]) for name in "xy")
    cutouts = extract_cutouts(sim.frame, x, y, 45).data
    near = build_psf(cutouts, np.column_stack([x, y]))
    far = build_psf(cutouts, np.column_stack([x + 12000, y - 4000]))
    assert near.order == far.order > 0
    for at in ((100, 120), (500, 450)):
        there = far.at(at[0] + 12000, at[1] - 4000)
        assert there.fwhm == pytest.approx(near.at(*at).fwhm, rel=2e-3)
    np.testing.assert_allclose(far.stars[:, :2] - (12000, -4000), near.stars[:, :2], atol=0.01)
    far.save(tmp_path / "far.fits")
    again = PSFModel.load(tmp_path / "far.fits")
    assert again.terms.first == far.terms.first
    assert again.at(12100, -3880).fwhm == pytest.approx(far.at(12100, -3880).fwhm, rel=1e-6)
    with pytest.raises(InputError, match="that starts at"):
        far.at(100, 120)
    with pytest.raises(InputError, match="give a place"):
        export_psf(far, tmp_path / "far.psf", "psfex")
    found = measure_variation(cutouts, np.column_stack([x + 12000, y - 4000]))
    expected = measure_variation(cutouts, np.column_stack([x, y]))
    np.testing.assert_allclose(found.at(12100, -3880), expected.at(100, 120), atol=2e-3)


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


# --- what may be in a set


def test_copies_change_nothing_of_the_others(sky, table):
    _, cutouts, x, y = sky
    twice = [np.concatenate([v, v]) for v in (cutouts, x, y)]
    with pytest.warns(UserWarning, match="copies"):
        stars = select_cutouts(*twice, n_min=5)
    n = len(x)
    assert stars.meta["verdict"] == table.meta["verdict"]
    np.testing.assert_array_equal(stars["probability"][:n], table["probability"])
    assert stars["selected"][:n].tolist() == table["selected"].tolist()
    assert not stars["selected"][n:].any()
    assert stars["id"].tolist() == list(range(1, 2 * n + 1))


def test_a_border_may_be_missing(sky, table):
    _, cutouts, x, y = sky
    wide = np.pad(cutouts, ((0, 0), (12, 12), (12, 12)), constant_values=np.nan)
    stars = select_cutouts(wide, x, y, n_min=5)
    assert stars.meta["fwhm"] == pytest.approx(table.meta["fwhm"], rel=5e-3)
    assert (stars["selected"] != table["selected"]).sum() <= 4


@pytest.mark.parametrize("wide", [10, 12, 20])
def test_psf_of_cutouts_of_ten_fwhm(sky, wide):
    sim, *_ = sky
    found = find_sources(sim.frame)
    size = int(np.ceil(wide * found.meta["fwhm"])) | 1
    cut = extract_cutouts(sim.frame, found["x"], found["y"], size)
    chosen = select_cutouts(cut.data, cut.x, cut.y, n_min=5)
    psf = build_psf(cut.data, chosen)
    assert psf.meta["method"] == "refined"
    assert psf.fwhm == pytest.approx(sim.psf.fwhm, rel=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x * 0.2 * u.arcsec, "pixels of the frame. Got arcsec"),
        (lambda x: x + 1e30, "Got more"),
    ],
)
def test_what_is_no_position(sky, change, message):
    _, cutouts, x, y = sky
    with pytest.raises(InputError, match=message):
        select_cutouts(cutouts, change(x), y)


def test_too_few_reserved_are_warned_of(sky):
    _, cutouts, x, y = sky
    with pytest.warns(UserWarning, match="too few to judge"):
        select_cutouts(cutouts, x, y, n_min=3, n_max=10, reserve=0.1)


def test_a_mask_tells_copies_apart(sky):
    _, cutouts, x, y = sky
    twice = np.ma.array(np.concatenate([cutouts, cutouts[:1]]))
    twice.mask = np.zeros(twice.shape, bool)
    twice.mask[0, :20, :20] = True
    table = select_cutouts(twice, np.append(x, x[0] + 9), np.append(y, y[0] + 9), n_min=3)
    assert table["reason"][-1] != "a copy"
