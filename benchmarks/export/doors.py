"""Each tool on what ``mlpsf export`` wrote for it: ``python -m benchmarks doors``.

A frame is drawn, its stars chosen, its PSF built; each format is written by the command, opened by
the tool that it is for, and compared with our PSF or with the truth. One row a door: format, what
was run, what was measured. A tool that is not installed is a row that says so.

``--variation 0.1`` draws a PSF that varies over the frame.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from mlpsf.cli.main import app
from mlpsf.export import as_image_psf, as_interpolated_image, extract_input
from mlpsf.export.places import psf_at
from mlpsf.frames.io.reading import read_frame
from mlpsf.pipeline import select_stars
from mlpsf.psf import PSFModel, build_psf
from mlpsf.simulation import simulate_frame

_OFFSET = (0.3, -0.27)  # pixels, between the samples of every format


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
        from mlpsf.export import write_stars

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


_FIVE = ((0.5, 0.5), (0.05, 0.05), (0.95, 0.06), (0.04, 0.95), (0.96, 0.94))


def off(image: NDArray[Any], truth: NDArray[Any]) -> float:
    """Return the largest difference in per cent of the peak."""
    return 100 * float(np.abs(image - truth).max() / truth.max())


def need(name: str) -> Any:
    """Import a package, or say that it is not installed."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotInstalledError(f"{name} is not installed") from error


def drawn(case: Case, draw: Callable[[float, float, float, float, int], Any]) -> str:
    """Compare drawings with our PSF at five places, on the centre of a pixel and off it."""
    worst = [0.0, 0.0]
    for k, offset in enumerate(((0.0, 0.0), _OFFSET)):
        for x, y in case.places:
            x, y = np.rint(x), np.rint(y)
            ours = psf_at(case.psf, (x, y))
            stamp = ours.stamps(*offset, ours.size)[0]
            worst[k] = max(worst[k], off(draw(x, y, *offset, ours.size), stamp))
    return f"{worst[0]:.3f} % of the peak at five places; {worst[1]:.2f} % between pixels"


# --- PSFs ----------------------------------------------------------------------------------------


def psfex_galsim(case: Case) -> str:
    """Draw PSFEx's file with GalSim."""
    galsim, des = need("galsim"), need("galsim.des")
    theirs = des.DES_PSFEx(str(case.export("psf.fits", "psfex", "frame.psf", "--overwrite")))

    def draw(x: float, y: float, dx: float, dy: float, size: int) -> Any:
        psf = theirs.getPSF(galsim.PositionD(x + 1, y + 1))
        kind = {"scale": 1.0, "method": "no_pixel", "offset": (dx, dy)}
        return psf.drawImage(nx=size, ny=size, **kind).array

    return drawn(case, draw)


def psfex_sextractor(case: Case) -> str:
    """Fit PSFEx's file with SExtractor."""
    case.export("psf.fits", "psfex", "frame.psf", "--overwrite")
    (case.folder / "psf.param").write_text("FLUX_PSF\nXPSF_IMAGE\nYPSF_IMAGE\n")
    (case.folder / "empty.conf").write_text("")
    case.run(
        *("source-extractor", "pixels.fits", "-c", "empty.conf", "-PSF_NAME", "frame.psf"),
        *("-PARAMETERS_NAME", "psf.param", "-CATALOG_TYPE", "FITS_1.0", "-CATALOG_NAME", "psf.cat"),
        *("-FILTER", "N", "-VERBOSE_TYPE", "QUIET"),
        *("-BACK_TYPE", "MANUAL", "-BACK_VALUE", float(np.median(case.sim.sky))),
    )
    out = fits.getdata(case.folder / "psf.cat")
    return case.fluxes(out["XPSF_IMAGE"] - 1, out["YPSF_IMAGE"] - 1, out["FLUX_PSF"])


def photutils_grid(case: Case) -> str:
    """Draw the STDPSF grid."""
    models = need("photutils.psf")
    grid = models.stdpsf_reader(case.export("psf.fits", "photutils", "grid.fits", "--overwrite"))

    def draw(x: float, y: float, dx: float, dy: float, size: int) -> Any:
        yy, xx = np.mgrid[:size, :size] - size // 2
        return grid.evaluate(xx + x, yy + y, 1.0, x + dx, y + dy)

    return drawn(case, draw)


