"""Training: labelled sets of cutouts, checks of their labels, and training of selectors.

Input: frames and labels. Output: a set in a file, a trained selector, labels that seem wrong. May
import everything up to `mlpsf.pipeline`.
"""
