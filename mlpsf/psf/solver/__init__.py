"""The solver: stars' pixels in, a smooth PSF out, and how it varies over the frame."""
