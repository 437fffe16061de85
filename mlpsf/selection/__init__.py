"""Choice of the PSF stars among sources, by a selector.

Input: a `Frame`, its sources and a selector. Output: the star table, with probabilities, flags and
reasons. May import everything up to `mlpsf.selectors`. Does not handle PSF models or output files.
"""