def photutils_fluxes(case: Case) -> str:
    """Measure fluxes with the STDPSF grid."""
    models = need("photutils.psf")
    path = case.export("psf.fits", "photutils", "grid.fits", "--overwrite")
    return _photometry(case, models, models.stdpsf_reader(path))


def photutils_image(case: Case) -> str:
    """Measure fluxes with an ImagePSF."""
    models = need("photutils.psf")
    return _photometry(case, models, as_image_psf(case.psf))


def _photometry(case: Case, models: Any, model: Any) -> str:
    truth = case.sim.truth[case.sim.truth["kind"] == "star"]
    start = Table({name: np.asarray(truth[name]) for name in ("x", "y", "flux")})
    data = np.asarray(case.sim.frame.data - case.sim.sky, dtype=float)
    phot = models.PSFPhotometry(model, (9, 9), aperture_radius=6)
    out = phot(data, error=np.full(data.shape, 5.0), init_params=start)
    return case.fluxes(out["x_fit"], out["y_fit"], out["flux_fit"])


def galsim_image(case: Case) -> str:
    """Draw an InterpolatedImage from its file."""
    galsim = need("galsim")

    def draw(x: float, y: float, dx: float, dy: float, size: int) -> Any:
        words = ("--place", x, y, "--overwrite")
        star = galsim.InterpolatedImage(str(case.export("psf.fits", "galsim", "g.fits", *words)))
        kind = {"scale": 1.0, "method": "no_pixel", "offset": (dx, dy)}
        same = as_interpolated_image(case.psf, (x, y)).drawImage(nx=size, ny=size, **kind).array
        image = star.drawImage(nx=size, ny=size, **kind).array
        assert off(image, same) < 0.01
        return image

    return drawn(case, draw)


def piff_file(case: Case) -> str:
    """Draw a Piff file with Piff."""
    piff = need("piff")
    theirs = piff.read(str(case.export("psf.fits", "piff", "frame.piff", "--overwrite")))

    def draw(x: float, y: float, dx: float, dy: float, size: int) -> Any:
        return theirs.draw(x + 1, y + 1, center=True, offset=(dx, dy), stamp_size=size).array

    return drawn(case, draw)


def daophot_seepsf(case: Case) -> str:
    """Draw DAOPHOT's PSF image with seepsf."""
    case.export("psf.fits", "daophot", "dao.fits", "--overwrite")
    tasks = [
        f'seepsf ("dao.fits", "see{k}.fits", xpsf={x + 1}, ypsf={y + 1})'
        for k, (x, y) in enumerate(case.places)
    ]
    case.iraf(*tasks)
    worst = 0.0
    for k, place in enumerate(case.places):
        ours = psf_at(case.psf, place)
        yy, xx = np.mgrid[: ours.size, : ours.size] - ours.size // 2
        circle = np.hypot(xx, yy) < ours.size // 2 - 0.5
        seen = fits.getdata(case.folder / f"see{k}.fits") / 1e5
        worst = max(worst, off(seen * circle, ours.stamps(0.0, 0.0, ours.size)[0] * circle))
    return f"{worst:.4f} % of the peak at five places, within the circle of DAOPHOT's PSF"


def daophot_allstar(case: Case) -> str:
    """Measure fluxes with DAOPHOT's PSF image in allstar."""
    case.export("psf.fits", "daophot", "dao.fits", "--overwrite")
    truth = case.sim.truth[case.sim.truth["kind"] == "star"]
    rows = zip(truth["x"] + 1, truth["y"] + 1, strict=True)
    (case.folder / "f.coo").write_text("".join(f"{x:.3f} {y:.3f}\n" for x, y in rows))
    case.iraf(
        *_daophot_settings(case),
        'centerpars.calgorithm = "none"',
        'fitskypars.salgorithm = "constant"',
        f"fitskypars.skyvalue = {float(np.median(case.sim.sky))}",
        'phot ("pixels.fits", "f.coo", "f.mag", verify=no, interactive=no, verbose=no)',
        'allstar ("pixels.fits", "f.mag", "dao.fits", "f.als", "f.arj", "f.sub.fits", '
        "verify=no, verbose=no)",
    )
    out = Table.read(case.folder / "f.als", format="ascii.daophot")
    flux = 10 ** (-0.4 * (np.asarray(out["MAG"]) - 25))
    return case.fluxes(out["XCENTER"] - 1, out["YCENTER"] - 1, flux)


