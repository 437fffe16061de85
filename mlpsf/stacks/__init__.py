"""Arrays of cutouts: pixel values, moments, the common PSF and fits of it.

Input: arrays of shape (n, size, size). Output: arrays with one row per cutout, an `EffectivePSF`.
Imports only base modules (`mlpsf.errors`). Does not use frames or files.
"""
