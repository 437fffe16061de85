"""What a FITS file says about its own size, checked before memory is taken for it.

A header of a few bytes can promise any number of pixels, and a few bytes can unpack to any number.
So the headers are looked at first: their axes must be those of an image, their pixels must be in
the file, and what a compressed file unpacks to must be no more than `MOST` times its size.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

from astropy.utils.exceptions import AstropyUserWarning

from mlpsf.errors import MlpsfError
from mlpsf.frames.io.packing import DAMAGE, is_packed, tiles_problem, unpacking

__all__ = ["FREE", "MOST", "check_fits", "check_tiles", "lost_hdus", "warn_of_loss"]

MOST = 100
"""Largest ratio of a compressed file's content to its size. Images with noise reach 20."""

FREE = 256 * 2**20
"""Bytes that any file may unpack to."""

_T = TypeVar("_T")
_BEGINS = (b"SIMPLE", b"XTENSI")
# Registered by the IAU: https://fits.gsfc.nasa.gov/iaufwg/
_KINDS = re.compile(rb"XTENSION= *'(IMAGE|TABLE|BINTABLE|IUEIMAGE|A3DTABLE|FOREIGN|DUMP) *'")

_WIDTH, _BLOCK = 80, 2880  # of a card, of a block of cards
_LONGEST = 1000  # blocks of a header; the longest real ones have some hundred
_MOST_HDUS = 5000  # astropy reads some thousand a second; real files have hundreds
_AXES = 999  # the standard's limit, of columns too
_KEY = re.compile(r"BITPIX|NAXIS\d{0,3}|PCOUNT|GCOUNT|ZBITPIX|ZNAXIS\d{0,3}|ZTILE\d{1,3}|TFIELDS")
_WHOLE = re.compile(r" *([+-]?\d+) *(?:/|$)")
_CARDS = (b"XTENSION= '", b"BITPIX  = ")
_AT_ONCE = 400 * _BLOCK  # of what is behind a file's HDUs


class _Content(NamedTuple):
    """What a file is found to hold."""

    problem: str = ""
    end: int | None = None
    """Where its HDUs end; None where nothing is known to follow them."""
    lost: str = ""
    """Where there seem to be HDUs that cannot be read, in words."""


def check_fits(path: Path, error: type[MlpsfError]) -> Path | BytesIO:
    """Return what astropy is to open as a FITS file; raise if it promises what it cannot hold.

    A file that is no FITS file, or is cut short, passes: reading it says so.

    Parameters
    ----------
    path : Path
        A regular file, plain or compressed.
    error : type
        Error to raise.

    Returns
    -------
    Path or BytesIO
        `path`, or the content of its HDUs, where it is packed or has something behind them. astropy
        would take that for headers, and does not see where a packed file ends.
    """
    found = _of(_content, path)
    if found.problem:
        raise error(
            f"{path.name} is damaged, or no readable FITS file: {found.problem}. Copy it again; if "
            "it is whole, save the image in a file of its own, not packed."
        )
    if found.end is None:
        return path
    try:
        with unpacking(path) as file:
            return BytesIO(file.read(found.end))
    except DAMAGE as damage:
        raise error(f"{path.name} is damaged: {damage}. Copy it again.") from damage


def lost_hdus(path: Path) -> str:
    """Return in words where a damaged file has HDUs that cannot be read; empty if nowhere.

    Parameters
    ----------
    path : Path
        As of `check_fits`, which it has passed.
    """
    return _of(_content, path).lost


def warn_of_loss(path: Path, *, stacklevel: int = 2) -> None:
    """Warn where a damaged file has HDUs that cannot be read; see `lost_hdus`."""
    if lost := lost_hdus(path):
        warnings.warn(
            f"{path.name} is damaged: {lost}. What it held there is missing. Copy or download it "
            "again.",
            AstropyUserWarning,
            stacklevel=stacklevel + 1,
        )


def check_tiles(path: Path, error: type[MlpsfError]) -> None:
    """Raise an error if compressed tiles would unpack to other numbers of pixels than they may.

    Parameters
    ----------
    path : Path
        As of `check_fits`, which it has passed.
    error : type
        Error to raise.
    """
    if problem := _of(_problem_of_tiles, path):
        raise error(f"{path.name} is damaged: {problem}. Copy it again.")


