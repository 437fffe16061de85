"""The page of a night, and the first look at a file."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from mlpsf import simulate_frame
from mlpsf.report.first_look import as_text, first_look
from mlpsf.report.night import outstanding, thumbnails, write_night
from mlpsf.selection.choice import N_MIN


def night(n=8):
    rng = np.random.default_rng(1)
    return Table(
        {
            "name": [f"frame {k}" for k in range(n)],
            "done": [k != 6 for k in range(n)],
            "error": ["" if k != 6 else "<b>no</b> stars" for k in range(n)],
            "warnings": ["" if k != 1 else "gain guessed" for k in range(n)],
            "fwhm": 4 + 0.05 * rng.normal(size=n) + 5 * (np.arange(n) == 3),
            "ellipticity": np.full(n, 0.05),
            "n_found": np.where(np.arange(n) == 6, -1, 500),
            "n_chosen": np.full(n, 25),
            "quality": np.where(np.arange(n) == 5, np.nan, 0.01),
            "judged_by": ["reserved" if k == 0 else "chosen" for k in range(n)],
            "seconds": np.full(n, 3.0),
        }
    )


def test_what_stands_out():
    notes = outstanding(night())
    assert notes[6] == ["<b>no</b> stars"]
    assert len(notes[3]) == 1
    assert notes[3][0].startswith("FWHM ")
    assert [k for k, n in enumerate(notes) if n] == [3, 6]
    assert not any(outstanding(night()[:4]))  # too few for a median


@pytest.mark.parametrize("name", ["ellipticity", "quality"])
def test_a_better_psf_than_the_others_does_not_stand_out(name):
    table = night()
    table[name][2], table[name][4] = 0.0, 0.5
    notes = outstanding(table)
    assert not notes[2]
    assert "0.5, the median is" in notes[4][0]


def test_page_of_a_night(tmp_path, scene):
    sim, _, psf = scene
    pictures = thumbnails(sim.frame, psf)
    assert [p.partition(";")[0] for p in pictures] == ["data:image/jpeg", "data:image/png"]
    table = night()
    pages = ["a b_report.html" if k == 3 else None for k in range(len(table))]
    shown = {3: pictures, 0: ["https://example.org/spy.png"]}
    path = write_night(tmp_path / "night.html", table, pages=pages, pictures=shown)
    text = path.read_text(encoding="utf-8")
    body = text[text.index("<tbody") :]
    places = [body.index(f'data-value="frame {k}"') for k in range(len(table))]
    assert np.argsort(places).tolist()[:2] == [6, 3]  # failed, then apart
    assert "<b>no</b>" not in text
    assert "&lt;b&gt;no&lt;/b&gt; stars" in text
    assert 'href="a%20b_report.html"' in text
    assert "example.org" not in text
    assert body.count("<img") == 2
    assert body.count(">1.00%, chosen stars<") == 6
    assert body.count(">1.00%, reserved stars<") == 1
    table["quality"] = 0.0
    text = write_night(path, table).read_text(encoding="utf-8")
    assert text.count(">noise alone, chosen stars<") == 7


def test_what_is_warned_of_everywhere_is_said_once(tmp_path):
    table = night()
    table["warnings"] = [
        f"gain of {k}.5 guessed | one of its own" if k == 2 else f"gain of {k}.5 guessed"
        for k in range(8)
    ]
    text = write_night(tmp_path / "night.html", table).read_text(encoding="utf-8")
    assert text.count("guessed") == 1
    assert "8 frames warn alike; the first: gain of 0.5 guessed." in text
    body = text[text.index("<tbody") :]
    assert body.count("one of its own") == 1
    # Those that stand out are marked, not those of which something is warned.
    assert body.count('class="apart"') == 1


@pytest.mark.parametrize(("n", "alike"), [(8, 8), (8, 2), (1, 1)])
def test_verdicts_are_said(tmp_path, n, alike):
    table = night(n)
    table["verdict"] = ["out of focus" if k < alike else "good" for k in range(n)]
    text = write_night(tmp_path / "night.html", table).read_text(encoding="utf-8")
    body = text[text.index("<tbody") :]
    if alike > n / 2:
        assert f"{alike} of {n} frames are judged out of focus" in text
        assert "out of focus" not in body
    else:
        assert body.count("verdict: out of focus") == alike


def test_first_look_at_a_mosaic(tmp_path, scene):
    from astropy.io import fits

    sim, _, _ = scene
    header = fits.Header({"GAIN": 3.0, "SATURATE": 6e4, "BUNIT": "adu"})
    chip = fits.ImageHDU(sim.frame.data, header, name="SCI", ver=2)
    fits.HDUList([fits.PrimaryHDU(), chip]).writeto(tmp_path / "two.fits")
    look = first_look(tmp_path / "two.fits")
    assert [h["shape"] for h in look["hdus"]] == [None, sim.frame.shape]
    assert look["hdus"][1]["name"] == "SCI,2"
    assert (look["gain"], look["gain_from"]) == (3.0, "header GAIN")
    assert look["centre"] is None
    assert look["fwhm"] == pytest.approx(4.0, rel=0.05)
    assert "gain         3 e/" in as_text(look)
    assert "SCI,2" in as_text(look)
    assert look["n_possible"] >= len(sim.truth) // 10
    assert "mlpsf psf asks for" not in as_text(look)


def test_first_look_at_few_stars(tmp_path):
    sim = simulate_frame(
        shape=(300, 300), n_stars=60, flux_range=(1e3, 3e4), n_galaxies=20, fwhm=4.0, seed=3
    )
    sim.write(tmp_path / "few.fits")
    look = first_look(tmp_path / "few.fits")
    assert 0 < look["n_possible"] < N_MIN < look["n_sources"]
    assert f"mlpsf psf asks for {N_MIN} (--n-min, --relax)" in as_text(look)
    assert "1 of the faint ones has a S/N of" in as_text(look)


def test_first_look_at_a_crowd(tmp_path):
    sim = simulate_frame(shape=(200, 200), n_stars=250, n_galaxies=0, fwhm=4.0, seed=3)
    sim.write(tmp_path / "crowd.fits")
    look = first_look(tmp_path / "crowd.fits")
    assert look["n_possible"] is None
    assert "PSF stars    not counted" in as_text(look)


def test_first_look_at_a_doubled_frame(tmp_path):
    sim = simulate_frame(
        shape=(300, 300), n_stars=60, flux_range=(3e3, 1e5), fwhm=3.0, double=(9, 4, 0.5), seed=2
    )
    sim.write(tmp_path / "doubled.fits")
    look = first_look(tmp_path / "doubled.fits")
    assert (look["verdict"], look["n_possible"]) == ("doubled", 0)
    assert "asks for" not in as_text(look)


def test_first_look_at_nothing(tmp_path):
    from astropy.io import fits

    noise = np.random.default_rng(0).normal(100, 3, (200, 210)).astype(np.float32)
    fits.writeto(tmp_path / "dark.fits", noise)
    look = first_look(tmp_path / "dark.fits", gain=2.0)
    assert (look["verdict"], look["n_possible"]) == ("no stars", 0)
    assert look["gain"] == 2.0
    assert "verdict      no stars" in as_text(look)
