"""Solve for a smooth PSF, and its variation over the frame, from the pixels of stars."""
