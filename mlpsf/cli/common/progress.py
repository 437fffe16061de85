"""What a command says: steps and results on stderr, and JSON for scripts on stdout."""

from __future__ import annotations

import json
import math
import sys
import time
from contextlib import suppress
from typing import Any

import typer

from mlpsf.cli.common.groups import General
from mlpsf.cli.common.telling import tell

__all__ = ["Progress", "plain"]

_SHARES = {
    "reading": 0.1,
    "finding sources": 0.6,
    "judging sources": 0.3,
    "looking again": 0.2,
    "making the PSF": 1.0,
    "judging the PSF": 0.3,
    "drawing": 1.5,
}
"""How long the steps take in proportion; no more than a guess of the time left is made of it."""

_SAID_AFTER = 2.0  # seconds after which the time left is said


class Progress:
    """Show the current step on a terminal, and results unless quiet.

    Parameters
    ----------
    general : General or bool
        The options of the command; a bool is whether to be quiet.
    steps : sequence of str
        The steps to come, where the time left may be guessed from them.
    """

    asked_for_json = False  # by the command, or by its settings

    def __init__(self, general: General | bool, steps: tuple[str, ...] = ()) -> None:
        self.general = general if isinstance(general, General) else General(quiet=general)
        self.quiet = self.general.quiet
        Progress.asked_for_json = self.general.as_json
        self.live = not self.quiet and not self.general.verbose and sys.stderr.isatty()
        self.steps = steps
        self.start = time.monotonic()
        self.step: str | None = None
        self.step_start = self.start
        self.seconds: dict[str, float] = {}
        _warn_in_one_voice()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._end_step()
        self._clear()

    def __call__(self, step: str) -> None:
        """Begin a step: show it with the elapsed seconds and, if known, those left."""
        self._end_step()
        self.step, self.step_start = step, time.monotonic()
        if self.live:
            self._clear()
            text = f"[{self.step_start - self.start:4.1f} s] {step} ...{self._left(step)}"
            typer.echo(text, err=True, nl=False)

    def note(self, *lines: str) -> None:
        """Print a result on stderr."""
        self._end_step()
        if not self.quiet:
            self._clear()
            tell(*lines)

    def result(self, **values: Any) -> None:
        """Print a result as a line of JSON on stdout, if that was asked for."""
        if self.general.as_json:
            self._clear()
            typer.echo(json.dumps({name: plain(value) for name, value in values.items()}))

    def _end_step(self) -> None:
        if self.step is None:
            return
        now = time.monotonic()
        self.seconds[self.step] = now - self.step_start
        if self.general.verbose:
            took = now - self.step_start
            typer.echo(f"[{now - self.start:6.2f} s] {self.step}: {took:.2f} s", err=True)
        self.step = None

    def _left(self, step: str) -> str:
        """Return the time left in words, by the time that the steps before took."""
        elapsed = self.step_start - self.start
        if elapsed < _SAID_AFTER or step not in self.steps:
            return ""
        at = self.steps.index(step)
        done, left = (
            sum(_SHARES.get(name, 0.3) for name in names)
            for names in (self.steps[:at], self.steps[at:])
        )
        number = f" step {at + 1} of {len(self.steps)}"
        return f"{number}, some {elapsed * left / done:.0f} s left" if done else number

    def _clear(self) -> None:
        if self.live:
            typer.echo("\r\x1b[K", err=True, nl=False)


def _warn_in_one_voice() -> None:
    """Let astropy's warnings be said as all others are; its own logger would add where from."""
    from astropy import log
    from astropy.logger import LoggingError

    if log.warnings_logging_enabled():
        with suppress(LoggingError):  # someone else shows warnings already
            log.disable_warnings_logging()


def plain(value: Any) -> Any:
    """Return a value as JSON knows it: NaN and infinity are null, paths are text."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if isinstance(value, bool | int | str | None) else str(value)
