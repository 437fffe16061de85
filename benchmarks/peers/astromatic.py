"""SExtractor and PSFEx, the programs of Debian's packages ``source-extractor`` and ``psfex``.

The settings are those of PSFEx's documentation (Getting started; How PSFEx works) and of the
configuration that it ships.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import ArrayLike

from benchmarks.peers.common import SIDE, FloatArray, PeerPSF, cpu_clock, match_rows
from mlpsf.detection.sources import find_sources
from mlpsf.errors import MissingPackageError, PSFError
from mlpsf.frames.frame import Frame

_VIGNET = SIDE + 4  # a star off its pixel's centre must still fill the box
_CONV = "CONV NORM\n# FWHM 2 pixels, SExtractor's default.conv\n1 2 1\n2 4 2\n1 2 1\n"


@dataclass
class Extraction:
    """A run of SExtractor on a frame, shared by the builders that start from its catalogue.

    Use it as a context manager: its folder is removed at the end.

    Parameters
    ----------
    frame : Frame
    fwhm : float, optional
        Of the frame's stars, in pixels; measured unless given.
    sky : float, optional
        A constant sky, where it is known; SExtractor's mesh of 64 pixels unless given.
    """

    frame: Frame
    fwhm: float | None = None
    sky: float | None = None
    seconds: float = 0.0
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="mlpsf-peers-")))

    def __enter__(self) -> Extraction:
        if self.fwhm is None:
            self.fwhm = float(find_sources(self.frame).meta["fwhm"])
        return self

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def catalogue(self) -> Path:
        """The FITS_LDAC catalogue; SExtractor runs when it is first asked for."""
        path = self.folder / "stars.cat"
        if not path.exists():
            self._run(path)
        return path

    def _run(self, path: Path) -> None:
        assert self.fwhm is not None
        frame, folder = self.frame, self.folder
        gain = frame.gain if np.isfinite(frame.gain) else 0.0  # infinite, to SExtractor
        header = fits.Header({"GAIN": gain, "SATURATE": min(frame.saturation, 1e15)})
        fits.writeto(folder / "image.fits", frame.data, header, overwrite=True)
        (folder / "default.conv").write_text(_CONV)
        (folder / "prepsfex.param").write_text(
            f"VIGNET({_VIGNET},{_VIGNET})\nX_IMAGE\nY_IMAGE\nFLUX_RADIUS\nSNR_WIN\nFLUX_APER(1)\n"
            "FLUXERR_APER(1)\nELONGATION\nFLAGS\nXWIN_IMAGE\nYWIN_IMAGE\nFLUX_AUTO\n"
            "FLUXERR_AUTO\nFLUX_MAX\nCLASS_STAR\n"
        )
        settings = {
            # prepsfex.sex, which PSFEx ships: "a fairly conservative threshold".
            "CATALOG_TYPE": "FITS_LDAC",
            "CATALOG_NAME": path.name,
            "PARAMETERS_NAME": "prepsfex.param",
            "DETECT_MINAREA": 3,
            "DETECT_THRESH": 4,
            "ANALYSIS_THRESH": 4,
            "FILTER_NAME": "default.conv",
            # "A diameter of 5 arcsec is often a good compromise", at a FWHM under 1.2 arcsec.
            "PHOT_APERTURES": round(5.0 / 1.2 * self.fwhm, 1),
            # "It is always safer to give a level about 10 % lower than the lowest value".
            "SATUR_KEY": "DUMMY",
            "SATUR_LEVEL": min(0.9 * frame.saturation, 1e15),
            "GAIN_KEY": "GAIN",
            "PIXEL_SCALE": 1.0,
            "SEEING_FWHM": round(self.fwhm, 2),
            "STARNNW_NAME": "/usr/share/source-extractor/default.nnw",
            "CHECKIMAGE_TYPE": "BACKGROUND,BACKGROUND_RMS",
            "CHECKIMAGE_NAME": "sky.fits,rms.fits",
            # Room for crowded fields; changes no result.
            "MEMORY_PIXSTACK": 5_000_000,
            "MEMORY_OBJSTACK": 30_000,
            "VERBOSE_TYPE": "QUIET",
        }
        if self.sky is not None:
            settings |= {"BACK_TYPE": "MANUAL", "BACK_VALUE": self.sky}
        if frame.mask.any():
            weight = (~frame.mask).astype(np.float32)
            fits.writeto(folder / "weight.fits", weight, overwrite=True)
            settings |= {"WEIGHT_TYPE": "MAP_WEIGHT", "WEIGHT_IMAGE": "weight.fits"}
        with cpu_clock() as clock:
            run_program("source-extractor", ["image.fits"], settings, folder)
            self.seconds = clock()

    def table(self) -> Table:
        """Read the catalogue without its stamps."""
        with fits.open(self.catalogue) as units:
            rows = units["LDAC_OBJECTS"].data
            return Table({n: np.array(rows[n]) for n in rows.names if n != "VIGNET"})

    def sky_noise(self) -> float:
        """Median standard deviation of the sky."""
        _ = self.catalogue
        return float(np.median(fits.getdata(self.folder / "rms.fits")))


def run_program(name: str, words: list[str], settings: dict[str, Any], folder: Path) -> None:
    """Run a program of the AstrOmatic family with settings on its command line."""
    if shutil.which(name) is None:
        raise MissingPackageError(f"{name} is not installed; on Debian: apt install {name}")
    (folder / "empty.conf").write_text("")
    command = [name, *words, "-c", "empty.conf"]
    for key, value in settings.items():
        command += [f"-{key}", str(value)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PSFError(f"{name} failed: {(done.stderr or done.stdout).strip()[-400:]}")


def _lanczos4(offset: FloatArray) -> FloatArray:
    return np.where(np.abs(offset) < 4, np.sinc(offset) * np.sinc(offset / 4), 0.0)


def psfex_stamps(table: FloatArray, step: float) -> Callable[..., FloatArray]:
    """Give the function that draws PSFEx's PSF, by its own rule of interpolation.

    Its table holds what a pixel centred there takes, pixel response included, `step` image
    pixels apart, the star on the middle cell; between cells it is Lanczos-4 (How PSFEx works,
    eq. 1): nothing is integrated.
    """
    cells = np.arange(len(table)) - len(table) // 2

    def stamps(x_offset: ArrayLike, y_offset: ArrayLike, size: int) -> FloatArray:
        dx, dy = (np.atleast_1d(np.asarray(v, dtype=float)) for v in (x_offset, y_offset))
        pixel = np.arange(size) - size // 2
        wx, wy = (_lanczos4(cells - ((pixel - v[:, None]) / step)[:, :, None]) for v in (dx, dy))
        return np.asarray(wy @ table @ np.swapaxes(wx, 1, 2))

    return stamps


def run_psfex(extraction: Extraction, catalogue: Path, more: dict[str, Any] | None = None) -> Path:
    """Make a constant PSF of a catalogue in the extraction's folder; return PSFEx's file."""
    assert extraction.fwhm is not None
    settings: dict[str, Any] = {
        # All that is not here is at PSFEx's default: PIXEL_AUTO, PSF_SAMPLING 0, PSF_ACCURACY
        # 0.01, a minimum S/N of 20, FLAGS masked by 0x00fe.
        "PSFVAR_DEGREES": 0,
        # The automatic step is about FWHM / 4.7; four cells more than the vignette holds are the
        # reach of the interpolation.
        "PSF_SIZE": ",".join([str(2 * math.ceil(_VIGNET / 2 * 4.7 / extraction.fwhm) + 9)] * 2),
        # The default ends at 10 pixels, short of these frames' wider stars.
        "SAMPLE_FWHMRANGE": "2.0,20.0",
        "OUTCAT_TYPE": "FITS_LDAC",
        "OUTCAT_NAME": "used.cat",
        "CHECKPLOT_TYPE": "NONE",
        "CHECKIMAGE_TYPE": "NONE",
        "WRITE_XML": "N",
        "VERBOSE_TYPE": "QUIET",
    }
    run_program("psfex", [catalogue.name], settings | (more or {}), extraction.folder)
    return catalogue.with_suffix(".psf")


def read_psfex(path: Path) -> tuple[Callable[..., FloatArray], Callable[..., FloatArray]]:
    """Return what draws the PSF of PSFEx's file: that of the polynomial's zero, and of places."""
    with fits.open(path) as units:
        unit = units["PSF_DATA"]
        terms = np.asarray(unit.data["PSF_MASK"][0], dtype=float)
        table, made = terms[0], int(unit.header.get("POLDEG1", 0))
        zero, scale = (
            [float(unit.header.get(f"{k}{i}", 1)) for i in (1, 2)] for k in ("POLZERO", "POLSCAL")
        )
        step, n = float(unit.header["PSF_SAMP"]), int(unit.header["ACCEPTED"])
    if n == 0 or not table.sum() > 0:
        raise PSFError("PSFEx accepted no star")

    def at(x: float, y: float, size: int, dx: float = 0.0, dy: float = 0.0) -> FloatArray:
        # It counts from 1, and the powers of x run fastest. Few stars lower the degree.
        u, v = (x + 1 - zero[0]) / scale[0], (y + 1 - zero[1]) / scale[1]
        powers = [u**i * v**j for j in range(made + 1) for i in range(made + 1 - j)]
        here = np.tensordot(powers, terms, 1)
        return np.asarray(psfex_stamps(here, step)([dx], [dy], size)[0])

    return psfex_stamps(table, step), at


def build_psfex(extraction: Extraction, stars: Table | None = None, degree: int = 0) -> PeerPSF:
    """Build a PSF with PSFEx, from its automatic selection or from given stars.

    `degree` is that of its polynomial over the frame; `PeerPSF.stamps` is of the polynomial's zero.
    """
    assert extraction.fwhm is not None
    folder, catalogue = extraction.folder, extraction.catalogue
    settings: dict[str, Any] = {"PSFVAR_DEGREES": degree}
    if stars is not None:
        chosen = folder / "chosen.cat"
        with fits.open(catalogue) as units:
            rows = units["LDAC_OBJECTS"].data
            keep = match_rows(rows["X_IMAGE"] - 1, rows["Y_IMAGE"] - 1, stars)
            if len(keep) == 0:
                raise PSFError("none of the stars is in SExtractor's catalogue")
            width = 2.0 * float(np.median(rows["FLUX_RADIUS"][keep]))
            units["LDAC_OBJECTS"].data = rows[keep]
            units.writeto(chosen, overwrite=True)
        catalogue = chosen
        # The list's author answers for it: PSFEx's cuts are off, its clipping goes on.
        settings |= {
            "SAMPLE_AUTOSELECT": "N",
            # Without the automatic choice its middle is what sets the step: the same as there.
            "SAMPLE_FWHMRANGE": f"{0.1 * width:.3f},{1.9 * width:.3f}",
            "SAMPLE_MINSN": 1,
            "SAMPLE_MAXELLIP": 1.0,
            "SAMPLE_FLAGMASK": 0,
        }
    with cpu_clock() as clock:
        stamps, at = read_psfex(run_psfex(extraction, catalogue, settings))
        seconds = clock() + extraction.seconds
    with fits.open(folder / "used.cat") as units:
        rows = units[2].data
        good = rows["FLAGS_PSF"] == 0
        used = Table({"x": rows["X_IMAGE"][good] - 1.0, "y": rows["Y_IMAGE"][good] - 1.0})
    return PeerPSF(stamps, used, seconds, at)