def _of(function: Callable[[Path, int, int], _T], path: Path) -> _T:
    """Call a function that remembers files as long as they are the same."""
    status = path.stat()
    return function(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _problem_of_tiles(path: Path, changed: int, size: int) -> str:  # noqa: ARG001
    return tiles_problem(check_fits(path, MlpsfError))


@lru_cache(maxsize=64)  # of a mosaic, every image is opened by itself
def _content(path: Path, changed: int, size: int) -> _Content:  # noqa: ARG001
    """Go through the headers of a file."""
    limit = max(MOST * size, FREE)
    packed = is_packed(path)
    try:
        with unpacking(path) as file:
            last, start, unknown, holds_data = 0, 0, "", False
            for number in range(_MOST_HDUS):
                header = _header(file)
                if header is None:
                    # Of one image alone, nothing can have been taken for its data.
                    data = last if number > 2 else start
                    rest = _rest(file, data, start, limit if packed else None)
                    return rest._replace(lost=rest.lost or unknown)
                if number and not _KINDS.match(header):
                    unknown = f"HDU {number} is of no known kind"
                problem, n_bytes = _problem_of_header(header, None if packed else size)
                end = start + len(header) + n_bytes
                if not problem and packed and end > limit:
                    problem = f"would unpack to {end:,} bytes or more, over {limit:,}"
                if problem:
                    problem = f"header {number} {problem}"
                    # What is before it can be read.
                    return _Content(end=start, lost=problem) if holds_data else _Content(problem)
                holds_data |= n_bytes > 0
                last = start + len(header)
                start = last + -(-n_bytes // _BLOCK) * _BLOCK
                file.seek(start)  # of a packed file, at most to its end
                if number and (file.tell() if packed else size) < end:
                    unknown = f"it ends in the data of HDU {number}"
            return _Content(f"it has more than {_MOST_HDUS:,} headers")
    except DAMAGE as error:
        return _Content(f"it cannot be unpacked ({error})" if packed else "")


def _rest(file: IO[bytes], last: int, start: int, most: int | None) -> _Content:
    """Return what a file holds that has no whole header at a place.

    The data of the HDU before it begin at `last`. Of a packed file `most` bytes are read. Of what
    is no FITS file the reader says what it is.
    """
    file.seek(start)
    block = file.read(_BLOCK)
    if not start:
        if len(block) == _BLOCK and block.startswith(_BEGINS):
            return _Content("its first header has no END")
        return _Content(end=None if most is None else min(most, FREE))
    inside = f"there is a header in the data from byte {last:,} on"
    if not block:
        # Going back in a packed file unpacks it again.
        lost = most is None and _header_after(file, last, start)[0]
        return _Content(end=most, lost=inside if lost else "")
    if block.startswith(_BEGINS):
        return _Content(end=start, lost=f"it ends in the header at byte {start:,}")
    found, blank = _header_after(file, start, most)
    if found:
        return _Content(
            end=start,
            lost=f"nothing can be read from byte {start:,} on, and what is before it may be wrong",
        )
    # What is no padding may be the end of an HDU whose header is in the data of the one before.
    lost = not blank and _header_after(file, last, start)[0]
    return _Content(end=start, lost=inside if lost else "")


def _header_after(file: IO[bytes], start: int, end: int | None) -> tuple[bool, bool]:
    """Return whether there are cards of a header in a part of a file, and whether it is blank."""
    file.seek(start)
    at, tail, blank = start, b"", True
    while block := file.read(min(_AT_ONCE, max(end - at, 0) if end is not None else _AT_ONCE)):
        # The second card of every header; the first may be what is damaged. Bytes that were lost
        # or added move both off the blocks.
        here = tail + block
        if any(card in here for card in _CARDS):
            return True, False
        at, tail = at + len(block), block[-_WIDTH:]
        blank &= not block.strip(b"\0 ")
    return False, blank


def _problem_of_header(header: bytes, size: int | None) -> tuple[str, int]:
    """Return what is wrong with a header, and the bytes of its data.

    Without the size of its file, any number of bytes may be.
    """
    if not header:
        return f"has more than {_LONGEST} blocks", 0
    known = _KINDS.match(header)
    kind = known[1] if known else b""
    cards: dict[str, int] = {}
    for key, text in _cards(header):
        if _KEY.fullmatch(key):
            number = _WHOLE.match(text)
            if number is None or cards.setdefault(key, int(number[1])) != int(number[1]):
                # astropy would multiply what is no number, or take another of two.
                return f"does not say what its {key} is", 0
    for key, what in (("NAXIS", "axes"), ("ZNAXIS", "axes"), ("TFIELDS", "columns")):
        # astropy goes through all that a header says that it has.
        if not 0 <= cards.get(key, 0) <= _AXES:
            return f"says that it has {cards[key]} {what}, 0 to {_AXES} may be", 0
    for key, value in cards.items():
        if value < 0 and not key.endswith("BITPIX"):
            # astropy would go back to the header before, and never come to an end.
            return f"has a negative {key}", 0
    if cards.get("GCOUNT", 1) == 0:  # astropy would take the data for the next header
        return "has a GCOUNT of 0", 0
    if missing := next((key for key in _needed(kind, cards) if key not in cards), ""):
        return f"has no {missing}", 0
    if cards["BITPIX"] not in (8, 16, 32, 64, -32, -64):
        return f"has pixels of {cards['BITPIX']} bits", 0
    if kind == b"IMAGE" and (cards.get("PCOUNT", 0), cards.get("GCOUNT", 1)) != (0, 1):
        return "is of an image with a PCOUNT or a GCOUNT of its own", 0
    pixels = _product(cards, "NAXIS")
    n_bytes = abs(cards["BITPIX"]) // 8 * cards.get("GCOUNT", 1)
    # Without axes there is no data, whatever the PCOUNT.
    n_bytes *= pixels + cards.get("PCOUNT", 0) if cards["NAXIS"] else 0
    if size is not None and n_bytes > 2 * size + FREE:
        return f"promises {n_bytes:,} bytes, the file has {size:,}", 0
    unpacked = _product(cards, "ZNAXIS") * (abs(cards.get("ZBITPIX", 8)) // 8)
    if unpacked > max(MOST * n_bytes, FREE):
        return f"promises {unpacked:,} bytes of {n_bytes:,} packed ones", 0
    if any(cards.get(f"ZTILE{k}", 1) < 1 for k in range(1, cards.get("ZNAXIS", 0) + 1)):
        return "has tiles without pixels", 0
    return "", n_bytes


def _needed(kind: bytes, cards: dict[str, int]) -> Iterator[str]:
    """Yield the keywords of sizes that a header must have."""
    packed = not cards.keys().isdisjoint({"ZBITPIX", "ZNAXIS"})  # an image; tables have neither
    for prefix in ("", "Z") if packed else ("",):
        yield f"{prefix}BITPIX"
        yield f"{prefix}NAXIS"
        yield from (f"{prefix}NAXIS{k}" for k in range(1, cards.get(f"{prefix}NAXIS", 0) + 1))
    if kind.endswith(b"TABLE"):
        yield "TFIELDS"


def _cards(header: bytes) -> Iterator[tuple[str, str]]:
    """Yield the keywords of a header as astropy understands them, and what is behind the '='."""
    text = header.decode("ascii", "replace")
    for i in range(0, len(text), _WIDTH):
        key, _, value = text[i : i + _WIDTH].partition("=")
        yield key.upper().removeprefix("HIERARCH ").strip(), value


def _product(cards: dict[str, int], name: str) -> int:
    """Return the number of pixels of an array; 0 without axes."""
    total = 1 if cards.get(name, 0) else 0
    for k in range(1, cards.get(name, 0) + 1):
        total *= max(cards.get(f"{name}{k}", 0), 0)
        if total > 2**80:  # of a product of many, more says nothing
            break
    return total


def _header(file: IO[bytes]) -> bytes | None:
    """Read a header's blocks to its END; None where there is none, b"" of one that is too long."""
    blocks: list[bytes] = []
    for _ in range(_LONGEST):
        block = file.read(_BLOCK)
        if len(block) < _BLOCK or not (blocks or block.startswith(_BEGINS)):
            return None
        if blocks and block.startswith(b"XTENSION"):  # the next one: the END of this is damaged
            return None
        blocks.append(block)
        if any(block[i : i + 8] == b"END     " for i in range(0, _BLOCK, _WIDTH)):
            return b"".join(blocks)
    return b""
