from __future__ import annotations

import tracemalloc

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpsf import CutoutSet, MlpsfError
from mlpsf.errors import InputError, OutputError

SIZE = 21


def pixels_of(rows, size=SIZE):
    """Cutouts whose every pixel is the number of their row."""
    return np.broadcast_to(
        np.asarray(rows, dtype=np.float32)[:, None, None], (len(rows), size, size)
    )


def write(path, frames=(1500, 900, 3), size=SIZE, **options):
    """Write a set whose cutouts and columns say which row they are."""
    start = 0
    with CutoutSet.create(path, size=size, **options) as writer:
        for i, n in enumerate(frames):
            rows = np.arange(start, start + n)
            writer.append(
                f"frame{i}.fits",
                pixels_of(rows, size),
                label=rows % 3 - 1,
                x=rows * 2.0,
                y=rows * 3.0,
                snr=rows + 0.5,
                flags=rows,
            )
            start += n
    return path


@pytest.fixture(scope="module")
def set_path(tmp_path_factory):
    return write(
        tmp_path_factory.mktemp("set") / "set.h5",
        reference_fwhm=4.0,
        label_source="by hand",
        parameters={"snr_min": 30},
    )


def test_a_set_gives_back_what_was_written(set_path):
    with CutoutSet(set_path) as data:
        rows = np.arange(2403)
        assert len(data) == 2403
        assert data.frames == ["frame0.fits", "frame1.fits", "frame2.fits"]
        assert (data.size, data.reference_fwhm, data.label_source) == (SIZE, 4.0, "by hand")
        assert data.parameters == {"snr_min": 30}
        np.testing.assert_array_equal(np.bincount(data.frame), [1500, 900, 3])
        np.testing.assert_array_equal(data.label, rows % 3 - 1)
        np.testing.assert_array_equal(data.x, rows * 2.0)
        np.testing.assert_array_equal(data.flags, rows)
        assert np.isnan(data.probability).all()
        assert np.isnan(data.distance).all()
        assert "2403 cutouts of 21 x 21 pixels at FWHM 4, 3 frames, 801 good" in repr(data)


@given(
    st.one_of(
        st.slices(2403),
        st.lists(st.integers(-2403, 2402), max_size=40).map(lambda v: np.array(v, dtype=int)),
    )
)
@settings(deadline=None, max_examples=40)
def test_any_rows_can_be_read_in_any_order(set_path, rows):
    with CutoutSet(set_path) as data:
        got = data[rows]
    np.testing.assert_array_equal(got, pixels_of(np.arange(2403)[rows]))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("memory", [1, 2_000_000, 10**9])
def test_batches_give_every_row_once_with_its_own_pixels(set_path, shuffle, memory):
    wanted = np.arange(0, 2403, 2)
    with CutoutSet(set_path) as data:
        batches = list(
            data.batches(100, rows=wanted, shuffle=shuffle, random_state=3, memory=memory)
        )
    rows = np.concatenate([b.rows for b in batches])
    assert [len(b.rows) for b in batches] == [100] * 12 + [2]
    np.testing.assert_array_equal(np.sort(rows), wanted)
    for batch in batches:
        np.testing.assert_array_equal(batch.cutouts, pixels_of(batch.rows))
    if not shuffle:
        np.testing.assert_array_equal(rows, wanted)


def test_shuffled_batches_mix_frames_and_follow_the_seed(set_path):
    with CutoutSet(set_path) as data:
        first, again, other = (
            np.concatenate([b.rows for b in data.batches(50, shuffle=True, random_state=seed)])
            for seed in (1, 1, 2)
        )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    # A random order has neighbours a third of the set apart; one in order, one row.
    assert np.abs(np.diff(first)).mean() > 0.25 * 2403


def test_reading_takes_no_more_memory_than_it_is_given(tmp_path):
    path = tmp_path / "large.h5"
    with CutoutSet.create(path, size=41) as writer:
        for i in range(10):
            writer.append(f"{i}", np.zeros((1200, 41, 41), np.float32), label=0, x=0, y=0)
    with CutoutSet(path) as data:
        tracemalloc.start()
        n = sum(len(b.rows) for b in data.batches(64, shuffle=True, memory=4 * 2**20))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert n == 12000
    assert n * 41 * 41 * 4 > 80e6
    assert peak < 12e6


def test_a_set_can_be_extended_whole_or_not_at_all(tmp_path):
    path = write(tmp_path / "set.h5", (5,))
    with CutoutSet.extend(path) as writer:
        assert len(writer) == 5
        writer.append("more.fits", pixels_of([5, 6]), label=1, x=0, y=0)
    with pytest.raises(InputError, match="Labels"), CutoutSet.extend(path) as writer:
        writer.append("broken.fits", pixels_of([7]), label=7, x=0, y=0)
    with CutoutSet(path) as data:
        assert data.frames == ["frame0.fits", "more.fits"]
        np.testing.assert_array_equal(data[:], pixels_of(range(7)))
    assert [p.name for p in tmp_path.iterdir()] == ["set.h5"]


