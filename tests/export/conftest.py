"""A frame with its stars and PSF, a PSF that varies, and the programs that open what is written."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from doors_help import Varying

from mlpsf.export import write_stars
from mlpsf.pipeline import select_stars
from mlpsf.psf import build_psf
from mlpsf.simulation import simulate_frame


@pytest.fixture(scope="session")
def varying():
    return Varying()


@pytest.fixture(scope="session")
def scene():
    """A frame of single stars, with its star table and its PSF."""
    sim = simulate_frame(
        shape=(600, 640),
        fwhm=4.0,
        e1=0.03,
        n_stars=120,
        n_galaxies=20,
        flux_range=(2e4, 6e5),
        cosmic_rays=0,
        hot_pixels=0,
        bad_columns=0,
        seed=5,
    )
    stars = select_stars(sim.frame, reserve=0.1)
    return sim, stars, build_psf(sim.frame, stars)


@pytest.fixture(scope="session")
def written(scene, tmp_path_factory):
    """The scene in files: frame.fits (one image), stars.ecsv, psf.fits."""
    sim, stars, psf = scene
    folder = tmp_path_factory.mktemp("scene")
    sim.write(folder / "frame.fits")
    write_stars(stars, folder / "stars.ecsv")
    psf.save(folder / "psf.fits")
    return folder


@pytest.fixture
def program(tmp_path):
    """Give a function that runs a program in a folder of its own, or skips where it is not."""

    def run(name, *words, stdin=None):
        if shutil.which(name) is None:
            pytest.skip(f"the program {name} is not installed")
        return subprocess.run(
            [name, *map(str, words)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            input=stdin,
            timeout=120,
        )

    return run


@pytest.fixture
def iraf(program, tmp_path):
    """Give a function that runs tasks of IRAF's DAOPHOT."""

    def run(*lines):
        packages = ["set imtype = fits", "images", "noao", "digiphot", "daophot"]
        Path(tmp_path / "script.cl").write_text("\n".join([*packages, *lines, "logout", ""]))
        return program("irafcl", "-f", "script.cl")

    return run
