"""The command line: every command calls one public function and writes what it returns.

Comes in: what was typed. Goes out: files, lines on stderr, an exit code. No other folder imports
this one.
"""

from mlpsf.cli.main import app, console, main

__all__ = ["app", "console", "main"]
