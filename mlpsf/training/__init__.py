"""Training: labelled sets of cutouts, their labels, and the selectors that learn from them.

Comes in: frames and labels. Goes out: a set in a file, a trained selector, labels that look wrong.
May import: everything up to `mlpsf.pipeline`.
"""
