"""The frame of the doors in files, with its stars and its PSF, and how tools are run on it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from astropy.io import fits
from astropy.table import Table
from scipy.spatial import cKDTree

from mlpsf.cli.main import app
from mlpsf.export import write_stars
from mlpsf.pipeline import select_stars
from mlpsf.psf import PSFModel, build_psf
from mlpsf.simulation import simulate_frame

_FIVE = ((0.5, 0.5), (0.05, 0.05), (0.95, 0.06), (0.04, 0.95), (0.96, 0.94))


class NotInstalledError(Exception):
    """The tool of a door is not installed."""


@dataclass
class Case:
    """A frame in files, with its stars and its PSF."""

    folder: Path
    variation: float
    seed: int

    @cached_property
    def sim(self) -> Any:
        """The frame and its truth; in ``frame.fits`` its pixels alone."""
        sim = simulate_frame(
            shape=(1000, 1100),
            fwhm=4.0,
            e1=0.03,
            n_stars=250,
            n_galaxies=40,
            flux_range=(2e4, 6e5),
            cosmic_rays=0,
            hot_pixels=0,
            bad_columns=0,
            psf_variation=self.variation,
            seed=self.seed,
        )
        sim.write(self.folder / "frame.fits")
        fits.writeto(self.folder / "pixels.fits", sim.frame.data)
        return sim

    @cached_property
    def stars(self) -> Table:
        """The star table, in ``stars.ecsv``."""
        stars = select_stars(self.sim.frame)
        write_stars(stars, self.folder / "stars.ecsv")
        return stars

    @cached_property
    def psf(self) -> PSFModel:
        """The PSF, in ``psf.fits``."""
        psf = build_psf(self.sim.frame, self.stars)
        psf.save(self.folder / "psf.fits")
        return psf

    @property
    def places(self) -> list[tuple[float, float]]:
        """The middle of the frame and near its corners."""
        ny, nx = self.sim.frame.shape
        return [(nx * a - 0.5, ny * b - 0.5) for a, b in _FIVE]

    def export(self, source: str, to: str, out: str, *words: Any) -> Path:
        """Run ``mlpsf export``."""
        line = ["export", self.folder / source, "--to", to, "--out", self.folder / out, "-q"]
        line += ["--frame", self.folder / "frame.fits", *words]
        app(list(map(str, line)), standalone_mode=False)
        return self.folder / out

    def run(self, *words: Any) -> None:
        """Run a program in the folder."""
        if shutil.which(str(words[0])) is None:
            raise NotInstalledError(f"{words[0]} is not installed")
        done = subprocess.run(
            list(map(str, words)), cwd=self.folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError((done.stderr or done.stdout)[-200:])

    def iraf(self, *lines: str) -> None:
        """Run tasks of IRAF's DAOPHOT."""
        head = ["set imtype = fits", "images", "noao", "digiphot", "daophot"]
        (self.folder / "script.cl").write_text("\n".join([*head, *lines, "logout", ""]))
        self.run("irafcl", "-f", "script.cl")

    def fluxes(self, x: Any, y: Any, flux: Any) -> str:
        """Compare measured fluxes with the truth, for bright stars that are alone."""
        truth = self.sim.truth
        xy = np.column_stack([truth["x"], truth["y"]])
        alone = cKDTree(xy).query(xy, k=2)[0][:, 1] > 25
        good = alone & (truth["kind"] == "star") & (truth["flux"] > 5e4) & ~truth["saturated"]
        distance, row = cKDTree(np.column_stack([x, y])).query(xy[good])
        near = distance < 0.5
        ratio = np.asarray(flux)[row[near]] / np.asarray(truth["flux"])[good][near] - 1
        scatter = 1.4826 * np.median(np.abs(ratio - np.median(ratio)))
        return (
            f"flux {100 * np.median(ratio):+.2f} % of truth, median of {near.sum()} stars "
            f"(scatter {100 * scatter:.2f} %)"
        )


def need(name: str) -> Any:
    """Import a package, or say that it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise NotInstalledError(f"{name} is not installed") from error


def daophot_settings(case: Case) -> list[str]:
    """Return the lines that tell DAOPHOT of the frame."""
    return [
        "datapars.fwhmpsf = 4",
        f"datapars.epadu = {case.sim.frame.gain}",
        f"datapars.datamax = {0.98 * case.sim.frame.saturation}",
        'daopars.function = "auto"',
        "daopars.varorder = 0",
        f"daopars.psfrad = {case.psf.size // 2}",
        "daopars.fitrad = 4",
        'photpars.apertures = "6"',
    ]


Doors: TypeAlias = tuple[tuple[str, str, Callable[[Case], str]], ...]
"""Format, what is run on it, the function that does."""