def test_nothing_is_left_of_a_set_that_failed(tmp_path):
    with pytest.raises(RuntimeError, match="stop"), CutoutSet.create(tmp_path / "a.h5", size=15):
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_columns_stay_when_the_file_is_closed(set_path):
    with CutoutSet(set_path) as data:
        pass
    assert data.label.sum() == 0
    with pytest.raises(InputError, match="is closed"):
        data[:3]


def test_a_set_may_hold_a_frame_without_sources(tmp_path):
    path = write(tmp_path / "set.h5", (0, 2))
    with CutoutSet(path) as data:
        assert data.frames == ["frame0.fits", "frame1.fits"]
        assert data.frame.tolist() == [1, 1]
    with CutoutSet(write(tmp_path / "empty.h5", ())) as data:
        assert len(data) == 0
        assert list(data.batches()) == []
        assert data[:].shape == (0, SIZE, SIZE)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": 1, "x": 0}, r"missing: \['y'\]"),
        ({"label": 1, "x": 0, "y": 0, "colour": 2}, r"Unknown: \['colour'\]"),
        ({"label": 1, "x": 0, "y": 0, "frame": 2}, r"Unknown: \['frame'\]"),
        ({"label": 2, "x": 0, "y": 0}, "1 .good., 0 .other. or -1"),
        ({"label": 1, "x": [1, 2], "y": 0}, r"'x' needs 3 values. Got shape \(2,\)"),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path, columns, message):
    with CutoutSet.create(tmp_path / "a.h5", size=SIZE) as writer:
        with pytest.raises(InputError, match=message):
            writer.append("a", pixels_of([0, 1, 2]), **columns)
        assert len(writer) == 0


def test_cutouts_of_another_size_are_refused(tmp_path):
    with (
        CutoutSet.create(tmp_path / "a.h5", size=SIZE) as writer,
        pytest.raises(InputError, match=r"shape \(n, 21, 21\). Got \(2, 15, 15\)"),
    ):
        writer.append("a", np.zeros((2, 15, 15)), label=0, x=0, y=0)
    with pytest.raises(InputError, match="odd"), CutoutSet.create(tmp_path / "b.h5", size=20):
        pass
    with (
        pytest.raises(OutputError, match="does not exist"),
        CutoutSet.create(tmp_path / "no" / "b.h5", size=21),
    ):
        pass


def test_files_that_are_no_sets_are_refused_in_words(tmp_path, set_path):
    with pytest.raises(InputError, match="There is no file"):
        CutoutSet(tmp_path / "none.h5")
    text = tmp_path / "text.h5"
    text.write_text("hello")
    with pytest.raises(InputError, match="no whole HDF5 file"):
        CutoutSet(text)
    cut = tmp_path / "cut.h5"
    cut.write_bytes(set_path.read_bytes()[:-2000])
    with pytest.raises(InputError, match="no whole HDF5 file"):
        CutoutSet(cut)
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["data"] = [1, 2]
    with pytest.raises(InputError, match="but no set of cutouts"):
        CutoutSet(foreign)


def renamed(file, dtype):
    """Store the frames' names as another type."""
    names = file["frame_name"][:]
    del file["frame_name"]
    file.create_dataset("frame_name", data=names, dtype=dtype)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.attrs.modify("format_version", 9), "version 9; this mlpsf reads version 3"),
        (lambda f: f.__delitem__("snr"), "damaged.*snr"),
        (lambda f: f["x"].resize(7, axis=0), "damaged"),
        (lambda f: f["frame"].__setitem__(0, 8), "damaged.*frames that it does not name"),
        (lambda f: f.attrs.__delitem__("size"), "damaged.*size"),
        (lambda f: f.attrs.__setitem__("format", "mlpsf cutouts"), "or one of an earlier mlpsf"),
        (lambda f: renamed(f, h5py.string_dtype()), "damaged.*frame_name is of type object"),
    ],
)
def test_damaged_sets_are_refused_in_words(tmp_path, damage, message):
    path = write(tmp_path / "set.h5", (20,))
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(MlpsfError, match=message):
        CutoutSet(path)


def test_texts_of_any_length_come_back(tmp_path):
    parameters = {"frames": ["é" * 1000] * 100}  # more than HDF5 keeps in an object's header
    path = tmp_path / "set.h5"
    with CutoutSet.create(path, size=15, label_source="", parameters=parameters) as writer:
        writer.append("ä" * 512, np.ones((1, 15, 15)), label=1, x=1.0, y=2.0)
        with pytest.raises(InputError, match="1024 bytes"):
            writer.append("a" * 1025, np.ones((1, 15, 15)), label=1, x=1.0, y=2.0)
    with CutoutSet(path) as data:
        assert data.frames == ["ä" * 512]
        assert data.parameters == parameters
        assert data.label_source == ""


def test_nothing_is_kept_in_a_heap_without_checksums(set_path):
    # A damaged one lets HDF5 go round for ever.
    assert b"GCOL" not in set_path.read_bytes()
