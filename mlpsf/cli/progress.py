"""What a command says while it works, on stderr."""

from __future__ import annotations

import sys
import time

import typer

__all__ = ["Progress"]


class Progress:
    """Say on a terminal which step is at work; say results unless quiet; nothing on stdout."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.live = not quiet and sys.stderr.isatty()
        self.start = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def __call__(self, step: str) -> None:
        """Show which step is at work, and the seconds so far."""
        if self.live:
            self._clear()
            seconds = time.monotonic() - self.start
            typer.echo(f"[{seconds:4.1f} s] {step} ...", err=True, nl=False)

    def note(self, text: str) -> None:
        """Print a line of result on stderr."""
        if not self.quiet:
            self._clear()
            typer.echo(text, err=True)

    def _clear(self) -> None:
        if self.live:
            typer.echo("\r\x1b[K", err=True, nl=False)
