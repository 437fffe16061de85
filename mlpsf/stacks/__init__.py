"""Arrays of cutouts: their pixel values, their moments, the PSF that they share, fits of it.

Comes in: arrays of shape (n, size, size). Goes out: arrays with a row a cutout, an `EffectivePSF`.
May import: the ground (`mlpsf.errors`). Knows no frame and no file.
"""
