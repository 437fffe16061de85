"""Neighbours: the light of all point sources of a frame, fitted together and taken away.

Input: a `Frame` and its sources. Output: the frame, whose cutouts then show each source without the
others. Imports only base modules, `mlpsf.stacks`, `mlpsf.frames`, `mlpsf.detection` and
`mlpsf.stamps`.
"""