def _daophot_settings(case: Case) -> list[str]:
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


def image_file(case: Case) -> str:
    """Look at the image for galfit and imfit."""
    worst = 0.0
    for x, y in case.places:
        words = ("--place", x, y, "--overwrite")
        image = fits.getdata(case.export("psf.fits", "image", "i.fits", *words))
        ours = psf_at(case.psf, (x, y))
        assert image.shape == (ours.size, ours.size)
        assert abs(image.sum() - 1) < 1e-9
        worst = max(worst, off(image, ours.stamps(0.0, 0.0, ours.size)[0]))
    return f"odd, centred, sum 1; {worst:.3f} % of the peak at five places"


def trippy_file(case: Case) -> str:
    """Read TRIPPy's file of a place."""
    x, y = case.places[1]
    path = case.export("psf.fits", "trippy", "t.fits", "--place", x, y, "--overwrite")
    back, ours = PSFModel.load(path), psf_at(case.psf, (x, y))
    return f"{off(back.trippy.fullpsf, ours.trippy.fullpsf):.4f} % of the peak of TRIPPy's fullpsf"


# --- star lists ----------------------------------------------------------------------------------


def ldac_psfex(case: Case) -> str:
    """Run PSFEx on the LDAC catalogue."""
    case.export("stars.ecsv", "ldac", "stars.cat", "--overwrite")
    (case.folder / "empty.conf").write_text("")
    case.run(
        *("psfex", "stars.cat", "-c", "empty.conf", "-PSFVAR_DEGREES", 2 if case.variation else 0),
        *("-PSF_SIZE", "45,45", "-WRITE_XML", "N", "-VERBOSE_TYPE", "QUIET"),
        *("-CHECKPLOT_TYPE", "NONE", "-CHECKIMAGE_TYPE", "NONE"),
    )
    header = fits.getheader(case.folder / "stars.psf", 1)
    return (
        f"{header['ACCEPTED']} accepted of {header['LOADED']} loaded of "
        f"{case.stars['selected'].sum()} chosen; chi2 {header['CHI2']:.2f}"
    )


def piff_list(case: Case) -> str:
    """Run Piff on its catalogue and configuration."""
    piff, yaml = need("piff"), need("yaml")
    config = yaml.safe_load(case.export("stars.ecsv", "piff", "p.yaml", "--overwrite").read_text())
    config["output"]["dir"] = str(case.folder)
    config["verbose"] = 0
    piff.piffify(config)
    made = piff.read(str(case.folder / "p.piff"))
    return f"{len(made.stars)} stars made its PSF of {case.stars['selected'].sum()} chosen"


def photutils_list(case: Case) -> str:
    """Cut the stars out with extract_stars."""
    models = need("photutils.psf")
    catalogue = Table.read(case.export("stars.ecsv", "photutils", "x.ecsv", "--overwrite"))
    data, _ = extract_input(read_frame(case.folder / "frame.fits"), case.stars)
    cut = models.extract_stars(data, catalogue, size=25)
    return f"{cut.n_good_stars} stars cut out of {case.stars['selected'].sum()} chosen"


