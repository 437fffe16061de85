"""DAOPHOT in IRAF, the programs of Debian's packages ``iraf`` and ``iraf-noao``.

The recipe is that of its user's guide (Davis 1994, A Reference Guide to the IRAF/DAOPHOT Package,
section 2): daofind, phot, pstselect, psf; then allstar and substar with the PSF stars excepted, and
psf again on what is left, twice.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import ArrayLike

from benchmarks.peers.astromatic import Extraction
from benchmarks.peers.common import SIDE, FloatArray, PeerPSF, cpu_clock
from mlpsf.errors import MissingPackageError, PSFError

_SCRIPT = """
set imtype = "fits"
set imextn = "oif:imh fxf:fits,fit plf:pl qpf:qp stf:hhh,??h"
noao
digiphot
daophot
datapars.fwhmpsf = {fwhm}
datapars.sigma = {sigma}
datapars.datamin = {low}
datapars.datamax = {high}
datapars.epadu = {gain}
datapars.readnoise = {read_noise}
centerpars.calgorithm = "centroid"
fitskypars.salgorithm = "mode"
fitskypars.annulus = {annulus}
fitskypars.dannulus = {width}
photpars.apertures = "{aperture}"
daopars.function = "auto"
daopars.varorder = 0
daopars.psfrad = {reach}
daopars.fitrad = {fwhm}
daopars.nclean = 3
daofind ("image.fits", "image.coo", threshold=5, verify=no, verbose=no, interactive=no)
phot ("image.fits", "image.coo", "image.mag", verify=no, verbose=no, interactive=no)
pstselect ("image.fits", "image.mag", "image.pst", 25, verify=no, verbose=no, interactive=no)
psf ("image.fits", "image.mag", "image.pst", "psf1.fits", "pst1", "psg1", verify=no, verbose=no, \
interactive=no)
allstar ("image.fits", "image.mag", "psf1.fits", "als1", "arj1", "sub1.fits", verify=no, \
verbose=no)
substar ("image.fits", "als1", "pst1", "psf1.fits", "rest1.fits", verify=no, verbose=no)
psf ("rest1.fits", "image.mag", "pst1", "psf2.fits", "pst2", "psg2", verify=no, verbose=no, \
interactive=no)
allstar ("image.fits", "image.mag", "psf2.fits", "als2", "arj2", "sub2.fits", verify=no, \
verbose=no)
substar ("image.fits", "als2", "pst2", "psf2.fits", "rest2.fits", verify=no, verbose=no)
psf ("rest2.fits", "image.mag", "pst2", "psf3.fits", "pst3", "psg3", verify=no, verbose=no, \
interactive=no)
seepsf ("psf3.fits", "look.fits", dimension={side}, xpsf=INDEF, ypsf=INDEF, magnitude=INDEF)
logout
"""


def build_daophot(extraction: Extraction) -> PeerPSF:
    """Build a PSF with DAOPHOT, from the stars that it chooses; its centred image only."""
    program = shutil.which("irafcl")
    if program is None:
        raise MissingPackageError("irafcl is not installed; apt-get install iraf iraf-noao")
    assert extraction.fwhm is not None
    frame, folder, fwhm = extraction.frame, extraction.folder, extraction.fwhm
    sky = frame.background
    noise, level = float(np.median(sky.rms)), float(np.median(sky.level))
    fits.writeto(folder / "image.fits", frame.data, overwrite=True)
    settings: dict[str, Any] = {
        "fwhm": round(fwhm, 2),
        "sigma": noise,
        "low": level - 7 * noise,
        "high": 0.9 * min(frame.saturation, 1e15),
        "gain": frame.gain if np.isfinite(frame.gain) else 1e6,
        "read_noise": frame.read_noise,
        "annulus": round(4 * fwhm, 1),
        "width": round(2.5 * fwhm, 1),
        "aperture": round(fwhm, 2),
        "reach": SIDE // 2,
        "side": SIDE,
    }
    (folder / "script.cl").write_text(_SCRIPT.format(**settings))
    with cpu_clock() as clock:
        try:
            done = subprocess.run(
                [program, "-f", "script.cl"],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=1200,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise PSFError("DAOPHOT took more than 20 minutes") from error
        seconds = clock()
    if not (folder / "look.fits").exists():
        raise PSFError(f"DAOPHOT failed: {done.stdout[-300:]} {done.stderr[-200:]}")
    look = fits.getdata(folder / "look.fits").astype(float)
    places = _places((folder / "pst3").read_text())

    def stamps(x_offset: ArrayLike, y_offset: ArrayLike, size: int) -> FloatArray:
        if np.any(x_offset) or np.any(y_offset) or size != look.shape[0]:
            raise PSFError("only the centred image of a DAOPHOT PSF is drawn")
        return look[None]

    return PeerPSF(stamps, places, seconds)


def _places(text: str) -> Table:
    """Return the positions of a list of PSF stars, 0-based."""
    rows = [line.split()[1:3] for line in text.splitlines() if line and line[0] != "#"]
    at = np.array(rows, dtype=float).reshape(-1, 2) - 1.0
    return Table({"x": at[:, 0], "y": at[:, 1]})
