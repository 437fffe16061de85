"""Progress messages of a command, on stderr."""

from __future__ import annotations

import sys
import time

import typer

__all__ = ["Progress"]


class Progress:
    """Show the current step on a terminal, and results unless quiet; nothing on stdout."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.live = not quiet and sys.stderr.isatty()
        self.start = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def __call__(self, step: str) -> None:
        """Show the current step and the elapsed seconds."""
        if self.live:
            self._clear()
            seconds = time.monotonic() - self.start
            typer.echo(f"[{seconds:4.1f} s] {step} ...", err=True, nl=False)

    def note(self, text: str) -> None:
        """Print a result on stderr."""
        if not self.quiet:
            self._clear()
            typer.echo(text, err=True)

    def _clear(self) -> None:
        if self.live:
            typer.echo("\r\x1b[K", err=True, nl=False)
