"""Lists that a user brings: matched by pixel or on the sky, kept, vetoed, used alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.table import QTable, Table
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpsf.errors import CatalogueError, InputError, TooFewStarsError
from mlpsf.export import as_qtable, write_stars
from mlpsf.flags import Flag
from mlpsf.pipeline import select_stars
from mlpsf.selection.choice import Rules, choose_by
from mlpsf.selection.lists import match_list


@pytest.fixture(scope="module")
def chosen(field):
    return select_stars(field.frame, n_max=20)


def picked(stars):
    return set(stars["id"][stars["selected"]].tolist())


@pytest.mark.parametrize("ending", [".ecsv", ".fits", ".csv"])
def test_the_selected_rows_of_a_star_table_are_found(field, chosen, tmp_path, ending):
    path = write_stars(chosen, tmp_path / f"stars{ending}")
    rows = match_list(path, field.frame, chosen)
    assert rows.tolist() == np.flatnonzero(chosen["selected"]).tolist()


def test_an_earlier_list_gives_the_same_stars(field, chosen, tmp_path):
    path = write_stars(chosen, tmp_path / "stars.ecsv")
    again = select_stars(field.frame, stars=path, n_min=20, n_max=25)
    assert picked(again) == picked(chosen)
    assert again.meta["stars_from"] == path.name
    others = ~again["selected"]
    assert np.all(again["flags"][others] & Flag.NOT_LISTED != 0)
    assert set(again["reason"][again["selected"]]) == {"selected; kept by the user"}


def test_a_list_of_few_is_enough(field, chosen):
    few = chosen[chosen["selected"]][:4]
    again = select_stars(field.frame, stars=few)
    assert picked(again) == set(few["id"].tolist())
    assert again.meta["n_min"] == 4


def test_another_frame_is_matched_on_the_sky(field, chosen):
    """The same sky, cut: pixels of the first frame would be wrong by the cut."""
    frame = field.frame
    cut = dataclasses.replace(
        frame,
        data=np.ascontiguousarray(frame.data[40:, 60:]),
        mask=np.ascontiguousarray(frame.mask[40:, 60:]),
        wcs=frame.wcs[40:, 60:],
        sha256="of the cut",
    )
    with pytest.warns(UserWarning, match="off the frame|no source|cannot make a PSF"):
        again = select_stars(cut, stars=chosen)
    mine = again[again["selected"]]
    there = {(round(x + 60), round(y + 40)) for x, y in zip(mine["x"], mine["y"], strict=True)}
    here = chosen[chosen["selected"]]
    assert there <= {(round(x), round(y)) for x, y in zip(here["x"], here["y"], strict=True)}
    assert len(there) >= 10


@pytest.mark.parametrize("ending", [".ecsv", ".fits", ".csv"])
def test_a_file_tells_of_which_frame_it_is(field, chosen, tmp_path, ending):
    """Pixels that are wrong by 30 do not matter for a table of another frame."""
    moved = chosen.copy()
    moved["x"] += 30
    moved.meta["frame_sha256"] = "another"
    path = write_stars(moved, tmp_path / f"s{ending}")
    rows = match_list(path, field.frame, chosen)
    assert rows.tolist() == np.flatnonzero(chosen["selected"]).tolist()


def test_sky_positions_as_users_have_them(field, chosen):
    here = chosen[chosen["selected"]][:3]
    want = np.flatnonzero(np.isin(chosen["id"], here["id"])).tolist()
    sky = SkyCoord(here["ra"], here["dec"], unit="deg")
    for table in (
        QTable({"target": sky}),
        as_qtable(here)["sky", "flux"],
        QTable({"ra": sky.ra.to(units.hourangle), "dec": sky.dec.to(units.rad)}),
        Table({"RAJ2000": sky.ra.deg, "DEJ2000": sky.dec.deg}),
        QTable({"x": here["x"].quantity, "y": here["y"].quantity}),
        Table({"X_IMAGE": here["x"] + 1, "Y_IMAGE": here["y"] + 1}),
    ):
        assert match_list(table, field.frame, chosen).tolist() == want


def test_keep_comes_first_whatever_its_probability(field, chosen):
    worst = chosen[np.nanargmin(np.where(chosen["flags"] == Flag.BELOW_THRESHOLD, 0, np.nan))]
    kept = select_stars(field.frame, keep=[int(worst["id"])], n_max=5, n_min=1)
    assert worst["id"] in picked(kept)
    assert kept.meta["n_selected"] == 5
    row = kept[kept["id"] == worst["id"]][0]
    assert row["flags"] & Flag.KEPT
    assert row["probability"] < 0.9


def test_veto_from_a_table(field, chosen):
    bad = chosen[chosen["selected"]][:2]
    vetoed = select_stars(field.frame, veto=Table({"x": bad["x"] + 0.4, "y": bad["y"]}), n_min=1)
    assert not picked(vetoed) & set(bad["id"].tolist())
    assert np.all(vetoed["flags"][np.isin(vetoed["id"], bad["id"])] & Flag.VETOED)
    others = select_stars(field.frame, veto=chosen, n_min=1)  # a star table: its selected rows
    assert picked(others)
    assert not picked(others) & picked(chosen)
    one = select_stars(field.frame, stars=bad, veto=[int(bad["id"][0])])
    assert picked(one) == {int(bad["id"][1])}


def test_a_saturated_star_is_not_kept():
    sources = Table({"flags": [int(Flag.SATURATED | Flag.KEPT), int(Flag.FAINT | Flag.KEPT), 0]})
    out = choose_by(Rules(n_min=1), sources, [0.99, 0.1, 0.95])
    assert out["selected"].tolist() == [False, True, True]
    assert out["reason"].tolist()[0] == "saturated; kept by the user"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, int(Flag.FAINT), int(Flag.VETOED)]), st.booleans(), st.floats(0, 1)
        ),
        max_size=30,
    ),
    st.integers(1, 20),
    st.sampled_from(["probability", "snr"]),
)
def test_no_other_star_is_taken_before_all_kept_ones(rows, n_max, rank_by):
    flags = np.array([f | Flag.KEPT * k for f, k, _ in rows], dtype=np.int32)
    p = np.array([p for _, _, p in rows])
    sources = Table({"flags": flags, "snr": p[::-1] * 100})
    out = choose_by(Rules(n_min=0, n_max=n_max, rank_by=rank_by), sources, p)
    selected = np.asarray(out["selected"])
    kept = (flags & Flag.KEPT != 0) & (flags & Flag.VETOED == 0)
    assert (selected & kept).sum() == min(kept.sum(), n_max)
    others = selected & ~kept
    assert not others.any() or selected[kept].all()
    assert (flags[others] == 0).all()
    assert (p[others].round(5) >= 0.9).all()


def test_a_kept_star_without_probability_is_taken():
    sources = Table({"flags": [int(Flag.KEPT), 0], "snr": [10.0, 100.0]})
    out = choose_by(Rules(n_min=1, n_max=1, rank_by="snr"), sources, [np.nan, 0.95])
    assert out["selected"].tolist() == [True, False]


def test_unusable_stars_are_told(field, chosen):
    edge = np.flatnonzero(chosen["flags"] & Flag.NEAR_EDGE)[0]
    with (
        pytest.warns(UserWarning, match="1 of 1 listed stars cannot make a PSF: 1 near the edge"),
        pytest.raises(TooFewStarsError, match="none of 1 listed stars could be judged") as caught,
    ):
        select_stars(field.frame, stars=[int(chosen["id"][edge])])
    assert "1 near the edge" in str(caught.value)
    assert "n_min" not in str(caught.value)  # there is nothing to take


def test_what_is_not_there_is_told(field, chosen, tmp_path):
    with pytest.raises(InputError, match=r"No source has the id to veto: \[99999\]"):
        match_list([99999], field.frame, chosen, name="veto")
    empty = (
        np.argmax([np.hypot(chosen["x"] - x, chosen["y"] - 250).min() for x in range(20, 500)]) + 20
    )
    with pytest.raises(CatalogueError, match="None of the 1 positions of the table is a source"):
        match_list(Table({"x": [float(empty)], "y": [250.0]}), field.frame, chosen)
    with pytest.raises(CatalogueError, match="There is no file"):
        match_list(tmp_path / "none.ecsv", field.frame, chosen)
    one = chosen[chosen["selected"]][:1]
    mixed = Table({"x": [one["x"][0], float(empty)], "y": [one["y"][0], 250.0]})
    with pytest.warns(UserWarning, match="1 of 2 positions of the table are no source"):
        assert len(match_list(mixed, field.frame, chosen)) == 1
