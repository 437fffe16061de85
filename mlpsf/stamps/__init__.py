"""Stamps: what a selector is shown of each source, the same for every telescope.

Comes in: a `Frame` and its sources. Goes out: stamps in which the PSF of the frame has been
replaced by a standard star. May import: the ground, `mlpsf.stacks`, `mlpsf.frames` and
`mlpsf.detection`.
"""
