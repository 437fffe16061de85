"""Commands to begin with: ``simulate`` and ``tutorial``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mlpsf.cli.common.groups import General, grouped
from mlpsf.cli.common.options import OverwriteOption, ProfileName, check_outputs
from mlpsf.cli.common.progress import Progress

__all__ = ["simulate", "tutorial"]


@grouped
def simulate(
    out: Annotated[Path, typer.Option(help="FITS file; the truth goes into its extensions.")] = (
        Path("frame.fits")
    ),
    nx: Annotated[int, typer.Option(min=64, help="Width in pixels.")] = 1536,
    ny: Annotated[int, typer.Option(min=64, help="Height in pixels.")] = 1536,
    fwhm: Annotated[float, typer.Option(help="FWHM of the stars in pixels.")] = 4.0,
    stars: Annotated[int, typer.Option(min=0, help="Number of stars.")] = 1500,
    galaxies: Annotated[int, typer.Option(min=0, help="Number of galaxies.")] = 800,
    profile: Annotated[ProfileName, typer.Option(help="What the PSF is.")] = ProfileName.moffat,
    e1: Annotated[float, typer.Option(help="Shear of the PSF along x.")] = 0.02,
    e2: Annotated[float, typer.Option(help="Shear of the PSF along the diagonal.")] = 0.0,
    variation: Annotated[float, typer.Option(help="Change of the PSF over the frame.")] = 0.0,
    cosmic_rays: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Number of cosmic rays. Default: 100 on 1536 x 1536 pixels, on others as many an "
            "area; and so of hot pixels.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same frame.")] = 1,
    overwrite: OverwriteOption = False,
    *,
    general: General,
) -> None:
    """Draw a frame whose stars, galaxies and PSF are known, with GalSim.

    The image is in the primary HDU; the truth table and the map of defects follow it. Needs
    the extra: pip install 'mlpsf[simulation]'.

    Example:

        mlpsf simulate --out frame.fits --fwhm 5 --stars 1000 --seed 7
    """
    from mlpsf.simulation import simulate_frame

    check_outputs([(out, None)], overwrite=overwrite)
    usual = round(100 * nx * ny / 1536**2)
    with Progress(general, ("drawing", "writing")) as progress:
        progress(f"drawing {stars} stars and {galaxies} galaxies")
        drawn = simulate_frame(
            shape=(ny, nx),
            fwhm=fwhm,
            n_stars=stars,
            n_galaxies=galaxies,
            psf=profile.value,
            e1=e1,
            e2=e2,
            psf_variation=variation,
            cosmic_rays=usual if cosmic_rays is None else cosmic_rays,
            hot_pixels=usual,
            seed=seed,
        )
        progress("writing")
        drawn.write(out)
        progress.note(
            f"{nx} x {ny} pixels with {stars} stars and {galaxies} galaxies of FWHM {fwhm:g} "
            f"in {out}."
        )
        progress.result(frame=out, nx=nx, ny=ny, stars=stars, galaxies=galaxies, fwhm=fwhm)


@grouped
def tutorial(
    out: Annotated[Path, typer.Option(help="The notebook (.ipynb).")] = Path(
        "mlpsf_tutorial.ipynb"
    ),
    overwrite: OverwriteOption = False,
    *,
    general: General,
) -> None:
    """Copy out a notebook to learn from.

    From a frame to its PSF and the photometry of a moving target, a PSF that varies, and a selector
    of your own. Open it with Jupyter (pip install jupyterlab); it draws its frames itself, which
    needs the extra: pip install 'mlpsf[simulation]'.

    Example:

        mlpsf tutorial --out tutorial.ipynb
    """
    from mlpsf.tutorial import copy_tutorial

    check_outputs([(out, None)], overwrite=overwrite)
    with Progress(general) as progress:
        copy_tutorial(out, overwrite=overwrite)
        progress.note(f"Notebook in {out}. To open it: jupyter lab {shlex.quote(str(out))}")
        progress.result(notebook=out)
