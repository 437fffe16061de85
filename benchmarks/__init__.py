"""What the package is worth: accuracy, speed, PSF quality, each by one command."""
