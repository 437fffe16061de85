"""The report: what is on the page, that it is whole, small, and that nothing on it can act."""

from __future__ import annotations

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from conftest import simulate

from mlpsf.errors import OutputError, TooFewStarsError
from mlpsf.files import product_kind
from mlpsf.flags import Flag
from mlpsf.pipeline import select_stars
from mlpsf.report import render_report, write_report
from mlpsf.report.advice import Command, advice_on
from mlpsf.report.cards import MOST_CARDS, cards_of, marked_rows, sheet_of, shown_rows

HOSTILE = "<script>window.hurt"


class Reader(HTMLParser):
    """What a browser would see: elements, their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.scripts, self._inside = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._inside = (tag, dict(attributes))

    def handle_endtag(self, tag):  # noqa: ARG002 - the signature of HTMLParser
        self._inside = None

    def handle_data(self, text):
        if self._inside and self._inside[0] in ("script", "style"):
            self.scripts.append((*self._inside, text))
        else:
            self.text.append(text)

    def of(self, tag, **wanted):
        return [
            a
            for t, a in self.elements
            if t == tag and all(w in (a.get(k.rstrip("_")) or "") for k, w in wanted.items())
        ]


@pytest.fixture(scope="module")
def read(page):
    return Reader(page.read_text(encoding="utf-8"))


def test_stars_are_on_the_page(read, hostile):
    _, stars, _ = hostile
    chosen = stars["id"][stars["selected"] & ~stars["reserved"]].tolist()
    cards = read.of("button", class_="card chosen")
    assert sorted(int(c["data-id"]) for c in cards) == sorted(chosen)
    assert all(c["aria-pressed"] == "true" for c in cards)
    reserved = read.of("button", class_="card reserved")
    assert len(reserved) == stars["reserved"].sum() > 0
    others = read.of("button", class_="card other")
    assert len(others) == len(stars) - len(chosen) - len(reserved)
    marks = read.of("circle") + read.of("rect")
    assert sorted(int(m["data-id"]) for m in marks) == sorted(stars["id"].tolist())
    row = stars[stars["id"] == chosen[0]][0]
    mark = next(m for m in marks if int(m["data-id"]) == chosen[0])
    ny = 600
    assert float(mark["cx"]) == pytest.approx(row["x"] + 0.5, abs=0.01)
    assert float(mark["cy"]) == pytest.approx(ny - row["y"] - 0.5, abs=0.01)  # rows go upward
    saturated = stars["id"][stars["flags"] & int(Flag.NEAR_EDGE) != 0].tolist()
    disabled = {int(c["data-id"]) for c in others if "disabled" in c}
    assert set(saturated) <= disabled
    said = " ".join(read.text)
    assert all(reason in said for reason in set(stars["reason"][~stars["selected"]]))


def test_charts_have_words_for_those_who_cannot_see_them(read):
    images = read.of("img")
    assert len(images) == 6  # the map and five charts
    assert all(len(i["alt"]) > 8 and i["src"].startswith("data:image/") for i in images)
    assert all(button.get("aria-label") for button in read.of("button", class_="card"))


def test_page_is_whole_and_small(page, read):
    assert page.stat().st_size < 3_000_000
    addresses = [
        a.get("src") or a.get("href") for _, a in read.elements if "src" in a or "href" in a
    ]
    assert all(a.startswith(("data:", "#")) for a in addresses)
    styles = "".join(text for tag, _, text in read.scripts if tag == "style")
    urls = re.findall(r"url\(\W*(\w+:)", styles)
    assert len(urls) == 2
    assert set(urls) == {"data:"}
    assert product_kind(page) == "report"


def test_nothing_of_the_frame_is_code(page, read):
    text = page.read_text(encoding="utf-8")
    assert HOSTILE not in text
    assert "<b>bold</b>" not in text
    assert "<b>bold</b> words" in " ".join(read.text)  # shown as it is written
    scripts = read.of("script")
    assert [s.get("type") for s in scripts] == ["application/json", None]
    assert not [a for _, a in read.elements if any(k.startswith("on") for k in a)]
    policy = read.of("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='", policy)


def test_commands_are_quoted(read, hostile):
    frame, _, _ = hostile
    commands = [t for t in read.text if t.startswith("mlpsf psf")]
    assert commands
    assert all(shlex.split(c)[:3] == ["mlpsf", "psf", frame.name] for c in commands)
    assert shlex.split(Command(["-x.fits", "--hdu", "2"])())[2:] == ["./-x.fits", "--hdu", "2"]


def test_list_of_the_page_is_read_back(read, hostile):
    frame, *_ = hostile
    data = json.loads(next(t for tag, a, t in read.scripts if a.get("type")))
    chosen = [s for s in data["sources"] if s["kind"] == "chosen"]
    text = data["head"] + "".join(s["line"] for s in chosen[1:])
    listed = Table.read(text, format="ascii.ecsv")
    assert listed["id"].tolist() == [s["id"] for s in chosen[1:]]
    again = select_stars(frame, stars=listed)
    assert sorted(again["id"][again["selected"]]) == sorted(s["id"] for s in chosen[1:])
    assert product_kind(Path("none")) is None


def test_too_few_stars_are_shown_all_the_same(hostile):
    frame, _, _ = hostile
    with pytest.raises(TooFewStarsError) as caught:
        select_stars(frame, n_min=2000, n_max=2000)
    read = Reader(render_report(frame, caught.value.table, error=str(caught.value)))
    said = " ".join(read.text)
    assert "No PSF." in said
    assert "2000 wanted" in said
    assert len(read.of("img")) == 2


def test_crowded_frame_stays_small(tmp_path):
    sim = simulate(shape=(600, 600), fwhm=3.0, n_stars=2500, n_galaxies=0, seed=3)
    stars = select_stars(sim.frame, n_min=0)
    path = write_report(tmp_path / "a.html", sim.frame, stars)
    assert path.stat().st_size < 3_000_000
    rows = np.concatenate(shown_rows(stars))
    assert len(rows) == min(MOST_CARDS, len(stars))
    assert len(set(rows.tolist())) == len(rows)
    marked = marked_rows(stars)
    assert marked[: len(rows)].tolist() == rows.tolist()


def test_sheet_holds_each_cutout_in_its_place(scene):
    import base64
    import io

    from PIL import Image

    from mlpsf.pictures import BAD

    sim, stars, _ = scene
    rows = np.argsort(-stars["snr"])[:23].astype(np.intp)
    sheet = sheet_of(sim.frame, stars, rows)
    file = io.BytesIO(base64.b64decode(sheet.wings.partition(",")[2]))
    levels = np.asarray(Image.open(file))
    size = 2 * int(np.ceil(4 * stars.meta["fwhm"])) + 1
    assert levels.shape == (size * sheet.rows, size * sheet.columns)
    assert (sheet.columns, sheet.rows) == (20, 2)
    for card in cards_of(stars, rows, sheet):
        j, i = divmod(card.at, sheet.columns)
        cut = levels[j * size : (j + 1) * size, i * size : (i + 1) * size][::-1]
        if (cut == BAD).any():
            continue
        x, y = round(card.x), round(card.y)
        data = sim.frame.data[y - size // 2 : y + size // 2 + 1, x - size // 2 : x + size // 2 + 1]
        assert np.corrcoef(cut.ravel(), np.argsort(np.argsort(data.ravel())))[0, 1] > 0.6


def test_sheet_of_wide_stars_is_shrunk(tmp_path):
    sim = simulate(shape=(400, 400), n_stars=25, n_galaxies=0, fwhm=14.0, seed=3)
    stars = select_stars(sim.frame, n_min=0)
    assert 2 * int(np.ceil(4 * stars.meta["fwhm"])) + 1 > 100
    write_report(tmp_path / "wide.html", sim.frame, stars, None)
    assert "data:image/png" in (tmp_path / "wide.html").read_text()
    assert sheet_of(sim.frame, stars, np.zeros(0, np.intp)).rows == 1


def test_advice_names_what_stands_out(scene):
    _, stars, psf = scene
    rows = np.flatnonzero(stars["selected"])

    class Profiles:
        chi_square = np.where(np.arange(len(rows)) == 3, 400.0, 1.0)
        radii, stars, psf = np.arange(3) + 0.5, np.ones((len(rows), 3)), np.ones((len(rows), 3))

    sim, _, _ = scene
    cards = cards_of(stars, rows, sheet_of(sim.frame, stars, rows), Profiles, len(rows))
    said = [a.text for a in advice_on(stars, Command(["a"]), psf=psf, cards=cards)]
    worst = int(stars["id"][rows[3]])
    assert any(f"or more of star {worst}, " in text for text in said)
    before = stars["selected"].copy()
    assert (stars["selected"] == before).all()


def test_only_reports_are_replaced(hostile, tmp_path):
    frame, stars, psf = hostile
    own = tmp_path / "own.html"
    own.write_text("<!doctype html><p>my page")
    with pytest.raises(OutputError, match="no report of mlpsf"):
        write_report(own, frame, stars, psf)
    with pytest.raises(OutputError, match=r"must end in \.html"):
        write_report(tmp_path / "a.pdf", frame, stars, psf)
    assert own.read_text().endswith("my page")
