"""Files of frames: FITS images, lists of sources and sets of cutouts, read and written."""
