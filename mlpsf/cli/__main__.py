"""Entry point of ``python -m mlpsf.cli``, the same as ``mlpsf``."""

from mlpsf.cli.main import console

console()
