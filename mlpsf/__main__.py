"""Entry point of ``python -m mlpsf``, the same as ``mlpsf``."""

from mlpsf.cli.main import console

console()
