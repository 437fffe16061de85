"""What tools make of the star lists that ``mlpsf export`` wrote; see `benchmarks.export.doors`."""

from __future__ import annotations

import numpy as np
from astropy.io import fits
from astropy.table import Table

from benchmarks.export.case import Case, Doors, daophot_settings, need
from mlpsf.export import extract_input
from mlpsf.frames.io.reading import read_frame


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
        *daophot_settings(case),
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


STAR_DOORS: Doors = (
    ("ldac", "psfex stars.cat -PSF_SIZE 45,45", ldac_psfex),
    ("piff (stars)", "piffify p.yaml", piff_list),
    ("photutils (stars)", "photutils.psf.extract_stars", photutils_list),
    ("daophot (stars)", "iraf: phot, psf", daophot_list),
    ("lsst", "flags as lsst.afw.table reads them", lsst_list),
    ("ds9", "text", regions),
    ("table", "stilts tpipe", table),
)
