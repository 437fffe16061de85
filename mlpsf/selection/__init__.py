"""From sources and a selector to the list of chosen stars.

Comes in: a `Frame`, its sources, a selector. Goes out: the star table, with probabilities, flags
and reasons. May import: everything up to `mlpsf.selectors`. Knows no PSF model and no output file.
"""
