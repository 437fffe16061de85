"""How near the truth the PSF is."""
