"""The report in a browser: a veto by mouse and by keyboard, the saved list, nothing that acts."""

from __future__ import annotations

import contextlib
import shutil

import numpy as np
import pytest
from astropy.table import Table
from conftest import HOSTILE

from mlpsf.pipeline import select_stars
from mlpsf.report.night import thumbnails, write_night


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no browser: neither chromium nor google-chrome is installed")
    with playwright.sync_playwright() as p:
        found = p.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()


@contextlib.contextmanager
def shown(browser, path, scheme, width):
    """Open a page; nothing on it may complain, act by itself, or ask for anything."""
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, accept_downloads=True
    )
    opened = context.new_page()
    opened.said, opened.asked = [], []
    opened.on("console", lambda message: opened.said.append(message.text))
    opened.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.goto(path.as_uri())
    yield opened
    assert opened.said == []
    assert opened.evaluate("window.hurt") is None
    assert [url for url in opened.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()


LOOKS = pytest.mark.parametrize(
    "look", [("light", 1280), ("dark", 390)], ids=["light wide", "dark narrow"]
)


@pytest.fixture
def opened(browser, page, look):
    with shown(browser, page, *look) as found:
        yield found


@pytest.fixture
def opened_night(browser, scene, look, tmp_path):
    """A night of six frames; one is far from the others, one failed, two wish ill."""
    sim, _, psf = scene
    n = 6
    table = Table(
        {
            "name": ["c", HOSTILE, "a", "b", "far", "failed"],
            "done": [True] * 5 + [False],
            "error": [""] * 5 + ["<img src=x onerror='window.hurt=1'> no stars"],
            "warnings": ["", "</script><script>window.hurt=1</script>", "", "", "", ""],
            "fwhm": [4.0, 4.1, 3.9, 4.05, 9.0, np.nan],
            "ellipticity": np.full(n, 0.05),
            "n_found": [500, 400, 300, 200, 100, -1],
            "n_chosen": np.full(n, 25),
            "quality": np.full(n, 0.01),
            "seconds": np.full(n, 3.0),
        }
    )
    pictures = {k: thumbnails(sim.frame, psf) for k in range(2)}
    links = [None, f"{HOSTILE}_report.html", None, None, None, None]
    path = write_night(tmp_path / "night.html", table, pages=links, pictures=pictures)
    with shown(browser, path, *look) as found:
        yield found


def saved(opened, tmp_path):
    with opened.expect_download() as download:
        opened.click("#save")
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    return path


@LOOKS
def test_veto_by_mouse_and_the_list_is_used(opened, hostile, tmp_path):
    frame, stars, _ = hostile
    chosen = stars["id"][stars["selected"] & ~stars["reserved"]].tolist()
    reserved = stars["id"][stars["reserved"]].tolist()
    vetoed, vetoed_on_map, added = chosen[0], chosen[1], reserved[0]
    opened.click(f'.card[data-id="{vetoed}"]')
    opened.locator(f'.mark[data-id="{vetoed_on_map}"]').dispatch_event("click")
    opened.click(f'.card[data-id="{added}"]')
    for name in (f'.card[data-id="{vetoed_on_map}"]', f'.mark[data-id="{vetoed}"]'):
        assert opened.get_attribute(name, "aria-pressed") == "false"
    assert "2 vetoed, 1 added" in opened.inner_text("#count")
    path = saved(opened, tmp_path)
    assert path.name == "list.ecsv"
    expected = sorted({*chosen, added} - {vetoed, vetoed_on_map})
    assert sorted(Table.read(path)["id"]) == expected
    again = select_stars(frame, stars=path)
    assert sorted(again["id"][again["selected"]]) == expected
    opened.click("#undo")
    assert sorted(Table.read(saved(opened, tmp_path))["id"]) == sorted(chosen)


@LOOKS
def test_veto_by_keyboard(opened, hostile):
    _, stars, _ = hostile
    first = opened.locator(".card.chosen").first
    first.focus()
    opened.keyboard.press("Enter")
    assert "1 vetoed" in opened.inner_text("#count")
    opened.keyboard.press("ArrowRight")
    second = opened.evaluate("document.activeElement.dataset.id")
    assert second != first.get_attribute("data-id")
    opened.keyboard.press("v")
    assert "2 vetoed" in opened.inner_text("#count")
    # The map is one stop of the Tab key; arrows go from source to source.
    assert opened.locator('.mark[tabindex="0"]').count() == 1
    mark = opened.locator('.mark[tabindex="0"]')
    mark.focus()
    at = mark.get_attribute("data-id")
    place = {int(s["id"]): (s["x"], s["y"]) for s in stars}
    for key, axis, sign in (("ArrowRight", 0, 1), ("ArrowLeft", 0, -1), ("ArrowUp", 1, 1)):
        opened.keyboard.press(key)
        now = opened.evaluate("document.activeElement.dataset.id")
        if now != at:
            assert sign * (place[int(now)][axis] - place[int(at)][axis]) > 0
        at = now
    assert f"Source {at}," in opened.inner_text("#now")


def check_page(opened):
    """It is no wider than the screen, and axe finds nothing serious."""
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    opened.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    found = axe.Axe().run(opened).response["violations"]
    grave = [
        (v["id"], v["nodes"][0]["html"][:200])
        for v in found
        if v["impact"] in ("serious", "critical")
    ]
    assert grave == []
    opened.said.clear()


@LOOKS
def test_page_fits_and_is_accessible(opened):
    check_page(opened)


@LOOKS
def test_night_fits_and_is_accessible(opened_night):
    check_page(opened_night)


@LOOKS
def test_night_is_sorted_and_filtered(opened_night):
    def names():
        return [
            row.inner_text()
            for row in opened_night.locator("#night tbody tr td:first-child").all()
            if row.is_visible()
        ]

    assert names()[:2] == ["failed", "far"]
    heading = opened_night.locator("#night th button", has_text="FWHM")
    heading.click()
    assert [name[0] for name in names()] == ["a", "c", "b", HOSTILE[0], "f", "f"]
    assert names()[-1] == "failed"  # its FWHM is not known
    heading.focus()
    opened_night.keyboard.press("Enter")
    assert names()[0] == "far"
    assert names()[-1] == "failed"
    opened_night.fill("#filter", "no stars")
    assert names() == ["failed"]
    assert opened_night.inner_text("#shown") == "1 of 6"


@LOOKS
def test_a_click_among_many_sources_is_quick(opened):
    """The page's own work for a click, most of which is to find what shows the source."""
    taken = opened.evaluate(
        """() => {
          const card = document.querySelector(".card.chosen");
          const start = performance.now();
          for (let k = 0; k < 20; k += 1) card.click();
          return (performance.now() - start) / 20;
        }"""
    )
    assert taken < 200  # milliseconds; some 2 on any machine
