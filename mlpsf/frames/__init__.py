"""Frames: an image with its mask, sky, noise, gain, saturation and coordinates.

Input: FITS files, arrays, astropy images and tables. Output: a `Frame` and cutouts of it.
Imports only base modules and `mlpsf.stacks`. Does not detect sources.
"""
