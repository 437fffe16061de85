"""Files come whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

import pytest

from mlpsf.errors import MlpsfError, OutputError
from mlpsf.files import check_folder, unwritable, whole_file


def test_written(tmp_path):
    path = tmp_path / "a.tar.gz"
    with whole_file(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffixes[-2:] == [".tar", ".gz"]
        temporary.write_text("all")
        assert not path.exists()
    assert path.read_text() == "all"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_the_users(tmp_path):
    before = os.umask(0o027)
    try:
        with whole_file(tmp_path / "a.txt") as temporary:
            temporary.write_text("x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, OutputError])
def test_not_at_all(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise error("disk full")

    with pytest.raises(OutputError if error is OSError else error, match="disk full"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "number", ["ENOSPC", "EDQUOT", "EFBIG", "EACCES", "EROFS", "EIO", "EMLINK"]
)
def test_why_and_what_to_try(number):
    error = OSError(getattr(errno, number), os.strerror(getattr(errno, number)), ".mlpsf-1.fits")
    said = str(unwritable("a.fits", error))
    assert said.startswith("Cannot write a.fits: ")
    assert said.endswith("give another folder.")
    assert not any(word in said for word in ("Errno", ".mlpsf-1"))


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(OutputError, match="the name is too long: give a shorter one"):
        check_folder(tmp_path / ("a" * 300))


def test_no_such_folder(tmp_path):
    with pytest.raises(OutputError, match=r"does not exist\. Make it first") as caught:
        check_folder(tmp_path / "none" / "a.txt")
    assert isinstance(caught.value, MlpsfError)
    assert isinstance(caught.value, OSError)
    with pytest.raises(OutputError), whole_file(tmp_path / "none" / "a.txt"):
        raise AssertionError("the block must not start")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="does not exist"):
        check_folder(tmp_path / "file" / "a.txt")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(OutputError, match="it is a folder"):
        check_folder(tmp_path)


@pytest.fixture
def no_root():
    """Have no more rights than any user, for root may write anywhere."""
    root = os.geteuid() == 0
    if root:
        os.setresuid(65534, 65534, 0)  # nobody, who may become root again
    yield
    if root:
        os.setresuid(0, 0, 0)


@pytest.mark.usefixtures("no_root")
def test_no_permission():
    # Of that user's own, in a place that all may enter.
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    try:
        with pytest.raises(OutputError, match="no permission"):
            check_folder(folder / "a.txt")
    finally:
        folder.rmdir()


def test_name_without_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert check_folder("a.txt") == Path("a.txt")
    with whole_file("a.txt") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "a.txt").read_text() == "x"
