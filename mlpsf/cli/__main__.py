"""Entry point of ``python -m mlpsf.cli``, as before ``python -m mlpsf``."""

from mlpsf.cli.main import console

console()
