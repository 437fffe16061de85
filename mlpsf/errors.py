"""Exceptions raised by mlpsf.

Every exception derives from :class:`MlpsfError` and from a built-in one, so that
``except ValueError`` and ``except MlpsfError`` both work. A message says what was wrong, what was
expected, what was given, and what to try.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = [
    "CatalogueError",
    "FrameError",
    "FrameNotFoundError",
    "InputError",
    "MissingPackageError",
    "MlpsfError",
    "ModelFileError",
    "NoSourcesError",
    "OutputError",
    "PSFError",
    "TooFewStarsError",
    "printable",
]


def printable(text: object) -> str:
    r"""Return text with control characters and undecodable bytes as escapes; lines stay lines.

    Names of files and words of headers are others' text: on a terminal, an escape sequence among
    them would act.

    Examples
    --------
    >>> print(printable("a\x1b[2Jb.fits"))
    a\x1b[2Jb.fits
    """
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode()
        for c in str(text)
    )


class MlpsfError(Exception):
    """Base class of all mlpsf exceptions; the text of one is printable."""

    def __str__(self) -> str:
        return printable(super().__str__())


class InputError(MlpsfError, ValueError):
    """Raised if a parameter or an array is not valid."""


class FrameError(MlpsfError, ValueError):
    """Raised if a file or array is not a usable frame: not FITS, truncated, no image, all NaN."""


class FrameNotFoundError(FrameError, FileNotFoundError):
    """Raised if a file does not exist."""


class CatalogueError(MlpsfError, ValueError):
    """Raised if a catalogue cannot be read, has no positions, is empty or is off the frame."""


class NoSourcesError(MlpsfError, ValueError):
    """Raised if nothing was detected on the frame, or nothing that could be a star."""


class ModelFileError(MlpsfError, ValueError):
    """Raised if a file holds no model, or a model of another kind."""


class PSFError(MlpsfError, RuntimeError):
    """Raised if no PSF can be built from the stars."""


class OutputError(MlpsfError, OSError):
    """Raised if a result cannot be written to the given path."""


class MissingPackageError(MlpsfError, ImportError):
    """Raised if an optional package that the function needs is not installed."""


class TooFewStarsError(MlpsfError, RuntimeError):
    """Raised if fewer stars pass the selection than required.

    Attributes
    ----------
    found, wanted : int
        Number of stars above the threshold, and the least number required.
    threshold : float
        Probability threshold that was applied.
    enough_at : float
        Threshold that would give `wanted` stars; NaN if none would.
    table : astropy.table.Table or None
        The full star table with flags and reasons.
    """

    def __init__(
        self,
        message: str,
        *,
        found: int,
        wanted: int,
        threshold: float,
        enough_at: float,
        table: Table | None = None,
    ) -> None:
        super().__init__(message)
        self.found = found
        self.wanted = wanted
        self.threshold = threshold
        self.enough_at = enough_at
        self.table = table

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are unpickled by position. Without this, a pool hangs when a worker raises it.
        keywords = {k: getattr(self, k) for k in ("found", "wanted", "threshold", "enough_at")}
        return partial(type(self), str(self), **keywords, table=self.table), ()
