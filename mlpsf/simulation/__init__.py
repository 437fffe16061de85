"""Frames with known truth: what a star is, where it is and what the PSF is, to the last pixel.

:func:`simulate_frame` draws one exposure, :func:`random_parameters` draws the telescope to take
it with. The rooms, in the order in which light passes them:

- ``profiles``, ``psf_making``, ``psfs``: the light of a point source, from the profile to its
  image in the pixels;
- ``objects``: the stars and galaxies of a field, and how they are drawn;
- ``detector``: sky, noise, and everything that a camera does to an image, a function each;
- ``frames``: the steps in a row;
- ``results``: the exposure with its truth, and its file;
- ``telescopes``: random telescopes, skies and fields, for training.

GalSim is needed (``pip install 'mlpsf[simulation]'``) and is loaded when a frame is drawn.

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
from mlpsf.simulation.telescopes import random_parameters

__all__ = ["Defect", "SimulatedFrame", "TruePSF", "random_parameters", "simulate_frame"]
