"""What notebooks show of a frame, a star table and a PSF."""

from __future__ import annotations

import io

import numpy as np
from astropy.table import Table
from PIL import Image

from mlpsf.export import read_stars, write_stars
from mlpsf.selection.star_table import StarTable


def test_frame_and_psf(hostile):
    frame, _, psf = hostile
    html = frame._repr_html_()
    assert "<script>" not in html
    assert "600 rows x 640 columns" in html
    assert Image.open(io.BytesIO(frame._repr_png_())).size == (320, 300)
    assert f"{psf.fwhm:.3f} pixels" in psf._repr_html_()
    picture = np.asarray(Image.open(io.BytesIO(psf._repr_png_())))
    assert picture.shape == psf.oversampled.shape
    assert picture[len(picture) // 2, len(picture) // 2] >= 60  # the star, in the middle


def test_star_table(hostile, tmp_path):
    _, stars, _ = hostile
    assert isinstance(stars, StarTable)
    html = stars._repr_html_()
    assert "<script>" not in html
    assert f"{stars['selected'].sum()} of {len(stars)} sources selected" in html
    first = html[html.index("</thead>") :]
    assert first.index("True") < first.index("False")
    assert "selected" not in stars["id", "x"]._repr_html_().partition("<table")[0]
    back = read_stars(write_stars(stars, tmp_path / "a.ecsv"))
    assert isinstance(back, StarTable)
    assert (back["id"] == stars["id"]).all()
    assert isinstance(Table.read(tmp_path / "a.ecsv"), Table)
