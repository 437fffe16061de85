"""Draw the picture of the README: ``python -m benchmarks picture [FRAME]``."""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure

from mlpsf import build_psf, read_frame, select_stars, simulate_frame
from mlpsf.plots import CutoutSheetDisplay, PSFDisplay, StarMapDisplay


def main() -> None:
    """Choose, build and draw."""
    if len(sys.argv) > 1:
        frame = read_frame(sys.argv[1])
    else:
        frame = simulate_frame(
            shape=(1536, 1536), n_stars=1500, n_galaxies=800, e1=0.02, seed=1
        ).frame
    stars = select_stars(frame)
    model = build_psf(frame, stars)
    figure = Figure(figsize=(15, 5.4), layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=[1.05, 1, 0.6])
    StarMapDisplay.from_stars(frame, stars, ax=left.subplots(), others=False)
    CutoutSheetDisplay.from_stars(frame, stars, figure=middle)
    PSFDisplay.from_model(model, axes=right.subplots(2, 1))
    path = Path(__file__).parents[1] / "figures" / "selection.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=75)
    print(path)
