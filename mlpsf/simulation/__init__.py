"""Simulation of frames with known objects, PSF and defects.

:func:`simulate_frame` draws one exposure. :func:`random_parameters` draws the parameters of a
random telescope. The modules, in the order of the light path:

- ``profiles``, ``psf_making``, ``psfs``: the light of a point source, from the profile to its
  image in the pixels;
- ``objects``: the stars and galaxies of a field, and how they are drawn;
- ``detector``: sky, noise and the effects of a camera, one function each;
- ``frames``: all steps combined;
- ``results``: the exposure with its truth, and its file;
- ``telescopes``: random telescopes, skies and fields, for training.

GalSim is required (``pip install 'mlpsf[simulation]'``). It is loaded when a frame is drawn.

Examples
--------
>>> from mlpsf.simulation import simulate_frame
>>> simulated = simulate_frame(shape=(256, 256), n_stars=20, n_galaxies=10, seed=1)
>>> simulated.frame.data.shape, len(simulated.truth)
((256, 256), 30)
"""

from mlpsf.simulation.detector import Defect
from mlpsf.simulation.frames import simulate_frame
from mlpsf.simulation.psfs import TruePSF
from mlpsf.simulation.results import SimulatedFrame
from mlpsf.simulation.telescopes import TELESCOPES, random_parameters

__all__ = [
    "TELESCOPES",
    "Defect",
    "SimulatedFrame",
    "TruePSF",
    "random_parameters",
    "simulate_frame",
]
