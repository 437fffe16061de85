"""What the fuzzer changes gets past checksums: else it would test these alone."""

from __future__ import annotations

import io
import sys
import zipfile
from importlib import import_module
from pathlib import Path
from random import Random

import numpy as np
import pytest
from astropy.io import fits

# As in test_benchmarks_results: last in the path.
sys.path.append(str(Path(__file__).resolve().parents[1]))
mutators = import_module("benchmarks.robust.mutators")
fits_mutators = import_module("benchmarks.robust.fits_mutators")


def blind(content, most):
    return content[::-1][:most]


def written(*hdus):
    stream = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(stream, checksum=True)
    return stream.getvalue()


@pytest.mark.filterwarnings("error:(Checksum|Datasum)")
@pytest.mark.parametrize("seed", range(20))
def test_checksums_are_made_anew(seed):
    rng = np.random.default_rng(seed)
    content = written(fits.PrimaryHDU(rng.normal(size=(9, 7))), fits.ImageHDU(np.arange(seed + 1)))
    hdus = fits_mutators.split_hdus(content)
    assert len(hdus) == 2
    hdus[0][0].append(fits_mutators.make_card(b"ANY     ", str(seed)))
    cards, data = hdus[1]
    hdus[1] = (cards, bytes([seed]) + data[1:])
    changed = b"".join(fits_mutators.hdu_bytes(*hdu, anew=True) for hdu in hdus)
    with fits.open(io.BytesIO(changed), checksum=True) as read:
        assert read[0].header["ANY"] == seed
        assert len(read) == 2
    stale = b"".join(fits_mutators.hdu_bytes(*hdu, anew=False) for hdu in hdus)
    with (
        pytest.raises(UserWarning, match="verification failed"),
        fits.open(io.BytesIO(stale), checksum=True),
    ):
        pass


@pytest.mark.parametrize("name", ["a.fits", "a.fits.gz", "a.npz", "a.csv", "a.h5"])
def test_anything_is_changed(name):
    """Also what is no file of its kind, and nothing at all; always in the same way."""
    stream = io.BytesIO()
    np.savez(stream, cutouts=np.zeros((2, 5, 5)))
    for content in (b"", b"a", b"x,y\n1,2\n", written(fits.PrimaryHDU()), stream.getvalue()):
        some = [mutators.mutate(content, name, Random(k), blind, 10**6) for k in range(30)]
        assert some == [mutators.mutate(content, name, Random(k), blind, 10**6) for k in range(30)]
        assert len(set(some)) > 1 or not content


def test_an_ending_is_enough():
    content = written(fits.PrimaryHDU(np.zeros((5, 5))))
    for seed in range(30):
        changed = [
            mutators.mutate(content, n, Random(seed), blind, 10**6) for n in (".fits", "a.fits")
        ]
        assert changed[0] == changed[1]
    stream = io.BytesIO()
    np.savez(stream, cutouts=np.zeros((2, 5, 5)))
    packed = [
        mutators.mutate(stream.getvalue(), ".npz", Random(s), blind, 10**6) for s in range(30)
    ]
    assert sum(zipfile.is_zipfile(io.BytesIO(c)) for c in packed) > 20


def test_members_are_packed_whole():
    stream = io.BytesIO()
    np.savez(stream, cutouts=np.zeros((2, 5, 5)), x=np.zeros(2))
    for seed in range(30):
        changed = mutators._archive(stream.getvalue(), Random(seed), blind)
        with zipfile.ZipFile(io.BytesIO(changed)) as archive:
            assert archive.testzip() is None
