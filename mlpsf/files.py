"""Write files completely or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlpsf.errors import MlpsfError, OutputError

__all__ = [
    "check_folder",
    "check_replaceable",
    "file_hash",
    "input_file",
    "product_kind",
    "unwritable",
    "whole_file",
]

_HEAD = 1 << 20  # bytes of a file that hold its header

_ELSEWHERE = "give another folder"
_WHY = {
    errno.ENOSPC: f"its disk is full. Make room, or {_ELSEWHERE}",
    errno.EDQUOT: f"the quota on its disk is used up. Make room, or {_ELSEWHERE}",
    errno.EFBIG: f"no file may be as large there (see ulimit -f). Raise the limit, or {_ELSEWHERE}",
    errno.EACCES: f"no permission. Change that, or {_ELSEWHERE}",
    errno.EPERM: f"no permission. Change that, or {_ELSEWHERE}",
    errno.EROFS: f"its disk is read-only: {_ELSEWHERE}",
    errno.EIO: f"its disk fails (input/output error): {_ELSEWHERE}",
    errno.ENAMETOOLONG: "the name is too long: give a shorter one",
    errno.ENOTDIR: f"a part of the path is a file, not a folder: {_ELSEWHERE}",
    errno.ENOENT: f"its folder takes no files, or is gone: {_ELSEWHERE}",
    errno.EEXIST: "a file of that name is there: give another name",
}
"""Why a file or folder cannot be written, and what to try, by the error of the system."""


def unwritable(path: str | os.PathLike[str], error: OSError, doing: str = "write") -> OutputError:
    """Return the error that says why a file or folder cannot be written, and what to try.

    Examples
    --------
    >>> print(unwritable("a.fits", OSError(errno.EROFS, "")))
    Cannot write a.fits: its disk is read-only: give another folder.
    """
    # numpy says without a number of the system how much it could not write.
    said = f"{error.strerror or error}. Is its disk full? Make room, or {_ELSEWHERE}"
    why = _WHY.get(error.errno or 0, said)
    return OutputError(f"Cannot {doing} {os.fspath(path)}: {why}.")


def input_file(
    path: str | os.PathLike[str],
    error: type[MlpsfError],
    what: str,
    *,
    missing: type[MlpsfError] | None = None,
) -> Path:
    """Return the path of a file that can be read: no folder, pipe, device or impossible name.

    Parameters
    ----------
    path : path-like
        ``~`` stands for the user's home.
    error : type
        Error to raise.
    what : str
        What the file should be, with its article: "a FITS file".
    missing : type, optional
        Error to raise if there is no such file; `error` by default.

    Raises
    ------
    MlpsfError
        Of the given type.
    """
    try:
        found = Path(path).expanduser()
        folder = found.is_dir()
        if found.is_file():
            return found
        # A pipe or a device has no size and perhaps no end.
        there = found.exists() or found.is_symlink()
    except (OSError, ValueError, RuntimeError, TypeError) as failure:
        raise error(f"{str(path)!r} is no name of a file ({failure}). Expected {what}.") from None
    if folder:
        raise error(f"{str(path)!r} is a folder. Expected {what}: give one of its files.")
    if there:
        raise error(f"{str(path)!r} is no regular file. Expected {what}.")
    raise (missing or error)(
        f"There is no file {str(path)!r}. Expected {what}: check the path; a relative one starts "
        f"at {str(Path.cwd())!r}."
    )


def check_folder(path: str | os.PathLike[str]) -> Path:
    """Return the path if its folder exists and is writable.

    Raises
    ------
    OutputError
        If it does not exist or is not writable.
    """
    path = Path(path)
    folder = path.parent
    try:
        if not folder.is_dir():
            raise OutputError(
                f"Cannot write {path}: the folder {folder} does not exist. Make it first."
            )
        if path.is_dir():
            raise OutputError(
                f"Cannot write {path}: it is a folder. Give the name of a file in it."
            )
        if path.exists() and not path.is_file():
            raise OutputError(f"Cannot write {path}: it is a device or a pipe. Name a file.")
    except (OSError, ValueError) as error:
        if isinstance(error, OutputError):
            raise
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise OutputError(f"Cannot write {path}: it is no name of a file ({error}).") from None
    if not os.access(folder, os.W_OK):
        raise OutputError(
            f"Cannot write {path}: no permission to write in {folder}. Change "
            "that, or give another folder."
        )
    return path


def file_hash(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, in hexadecimal; raise `OSError` if it is none."""
    if not Path(path).is_file():  # a pipe has no end
        raise FileNotFoundError(errno.ENOENT, "no regular file", os.fspath(path))
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def temporary_prefix(path: Path) -> str:
    """Return how the names of a file's temporary ones begin: its own name may be too long."""
    return f".mlpsf-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}-"


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path that is renamed to `path` if the block ends without an error.

    Raises
    ------
    OutputError
        If the folder does not exist or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with whole_file(folder / "a.txt") as temporary:
    ...     _ = temporary.write_text("all of it")
    >>> [p.name for p in folder.iterdir()]
    ['a.txt']
    """
    path = check_folder(path)
    try:
        handle, name = tempfile.mkstemp(
            prefix=temporary_prefix(path), suffix="".join(path.suffixes[-2:]), dir=path.parent
        )
    except OSError as error:
        raise unwritable(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; the user's umask sets the final permissions.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_replaceable(
    path: Path, kind: str | None, overwrite: bool | None, how: str = "overwrite=True"
) -> None:
    """Raise `OutputError` if a file exists and must not be replaced.

    Parameters
    ----------
    path : Path
    kind : {"stars", "psf", None}
        Kind of the file to write; see `product_kind`.
    overwrite : bool or None
        Whether any file may be replaced. If None, only a star table or PSF may, by one of the
        same kind.
    how : str
        Option that allows replacing, for the error message.
    """
    if not path.exists() or overwrite:
        return
    what = ""
    if overwrite is None and kind is not None:
        if product_kind(path) == kind:
            return
        what = {
            "stars": " and is no star table of mlpsf",
            "psf": " and is no PSF",
            "report": " and is no report of mlpsf",
        }[kind]
    raise OutputError(f"{path} exists{what}. {how} replaces it.")


def product_kind(path: Path) -> str | None:
    """Return which product of mlpsf a file is, from its header.

    Parameters
    ----------
    path : Path

    Returns
    -------
    {"stars", "psf", "report", None}
        Star table, PSF in TRIPPy's format, page of mlpsf, or neither.
    """
    try:
        if not path.is_file():  # a pipe has no end
            return None
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    if head.startswith(b"SIMPLE  ="):
        if all(card in head for card in (b"REPFACT = ", b"ALPHA   = ", b"BETA    = ")):
            return "psf"
        return "stars" if b"HIERARCH MLPSF FRAME SHA256 = '" in head else None
    if head.startswith(b"<!doctype html>"):
        return "report" if b'<meta name="generator" content="mlpsf ' in head else None
    ours = (b"# frame_sha256: ", b"# - {frame_sha256: ")
    return "stars" if any(line.startswith(ours) for line in head.splitlines()) else None
