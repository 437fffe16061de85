"""Command line: every command calls one public function and writes its result.

Input: command-line arguments. Output: files, messages on stderr, an exit code. No other folder
imports this one.
"""

from mlpsf.cli.main import app, console, main

__all__ = ["app", "console", "main"]
