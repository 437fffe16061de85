"""The peers as their own manuals recommend: SExtractor + PSFEx, Piff, photutils, TRIPPy's chooser.

Each builder takes a frame and stars, or chooses the stars by its own rule, and gives a `PeerPSF`:
its PSF as stamps of native pixels, the stars that it used, and its CPU seconds. The programs and
packages are looked for only when they are wanted; `benchmarks.peers.astromatic` and
`benchmarks.peers.python` say where the settings of each are from.
"""

from benchmarks.peers.astromatic import Extraction, build_psfex, psfex_stamps, run_program
from benchmarks.peers.common import SIDE, Following, PeerPSF, cpu_clock, place_table
from benchmarks.peers.python import build_photutils, build_piff, piff_config, trippy_stars

__all__ = [
    "SIDE",
    "Extraction",
    "Following",
    "PeerPSF",
    "build_photutils",
    "build_piff",
    "build_psfex",
    "cpu_clock",
    "piff_config",
    "place_table",
    "psfex_stamps",
    "run_program",
    "trippy_stars",
]
