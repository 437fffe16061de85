"""Frames: an image with its mask, sky, noise, gain, saturation and coordinates.

Comes in: FITS files, arrays, astropy's images and tables. Goes out: a `Frame`, and cutouts of it.
May import: the ground and `mlpsf.stacks`. Knows no sources.
"""
