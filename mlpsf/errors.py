"""What can go wrong, as one small tree.

Every error is an :class:`MlpsfError` and also the built-in that a user would catch, so that
``except ValueError`` and ``except MlpsfError`` both work. A message says what was wrong, what was
expected, what was got, and what to try.
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
]


class MlpsfError(Exception):
    """Base of every error that mlpsf raises on purpose."""


class InputError(MlpsfError, ValueError):
    """A parameter or an array is not what the function takes."""


class FrameError(MlpsfError, ValueError):
    """A file or an array is no usable frame: not FITS, cut short, no image in it, all NaN."""


class FrameNotFoundError(FrameError, FileNotFoundError):
    """There is no such file."""


class CatalogueError(MlpsfError, ValueError):
    """A catalogue cannot be read, has no x and y, is empty, or lies off the frame."""


class NoSourcesError(MlpsfError, ValueError):
    """Nothing was detected on the frame, or nothing that could be a star."""


class ModelFileError(MlpsfError, ValueError):
    """A file holds no model, or one of another kind."""


class PSFError(MlpsfError, RuntimeError):
    """No point spread function can be made from these stars."""


class OutputError(MlpsfError, OSError):
    """A result cannot be written where it was asked to go."""


class MissingPackageError(MlpsfError, ImportError):
    """An optional package that this function needs is not installed."""


class TooFewStarsError(MlpsfError, RuntimeError):
    """Fewer stars pass the selection than were asked for.

    Attributes
    ----------
    found, wanted : int
        Stars above the threshold, and the least number asked for.
    threshold : float
        The probability they had to reach.
    enough_at : float
        The threshold that would give `wanted` stars; NaN when no threshold would.
    table : astropy.table.Table or None
        The whole star table, flags and reasons included, so that nothing is lost.
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
        # Exceptions are unpickled by position; without this, a pool's worker that raises it hangs.
        keywords = {k: getattr(self, k) for k in ("found", "wanted", "threshold", "enough_at")}
        return partial(type(self), str(self), **keywords, table=self.table), ()
