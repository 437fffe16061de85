"""Choose stars on real frames, draw what was chosen: ``python -m benchmarks real_frames FOLDER``.

Every image of every FITS file in the folder, both selectors; a sheet of the chosen cutouts each,
to be looked at: round, single, unsaturated stars, and nothing else.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from astropy.table import Table

from benchmarks.common.stamps import OUTPUT
from mlpsf.errors import MlpsfError, TooFewStarsError
from mlpsf.frames.io.reading import list_images, read_frame
from mlpsf.pipeline import select_stars
from mlpsf.plots import CutoutSheetDisplay
from mlpsf.selectors import PSFStarSelector


def main() -> None:
    """Choose, draw, tabulate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n-max", type=int, default=25)
    parser.add_argument("--selector", nargs="+", default=["cnn", "residual"])
    arguments = parser.parse_args()
    out = OUTPUT / "real_frames"
    out.mkdir(parents=True, exist_ok=True)
    cnn = PSFStarSelector.from_pretrained() if "cnn" in arguments.selector else None
    rows = []
    for path in sorted(arguments.folder.glob("*.fits*")):
        for number, _, _ in images_of(path):
            frame = read_frame(path, hdu=number)
            for name in arguments.selector:
                start = time.perf_counter()
                note = ""
                try:
                    table = select_stars(
                        frame,
                        selector=cnn if name == "cnn" else name,
                        threshold=0.9 if name == "cnn" else 0.0,
                        n_max=arguments.n_max,
                    )
                except TooFewStarsError as error:
                    table, note = error.table, str(error)
                except MlpsfError as error:
                    print(f"{frame.name} {name}: {error}")
                    continue
                seconds = time.perf_counter() - start
                p = np.asarray(table["probability"])
                rows.append(
                    {
                        "frame": frame.name,
                        "selector": name,
                        "FWHM": round(table.meta["fwhm"], 2),
                        "e": round(table.meta["ellipticity"], 3),
                        "sources": len(table),
                        "above 0.9": int((np.nan_to_num(p) >= 0.9).sum()),
                        "selectable": table.meta["n_above_threshold"],
                        "chosen": int(table["selected"].sum()),
                        "seconds": round(seconds, 2),
                        "note": note[:60],
                    }
                )
                if table["selected"].any():
                    CutoutSheetDisplay.from_stars(frame, table).figure_.savefig(
                        out / f"{frame.name.replace('[', '_').replace(']', '')}-{name}.png", dpi=80
                    )
    table = Table(rows)
    table.pprint_all()
    table.write(out / "frames.ecsv", overwrite=True)


def images_of(path: Path) -> list[tuple[int, str, tuple[int, int]]]:
    """Return the science images of a file: mask and variance planes are none."""
    images = list_images(path)
    if len({shape for *_, shape in images}) == 1 and len(images) == 3:
        return images[:1]  # image, mask and variance of one exposure
    return images
