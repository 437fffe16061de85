"""A PSF that varies, and how images are compared."""

from __future__ import annotations

import numpy as np

from mlpsf.psf import PSFModel


class Varying:
    """The least that a PSF which varies has: each of its pixels is a quadratic over the frame."""

    varies = True
    order = 2
    frame_shape = (600, 640)

    def __init__(self):
        self.mean = self.at(319.5, 299.5)
        self.stars = np.array([[100.0, 100.0, 1e5], [500.0, 450.0, 2e5]])
        self.meta = {"frame": "varying.fits"}

    def __getattr__(self, name):
        return getattr(self.mean, name)

    def at(self, x, y):
        u, v = x / 319.5 - 1, y / 299.5 - 1
        round_ = gaussian(1.6, 1.6)
        light = round_ + 0.5 * u * (gaussian(1.8, 1.7) - round_)
        light += 0.5 * v * (gaussian(1.6, 1.8) - round_) + 0.3 * u * v * (
            gaussian(1.7, 1.5) - round_
        )
        light += 0.2 * u**2 * (gaussian(1.9, 1.9) - round_)
        # Next to nothing is left of the Moffat profile beside it.
        return PSFModel(light * 1e4, 3.0, 3.0)


def gaussian(sx, sy):
    sub = (np.arange(31 * 10) - 150) / 10
    return np.exp(-0.5 * ((sub / sx) ** 2 + (sub[:, None] / sy) ** 2)) / (200 * np.pi * sx * sy)


def difference(image, truth):
    """Return the largest difference of two images in units of the peak of the second."""
    return float(np.abs(image - truth).max() / truth.max())
