"""Simulated frames that several tests look at, each drawn once, and where the real ones are."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

# Tests run side by side, and the threads of each process's BLAS would wait for one another. NumPy
# reads this when it is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings

REAL_FRAMES = "MLPSF_REAL_FRAMES"

FLOAT32 = {"rtol": 2e-5, "atol": 1e-9}
"""Tolerance of probabilities that came of the same pixels in other company or another process.

A network sums in single precision, 6e-8 of the largest terms, in an order that batch, threads and
instruction set decide: its log-odds hold to 1e-5 (3e-6 was seen), to twice that when calibrated.
Where log-odds change by x, a probability changes by x times itself at most.
"""

# The same examples in every run.
settings.register_profile("seeded", derandomize=True, deadline=None)
settings.load_profile("seeded")


@contextmanager
def run_eagerly():
    """Let TensorFlow compile no graph: for a tiny fit, that takes longer than the fit."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.fixture
def eager():
    """Run a test without graphs."""
    with run_eagerly():
        yield


def simulate(**parameters):
    pytest.importorskip("galsim")
    from mlpsf.simulation import simulate_frame

    return simulate_frame(**parameters)


@pytest.fixture(scope="session")
def field():
    """A common frame: stars, pairs, galaxies, cosmic rays, hot pixels; FWHM 4."""
    return simulate(
        shape=(500, 520),
        fwhm=4.0,
        e1=0.03,
        n_stars=80,
        n_galaxies=40,
        n_pairs=9,
        flux_range=(2e4, 1e6),
        cosmic_rays=15,
        hot_pixels=10,
        bad_columns=0,
        seed=5,
    )


@pytest.fixture(scope="session")
def star_field():
    """Give a function that draws isolated stars on a sloping sky, once for every FWHM."""
    drawn = {}

    def draw(fwhm):
        if fwhm not in drawn:
            step, n = int(12 * fwhm) + 10, 7
            y, x = np.mgrid[:n, :n] * float(step) + step / 2
            shift = np.random.default_rng(1).uniform(-0.5, 0.5, (2, n, n))
            flux = np.full((n, n), 2e5 * (fwhm / 4) ** 2)
            stars = np.stack([x + shift[0], y + shift[1], flux], axis=-1).reshape(-1, 3)
            drawn[fwhm] = simulate(
                shape=(n * step, n * step),
                fwhm=fwhm,
                stars=stars,
                n_galaxies=0,
                cosmic_rays=0,
                hot_pixels=0,
                bad_columns=0,
                seed=1,
            )
        return drawn[fwhm]

    return draw


@pytest.fixture
def field_file(field, tmp_path):
    """Write the common frame to a file."""
    path = tmp_path / "field.fits"
    field.write(path)
    return path


@pytest.fixture(scope="session")
def real_frames():
    """Folder of real frames; what needs it is skipped without it."""
    folder = os.environ.get(REAL_FRAMES)
    if not folder:
        pytest.skip(f"the environment variable {REAL_FRAMES} names no folder of real frames")
    path = Path(folder)
    if not path.is_dir():
        pytest.skip(f"{REAL_FRAMES} = {folder!r} is no folder")
    return path


@pytest.fixture(scope="session")
def scene():
    """A frame of single stars, with its star table and its PSF."""
    from mlpsf.pipeline import select_stars
    from mlpsf.psf import build_psf

    sim = simulate(
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
    from mlpsf.export import write_stars

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


HOSTILE = "\"><script>window.hurt=1</script><img src=x onerror='window.hurt=1'>; rm $HOME #.fits"
"""Name of a file that wishes ill to whoever shows it."""


@pytest.fixture(scope="session")
def hostile(scene):
    """The scene under a name and with an OBJECT that are code."""
    sim, stars, psf = scene
    frame = dataclasses.replace(sim.frame, name=HOSTILE, header=sim.frame.header.copy())
    frame.header["OBJECT"] = "</title></style></script><script>window.hurt = 1</script>"
    stars = stars.copy()
    stars.meta["frame"] = HOSTILE
    return frame, stars, psf


@pytest.fixture(scope="session")
def page(hostile, tmp_path_factory):
    """The report of that scene, in a file."""
    from mlpsf.report import write_report

    frame, stars, psf = hostile
    path = tmp_path_factory.mktemp("page") / "report.html"
    return write_report(path, frame, stars, psf, warnings=["<b>bold</b> words"])


@pytest.fixture
def hanging_disk(monkeypatch, tmp_path_factory):
    """Let other processes wait at a FIFO as at a disk that does not answer."""
    folder = tmp_path_factory.mktemp("hanging")
    (folder / "sitecustomize.py").write_text(
        "import os, pathlib, stat, time\n"
        "is_file = pathlib.Path.is_file\n"
        "def hang(self, *arguments, **keywords):\n"
        "    if os.path.exists(self) and stat.S_ISFIFO(os.stat(self).st_mode):\n"
        "        time.sleep(1000)\n"
        "    return is_file(self, *arguments, **keywords)\n"
        "pathlib.Path.is_file = hang\n"
    )
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
