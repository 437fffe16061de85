"""DS9's regions as a catalogue."""

from __future__ import annotations

import numpy as np
import pytest

from mlpsf.errors import CatalogueError
from mlpsf.export import write_stars
from mlpsf.frames.io.catalogue import read_catalogue
from mlpsf.frames.io.regions import read_regions
from mlpsf.pipeline import select_stars
from mlpsf.selection.lists import match_list

HEAD = "# Region file format: DS9 version 4.1\nglobal color=green dashlist=8 3 width=1\n"


@pytest.mark.parametrize(
    "text",
    [
        "image\ncircle(11,21.5,8)\n# a comment\npoint(31,41) # point=x\n",
        "image;circle(11,21.5,8)\nimage;ellipse(31,41,3,4,20)\n",
        'physical\n circle( 11 , 21.5 , 8" )\n-box(31,41,5,5,0)\n',
        "circle 11,21.5,8\ncircle 31,41,8\n",
    ],
)
def test_pixels(tmp_path, text):
    path = tmp_path / "a.reg"
    path.write_text(HEAD + text)
    table = read_regions(path)
    assert table["x"].tolist() == [10, 30]
    assert table["y"].tolist() == [20.5, 40]
    assert "selected" not in table.colnames


@pytest.mark.parametrize(
    "text",
    [
        'fk5\ncircle(150.01,-2.25,5")\n',
        'icrs\ncircle(10:00:02.4,-2:15:00,5")\n',
        'icrs;circle(150.01d,-2.25d,5")\n',
        'fk5\ncircle(10h00m02.4s,-2d15m00s,5")\n',
    ],
)
def test_sky(tmp_path, text):
    path = tmp_path / "a.reg"
    path.write_text(HEAD + text)
    table = read_regions(path)
    np.testing.assert_allclose([table["ra"][0], table["dec"][0]], [150.01, -2.25])


def test_what_is_not_read(tmp_path):
    path = tmp_path / "a.reg"
    for text, said in (
        (HEAD, "holds no circle"),
        ("galactic\ncircle(1,2,3)\n", "in the coordinates galactic"),
        ("image\ncircle(1,2,3)\nfk5\ncircle(1,2,3)\n", "in the coordinates fk5, image"),
        ("image\ncircle(a,b,3)\n", "at no position"),
    ):
        path.write_text(text)
        with pytest.raises(CatalogueError, match=said):
            read_regions(path)


def test_regions_of_mlpsf_come_back(field, tmp_path):
    """The green ones are the chosen ones; of those that a user marked, all are meant."""
    stars = select_stars(field.frame, n_max=12)
    path = write_stars(stars, tmp_path / "stars.reg")
    rows = match_list(path, field.frame, stars)
    assert rows.tolist() == np.flatnonzero(stars["selected"]).tolist()
    assert len(read_catalogue(path, field.frame)) == len(stars)