def daophot_list(case: Case) -> str:
    """Run phot and psf on the lists."""
    case.export("stars.ecsv", "daophot", "s.pst", "--overwrite")
    case.iraf(
        *_daophot_settings(case),
        'fitskypars.salgorithm = "median"',
        "fitskypars.annulus = 20",
        'phot ("pixels.fits", "s.coo", "s.mag", verify=no, interactive=no, verbose=no)',
        'psf ("pixels.fits", "s.mag", "s.pst", "s.psf.fits", "s.opst", "s.psg", verify=no, '
        "interactive=no, verbose=no, showplots=no)",
    )
    n = fits.getheader(case.folder / "s.psf.fits")["NPSFSTAR"]
    return f"{n} stars made its PSF of {case.stars['selected'].sum()} chosen"


def lsst_list(case: Case) -> str:
    """Read the flags as afw does: bits of a column that the header names."""
    with fits.open(case.export("stars.ecsv", "lsst", "src.fits", "--overwrite")) as hdus:
        header, bits = hdus[1].header, hdus[1].data["flags"]
    names = [header[f"TFLAG{k + 1}"] for k in range(bits.shape[1])]
    used = bits[:, names.index("calib_psf_used")]
    right = np.array_equal(used, case.stars["selected"])
    return f"calib_psf_used is {'right' if right else 'WRONG'} for all {len(used)} sources"


def regions(case: Case) -> str:
    """Count the regions."""
    text = case.export("stars.ecsv", "ds9", "stars.reg", "--overwrite").read_text()
    n = sum("color=green" in line for line in text.splitlines())
    return f"{n} green circles, {case.stars['selected'].sum()} chosen"


def table(case: Case) -> str:
    """Read the FITS table with STILTS."""
    case.export("stars.ecsv", "table", "table.fits", "--overwrite")
    case.run("stilts", "tpipe", "in=table.fits", "cmd=meta name units ucd", "out=meta.csv")
    rows = Table.read(case.folder / "meta.csv", format="ascii.csv")
    n = int(np.sum(np.char.str_len(np.ma.filled(rows["UCD"], "").astype(str)) > 0))
    return f"{n} of {len(rows)} columns with a UCD"


DOORS: tuple[tuple[str, str, Callable[[Case], str]], ...] = (
    # format, what is run on it, the function
    ("psfex", "galsim.des.DES_PSFEx(...).getPSF", psfex_galsim),
    ("psfex", "source-extractor -PSF_NAME frame.psf", psfex_sextractor),
    ("photutils", "stdpsf_reader(...).evaluate", photutils_grid),
    ("photutils", "PSFPhotometry(stdpsf_reader(...))", photutils_fluxes),
    ("photutils", "PSFPhotometry(as_image_psf(psf))", photutils_image),
    ("galsim", "galsim.InterpolatedImage(...)", galsim_image),
    ("piff", "piff.read(...).draw", piff_file),
    ("daophot", "iraf: seepsf", daophot_seepsf),
    ("daophot", "iraf: phot, allstar", daophot_allstar),
    ("image", "astropy.io.fits (galfit, imfit)", image_file),
    ("trippy", "PSFModel.load(...).trippy", trippy_file),
    ("ldac", "psfex stars.cat -PSF_SIZE 45,45", ldac_psfex),
    ("piff (stars)", "piffify p.yaml", piff_list),
    ("photutils (stars)", "photutils.psf.extract_stars", photutils_list),
    ("daophot (stars)", "iraf: phot, psf", daophot_list),
    ("lsst", "flags as lsst.afw.table reads them", lsst_list),
    ("ds9", "text", regions),
    ("table", "stilts tpipe", table),
)


def main() -> None:
    """Open every door."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variation", type=float, default=0.0, help="of the PSF over the frame")
    parser.add_argument("--seed", type=int, default=5)
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case = Case(Path(folder), arguments.variation, arguments.seed)
        print(f"{case.psf!r}, {case.stars['selected'].sum()} stars\n")
        print(f"| {'format':17} | {'run on it':36} | measured |")
        print(f"|{'-' * 19}|{'-' * 38}|----------|")
        for name, command, proof in DOORS:
            try:
                with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                    said = proof(case)
            except NotInstalledError as error:
                said = f"not tried: {error}"
            except Exception as error:  # one that fails must not hide the others
                said = f"FAILED: {type(error).__name__}: {error}"
                failed += 1
            print(f"| {name:17} | {command:36} | {said} |", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
