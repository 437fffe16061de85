"""Stamps: images of the sources that look alike for every telescope, as input of a selector.

Input: a `Frame` and its sources. Output: stamps in which the PSF of the frame has been replaced by
a standard star. Imports only base modules, `mlpsf.stacks`, `mlpsf.frames` and `mlpsf.detection`.
"""
