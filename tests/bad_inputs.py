"""The table of bad inputs: what is given, where, and what it gets.

Each `Bad` is a kind of input, how it is made, the entrances that it is tried at, the error that it
gets there and a word of its message. `rows` gives one `Row` for each pair of input and entrance.
`test_bad_inputs.py` runs them, and ends one that hangs or takes a gigabyte; ``python
tests/bad_inputs.py > mlpsf/BAD_INPUTS.md`` makes the page of them.

A command gets an exit code: 1 for every error of mlpsf but 3 for too few stars, 2 where the command
line itself is mistyped.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from astropy.table import Table

FINE = "fine"
"""What an input gets that is taken: a result, perhaps with a warning."""


class Bad(NamedTuple):
    """A bad input: kind, how it is made, what it gets, a word of the message, and where."""

    kind: str
    made: str
    make: Callable[[Lab], Any]
    gets: str
    says: str
    entrances: tuple[str, ...]


class Row(NamedTuple):
    """A bad input at one entrance."""

    bad: Bad
    entrance: str

    @property
    def name(self) -> str:
        return f"{self.bad.kind}: {self.bad.made} -> {self.entrance}"

    @property
    def gets(self) -> str:
        """Name of the error, or what the command ends with."""
        if self.bad.gets == FINE or not self.entrance.startswith("mlpsf"):
            return self.bad.gets
        return "exit code 3" if self.bad.gets == "TooFewStarsError" else "exit code 1"


class Lab:
    """A folder with good inputs of every kind, to be spoilt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def stock(cls, folder: Path) -> Lab:
        """Fill a folder with good inputs."""
        from mlpsf.pipeline import select_stars
        from mlpsf.psf import PSFModel, build_psf
        from mlpsf.selectors.storage import pretrained_path
        from mlpsf.training.sets import CutoutSet

        image = sky_with_stars()
        header = fits.Header({"GAIN": 2.0, "SATURATE": 60000.0, "BUNIT": "adu"})
        fits.PrimaryHDU(image, header).writeto(folder / "frame.fits")
        fits.HDUList(
            [
                fits.PrimaryHDU(),
                fits.CompImageHDU(image.astype(np.int16), compression_type="RICE_1"),
            ]
        ).writeto(folder / "frame.fits.fz")
        stars = select_stars(folder / "frame.fits", n_min=1, relax=True)
        build_psf(folder / "frame.fits", stars).save(folder / "psf.fits")
        Table({key: np.asarray(stars[key]) for key in "xy"}).write(folder / "list.fits")
        PSFModel(np.zeros((410, 410)), 1.5, 3.0).save(folder / "bare.fits")
        trail = PSFModel(np.zeros((410, 410)), 1.5, 3.0).trail(30.0, 20.0, 600.0, 0.5)
        trail.save(folder / "trail.fits")
        for name in ("bare.fits", "trail.fits"):  # as TRIPPy writes them: without checksums
            with fits.open(folder / name, mode="update") as hdus:
                for keyword in ("PSFSHA", "CHECKSUM", "DATASUM"):
                    hdus[0].header.remove(keyword)
        shutil.copy(pretrained_path(), folder / "model.keras")
        rng = np.random.default_rng(1)
        with CutoutSet.create(folder / "set.h5", size=15) as writer:
            for name in "abc":
                pixels = rng.normal(size=(8, 15, 15))
                writer.append(name, pixels, label=np.arange(8) % 2, x=5.0, y=6.0)
        at = np.column_stack([stars["x"], stars["y"]])
        from mlpsf.frames.cutouts import extract_cutouts

        cut = extract_cutouts(image, *at.T, 31)
        np.savez(folder / "cutouts.npz", cutouts=cut.data, x=at[:, 0], y=at[:, 1])
        return cls(folder)

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @property
    def image(self) -> Any:
        return fits.getdata(self / "frame.fits").astype(np.float32)

    def bytes(self, name: str, content: bytes) -> Path:
        (self / name).write_bytes(content)
        return self / name


def sky_with_stars(shape: tuple[int, int] = (260, 280), fwhm: float = 3.0) -> Any:
    """Draw two dozen Gaussian stars on a noisy sky."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = rng.normal(300.0, 10.0, shape)
    for j in range(30, shape[0] - 20, 45):
        for i in range(30, shape[1] - 20, 45):
            dx, dy = x - i - rng.uniform(-0.5, 0.5), y - j - rng.uniform(-0.5, 0.5)
            flux = rng.uniform(1e4, 2e5)
            image += 0.88 * flux / fwhm**2 * np.exp(-4 * np.log(2) * (dx**2 + dy**2) / fwhm**2)
    return image.astype(np.float32)


# --- entrances


def command(*words: Any) -> None:
    """Run a command as the shell would, in this process; raises `SystemExit`."""
    from mlpsf.cli.main import main

    sys.argv = ["mlpsf", *map(str, words)]
    main()


def _night(lab: Lab, path: Any) -> Any:
    from mlpsf.batch.inputs import Job, Settings
    from mlpsf.batch.job import run_job

    job = Job(
        path=str(path), hdu=None, name="bad", out=str(lab.folder), key="", settings=Settings()
    )
    row = run_job(job)["row"]
    if row["error"]:
        raise RowError(row["error"])


class RowError(Exception):
    """What a row of a night says; an undocumented error is said with its type before it."""


def _select(lab: Lab, **options: Any) -> Any:
    from mlpsf.pipeline import select_stars

    frame = options.pop("frame", lab / "frame.fits")
    return select_stars(frame, **{"n_min": 1, "relax": True, **options})


def _build(frame: Any, stars: Any) -> Any:
    from mlpsf.psf import build_psf

    psf = build_psf(frame, stars)
    check_psf(psf)
    return psf


def check_psf(psf: Any) -> None:
    """Insist on a valid PSF: finite, its peak in its half-maximum, sum 1, its FWHM in its box."""
    image = psf.image()
    centre = image.shape[0] // 2
    assert np.isfinite(image).all()
    peak = np.unravel_index(image.argmax(), image.shape)
    assert image[centre, centre] > 0
    half_maximum = 0.5 * psf.fwhm / np.sqrt(1 - psf.ellipticity)
    assert np.hypot(peak[0] - centre, peak[1] - centre) <= max(half_maximum, 1.5), peak
    assert abs(image.sum() - 1) < 1e-6
    assert 0 < psf.fwhm < psf.size


def _import(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(__import__(module, fromlist=[attribute]), attribute)


def _call(name: str) -> Callable[[Lab, Any], Any]:
    return lambda lab, thing: _import(name)(thing)


def _judge(lab: Lab, thing: Any) -> Any:
    judge = _import("mlpsf.selectors.loading.load_judge")(thing)
    return judge.predict_proba(np.zeros((2, judge.cutout_size_, judge.cutout_size_)))


def _read_set(lab: Lab, thing: Any) -> Any:
    with _import("mlpsf.training.sets.CutoutSet")(thing) as data:
        return data[:]


def _quick(*words: Any) -> list[Any]:
    return [*words, "--n-min", 1, "--relax", "--quiet"]


ENTRANCES: dict[str, Callable[[Lab, Any], Any]] = {
    # frames
    "read_frame": _call("mlpsf.read_frame"),
    "list_images": _call("mlpsf.frames.io.reading.list_images"),
    "select_stars": lambda lab, thing: _select(lab, frame=thing),
    "build_psf": lambda lab, thing: _build(thing, [[75.0, 75.0], [120.0, 120.0]]),
    "read_stars": _call("mlpsf.export.read_stars"),
    "read_frame(mask=)": lambda lab, thing: _import("mlpsf.read_frame")(lab.image, mask=thing),
    "read_frame(hdu=)": lambda lab, thing: _import("mlpsf.read_frame")(
        lab / "frame.fits", hdu=thing
    ),
    "mlpsf select": lambda lab, thing: command(
        "select", *_quick(thing, "--out", lab / "stars.ecsv")
    ),
    "mlpsf psf": lambda lab, thing: command("psf", *_quick(thing, "--out", lab / "new.fits")),
    "mlpsf label": lambda lab, thing: command("label", thing, "--out", lab / "new.h5", "--quiet"),
    "mlpsf run": _night,
    "mlpsf select --hdu": lambda lab, thing: command(
        "select", *_quick(lab / "frame.fits", "--out", lab / "stars.ecsv", "--hdu", thing)
    ),
    "mlpsf select --mask": lambda lab, thing: command(
        "select", *_quick(lab / "frame.fits", "--out", lab / "stars.ecsv", "--mask", thing)
    ),
    # lists
    "read_catalogue": lambda lab, thing: _import("mlpsf.frames.io.catalogue.read_catalogue")(
        thing, _import("mlpsf.read_frame")(lab / "frame.fits")
    ),
    "build_psf(stars=)": lambda lab, thing: _build(lab / "frame.fits", thing),
    "mlpsf select --catalogue": lambda lab, thing: command(
        "select", *_quick(lab / "frame.fits", "--out", lab / "stars.ecsv", "--catalogue", thing)
    ),
    "mlpsf psf --stars": lambda lab, thing: command(
        "psf", *_quick(lab / "frame.fits", "--out", lab / "new.fits", "--stars", thing)
    ),
    "mlpsf label --good": lambda lab, thing: command(
        "label", lab / "frame.fits", "--good", thing, "--out", lab / "new.h5", "--quiet"
    ),
    # PSFs
    "PSFModel.load": lambda lab, thing: check_psf(_import("mlpsf.psf.PSFModel").load(thing)),
    "mlpsf render": lambda lab, thing: command(
        "render", thing, 50, 60, "--out", lab / "new.fits", "--quiet"
    ),
    "mlpsf export": lambda lab, thing: command(
        "export", thing, "--to", "psfex", "--out", lab / "new.psf", "--quiet"
    ),
    # models
    "load_judge": _judge,
    "PSFStarSelector.load": lambda lab, thing: _import("mlpsf.PSFStarSelector").load(thing),
    "mlpsf select --model": lambda lab, thing: command(
        "select", *_quick(lab / "frame.fits", "--out", lab / "stars.ecsv", "--model", thing)
    ),
    "mlpsf train --from": lambda lab, thing: command(
        "train", lab / "set.h5", "--from", thing, "--out", lab / "new.keras", "--quiet"
    ),
    # sets of cutouts
    "CutoutSet": _read_set,
    "mlpsf train --resume": lambda lab, thing: command(
        "train", lab / "set.h5", "--out", lab / "new.keras", "--resume", "--quiet"
    ),
    "mlpsf train": lambda lab, thing: command(
        "train", thing, "--out", lab / "new.keras", "--epochs", 1, "--quiet"
    ),
    "read_cutouts": _call("mlpsf.frames.io.cutout_files.read_cutouts"),
    "mlpsf select CUTOUTS": lambda lab, thing: command(
        "select", *_quick(thing, "--out", lab / "stars.ecsv")
    ),
    "select_cutouts": lambda lab, thing: _import("mlpsf.select_cutouts")(thing, n_min=0),
    # parameters: what is made are keywords or words of the command
    "select_stars(...)": lambda lab, thing: _select(lab, **thing),
    "build_psf(...)": lambda lab, thing: _import("mlpsf.psf.build_psf")(
        lab / "frame.fits", [[75.0, 75.0]], **thing
    ),
    "extract_cutouts(...)": lambda lab, thing: _import("mlpsf.extract_cutouts")(
        lab.image, [50.0], [60.0], **thing
    ),
    "mlpsf": lambda lab, thing: command(*thing),
}


def frame_file(name: str) -> Callable[[Callable[[Lab], bytes]], Callable[[Lab], Path]]:
    """Make a maker of a file out of a maker of its content."""
    return lambda content: lambda lab: lab.bytes(name, content(lab))


def spoilt(name: str, spoil: Callable[[bytes], bytes], new: str | None = None) -> Any:
    """Return a maker of a spoilt copy of a good file."""

    def make(lab: Lab) -> Path:
        ending = "".join(Path(name).suffixes)
        return lab.bytes(new or f"spoilt{ending}", spoil((lab / name).read_bytes()))

    return make


def card(name: str, keyword: str, value: str, *more: str) -> Any:
    """Return a maker of a copy of a FITS file with the value of a keyword as it is given.

    `more` are further keywords and their values.
    """

    def spoil(content: bytes) -> bytes:
        return reduce(lambda c, pair: _with_card(c, *pair), pairs, content)

    words = (keyword, value, *more)
    pairs = list(zip(words[::2], words[1::2], strict=True))
    return spoilt(name, spoil)


def _with_card(content: bytes, keyword: str, value: str) -> bytes:
    """Return a FITS file's content with a keyword, the first of its name or a new one."""
    new = f"{keyword:<8}= {value:>20}".ljust(80).encode("latin-1")
    start = content.find(f"{keyword:<8}=".encode())
    if start < 0:
        start = content.find(b"END" + 77 * b" ")
        after = content[start + 80 :]
        assert after.startswith(80 * b" "), "no room for a card"
        return content[:start] + new + b"END" + 77 * b" " + after[80:]
    return content[:start] + new + content[start + 80 :]


def fits_bytes(*hdus: Any) -> bytes:
    """Return a FITS file as bytes."""
    from io import BytesIO

    stream = BytesIO()
    fits.HDUList(list(hdus)).writeto(stream)
    return stream.getvalue()


def larger_tiles(lab: Lab) -> Path:
    """Return a compressed image of which each tile says that it has more pixels than are its."""
    rng = np.random.default_rng(1)
    image = rng.integers(0, 1000, (64, 64)).astype(np.int16)
    path = lab / "tiles.fits.fz"
    hdu = fits.CompImageHDU(image, compression_type="HCOMPRESS_1", tile_shape=(16, 64))
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    size = b"\xdd\x99" + b"".join(n.to_bytes(4, "big") for n in (16, 64))
    content = path.read_bytes()
    assert size in content
    path.write_bytes(content.replace(size, size[:5] + b"\x40" + size[6:]))
    return path


def bright_corner(lab: Lab) -> Path:
    """Return a PSF without checksums of which a pixel in a corner is brighter than the star."""
    path = Path(shutil.copy(lab / "bare.fits", lab / "corner.fits"))
    with fits.open(path, mode="update") as hdus:
        hdus[0].data[30:40, 30:40] = 5.0
    return path


def unreadable_name(lab: Lab) -> Path:
    """Return a frame behind a table of which not even astropy can read the name."""
    pixels = fits.getdata(lab / "frame.fits")
    path = lab / "name.fits"
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(pixels, name="SCI")]
    fits.HDUList(hdus).writeto(path)
    path.write_bytes(path.read_bytes().replace(b"EXTNAME = 'SCI", b"EXTNAME = =SCI"))
    return path


def zipped(files: dict[str, bytes]) -> bytes:
    """Return a zip archive of some files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return stream.getvalue()


def header_only(**cards: Any) -> bytes:
    """Return a FITS header, with no data behind it."""
    cards = {"SIMPLE": True, "BITPIX": 16, **cards}
    texts = []
    for key, value in cards.items():
        text = "T" if value is True else f"'{value}'" if isinstance(value, str) else str(value)
        texts.append(f"{key:<8}= {text:>20}".ljust(80))
    block = "".join([*texts, "END".ljust(80)])
    return block.ljust(-(-len(block) // 2880) * 2880).encode() + bytes(2880)


def empty_hdu() -> bytes:
    """Return an image extension without data."""
    cards = (
        "XTENSION= 'IMAGE   '",
        "BITPIX  = 8",
        "NAXIS   = 0",
        "PCOUNT  = 0",
        "GCOUNT  = 1",
        "END",
    )
    return "".join(card.ljust(80) for card in cards).ljust(2880).encode()


def archive(
    lab: Lab, change: Callable[[dict[str, Any]], Any] | None = None, **entries: Any
) -> Path:
    """Return a copy of the model with its description changed, or with other entries."""
    path = lab / "spoilt.keras"
    with zipfile.ZipFile(lab / "model.keras") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content: Any = old.read(name)
            if name == "mlpsf.json" and change is not None:
                state = json.loads(content)
                state = change(state) or state
                content = json.dumps(state)
            content = entries.get(name, content)
            if content is not None:
                new.writestr(name, content, zipfile.ZIP_DEFLATED)
    return path


def described(**values: Any) -> Callable[[Lab], Path]:
    """Return a maker of a model whose description has other values."""
    return lambda lab: archive(lab, lambda state: state.update(values))


def hdf5(change: Callable[[Any], Any]) -> Callable[[Lab], Path]:
    """Return a maker of a copy of the set that is changed."""

    def make(lab: Lab) -> Path:
        import h5py

        path = Path(shutil.copy(lab / "set.h5", lab / "spoilt.h5"))
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    return make


def put(file: Any, name: str, values: Any = None, **how: Any) -> None:
    """Replace a dataset of a set."""
    del file[name]
    file.create_dataset(name, data=values, **how)


def bomb(n: int) -> bytes:
    """Return a gzip file of many zero bytes, small itself: one packed megabyte again and again."""
    head = header_only(NAXIS=2, NAXIS1=40000, NAXIS2=n // 80000)
    return gzip.compress(head) + gzip.compress(bytes(2**20)) * (n // 2**20)


def fifo(lab: Lab) -> Path:
    os.mkfifo(lab / "pipe.fits")
    return lab / "pipe.fits"


def loop(lab: Lab) -> Path:
    (lab / "loop.fits").symlink_to(lab / "loop.fits")
    return lab / "loop.fits"


def flipped(name: str, at: int, bit: int = 0) -> Any:
    """Return a maker of a copy with one bit flipped, at a byte counted from the end if negative."""

    def spoil(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[at] ^= 1 << bit
        return bytes(changed)

    return spoilt(name, spoil)


def damaged_tile(lab: Lab) -> Path:
    content = bytearray((lab / "frame.fits.fz").read_bytes())
    with fits.open(lab / "frame.fits.fz", disable_image_compression=True) as hdus:
        start = hdus[1].fileinfo()["datLoc"] + 8 * len(hdus[1].data)
    for i in range(start, start + 20000):
        content[i] ^= 0xFF
    return lab.bytes("tile.fits.fz", bytes(content))


def catalogue(**columns: Any) -> Callable[[Lab], Path]:
    """Return a maker of a FITS table."""

    def make(lab: Lab) -> Path:
        Table(columns).write(lab / "cat.fits", overwrite=True)
        return lab / "cat.fits"

    return make


def on_the_sky(lab: Lab) -> Path:
    """Give the frame a WCS, and return a list with a declination of 95 degrees."""
    with fits.open(lab / "frame.fits", mode="update") as hdus:
        hdus[0].header.update(
            CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRVAL1=10.0, CRVAL2=89.9, CRPIX1=130.0,
            CRPIX2=130.0, CDELT1=-1e-4, CDELT2=1e-4,
        )  # fmt: skip
    Table({"ra": [10.0, 10.0], "dec": [95.0, 95.0]}).write(lab / "sky.fits")
    return lab / "sky.fits"


FRAMES = ("read_frame", "mlpsf select", "mlpsf label", "mlpsf run")
ARRAYS = ("read_frame", "build_psf")
LISTS = ("read_catalogue", "mlpsf select --catalogue", "mlpsf label --good")
PSFS = ("PSFModel.load", "mlpsf render", "mlpsf export")
MODELS = ("load_judge", "PSFStarSelector.load", "mlpsf select --model")
SETS = ("CutoutSet", "mlpsf train")
CUTOUTS = ("read_cutouts", "mlpsf select CUTOUTS")
LONG = "n" * 260 + ".fits"


def two_images() -> tuple[Any, Any]:
    """Of 4 x 4 pixels each, in four blocks."""
    return fits.PrimaryHDU(np.eye(4)), fits.ImageHDU(np.eye(4))


def deep(n: int) -> str:
    return "[" * n + "]" * n


BAD: list[Bad] = [
    # --- files that should be frames
    Bad("frame", "no such file", lambda lab: lab / "none.fits", "FrameNotFoundError",
        "no file", FRAMES),
    Bad("frame", "a folder", lambda lab: lab.folder, "FrameError", "folder",
        ("read_frame", "mlpsf select", "mlpsf label")),
    Bad("frame", "an empty file", frame_file("e.fits")(lambda lab: b""), "FrameError", "readable",
        FRAMES),
    Bad("frame", "text", frame_file("t.fits")(lambda lab: b"x y\n1 2\n" * 99), "FrameError",
        "readable", FRAMES),
    Bad("frame", "random bytes", frame_file("r.fits")(
        lambda lab: np.random.default_rng(1).bytes(9000)), "FrameError", "readable", FRAMES),
    Bad("frame", "cut in the middle of its pixels",
        spoilt("frame.fits", lambda c: c[: len(c) // 2]), "FrameError", "cut short", FRAMES),
    Bad("frame", "cut in its header", spoilt("frame.fits", lambda c: c[:1000]), "FrameError",
        "", FRAMES),
    Bad("frame", "a .gz cut short", spoilt("frame.fits", lambda c: gzip.compress(c)[:99999],
        "cut.fits.gz"), "FrameError", "", FRAMES),
    Bad("frame", "a damaged tile in an .fz", damaged_tile, "FrameError", "damaged", FRAMES),
    Bad("frame", "a header of 10^9 pixels a side, 5.7 kB", frame_file("huge.fits")(
        lambda lab: header_only(NAXIS=2, NAXIS1=10**9, NAXIS2=10**9)), "FrameError", "bytes",
        FRAMES),
    Bad("frame", "a header of 10^9 axes", frame_file("axes.fits")(
        lambda lab: header_only(NAXIS=10**9)), "FrameError", "", FRAMES),
    Bad("frame", "a header of 999 axes of 10^9", frame_file("axes.fits")(
        lambda lab: header_only(NAXIS=999, **{f"NAXIS{k}": 10**9 for k in range(1, 1000)})),
        "FrameError", "", FRAMES),
    Bad("frame", "a negative axis", card("frame.fits", "NAXIS1", "-280"), "FrameError", "", FRAMES),
    Bad("frame", "an axis that is text", card("frame.fits", "NAXIS1", "'many'"), "FrameError", "",
        FRAMES),
    Bad("frame", "BITPIX 7", card("frame.fits", "BITPIX", "7"), "FrameError", "", FRAMES),
    Bad("frame", "PCOUNT 10^12", card("frame.fits", "PCOUNT", "1000000000000"), "FrameError", "",
        ("read_frame",)),
    Bad("frame", "GCOUNT -5", card("frame.fits", "GCOUNT", "-5"), "FrameError", "",
        ("read_frame",)),
    Bad("frame", "a header of 10^9 axes behind a compressed image", frame_file("behind.fits.fz")(
        lambda lab: fits_bytes(fits.PrimaryHDU(), fits.CompImageHDU(np.eye(60, dtype="i2")))
        + header_only(NAXIS=10**9).replace(b"SIMPLE  =                    T".ljust(80),
                                           b"XTENSION= 'IMAGE   '".ljust(80))),
        FINE, "", ("read_frame",)),
    Bad("frame", "a header of 10^9 axes that begins with nonsense", frame_file("odd.fits")(
        lambda lab: fits_bytes(fits.PrimaryHDU()) + header_only(NAXIS=10**9).replace(
            b"SIMPLE  =                    T", b"nonsense".ljust(30))), "FrameError",
        "2-D image", FRAMES),
    Bad("frame", "PCOUNT -376, by which astropy goes back to where it was", frame_file("back.fits")(
        lambda lab: fits_bytes(*two_images()).replace(
            b"PCOUNT  =                    0", b"PCOUNT  =                 -376")), FINE, "",
        ("read_frame",)),
    Bad("frame", "a .gz with a damaged header behind its packed size", frame_file("odd.fits.gz")(
        lambda lab: gzip.compress(fits_bytes(*two_images()).replace(b"XTENSION", b"XTENSI\0N"))),
        FINE, "", ("read_frame",)),
    Bad("frame", "an .fz whose header says 10^9 pixels a side", card(
        "frame.fits.fz", "ZNAXIS1", "1000000000"), "FrameError", "", FRAMES),
    Bad("frame", "an .fz whose tiles are of 0 pixels", card("frame.fits.fz", "ZTILE1", "0"),
        "FrameError", "", FRAMES),
    Bad("frame", "an .fz with an axis that is text", card("frame.fits.fz", "ZNAXIS1", "'1'"),
        "FrameError", "ZNAXIS1", FRAMES),
    Bad("frame", "an .fz of 2^31 columns", card("frame.fits.fz", "TFIELDS", "2147483647"),
        "FrameError", "columns", FRAMES),
    Bad("frame", "an .fz of 10^9 axes", card("frame.fits.fz", "ZNAXIS", "1000000000"),
        "FrameError", "axes", FRAMES),
    Bad("frame", "an .fz of an unknown compression", card(
        "frame.fits.fz", "ZCMPTYPE", "'NONSENSE'"), "FrameError", "", FRAMES),
    Bad("frame", "a BITPIX that is no number, in a .gz", spoilt("frame.fits", lambda c: gzip.compress(
        c.replace(b"BITPIX  = ", b"BITPIX  =(", 1))), "FrameError", "BITPIX", FRAMES),
    Bad("frame", "two widths that differ", spoilt("frame.fits", lambda c: c.replace(
        b"END" + 77 * b" ", b"NAXIS1  =                  999".ljust(80) + b"END", 1)),
        "FrameError", "NAXIS1", FRAMES),
    Bad("frame", "a NAXIS of 2^63 in a keyword that astropy strips", spoilt(
        "frame.fits", lambda c: c.replace(b"NAXIS   = " + b"2".rjust(20), b"NAXIS \x1c = " + b"9223372036854775808".rjust(20), 1)),
        "FrameError", "axes", FRAMES),
    Bad("frame", "GCOUNT 0", card("frame.fits", "GCOUNT", "0"), "FrameError", "GCOUNT", FRAMES),
    Bad("frame", "a GCOUNT that is text", card("frame.fits", "GCOUNT", "'RICE_1'"), "FrameError",
        "GCOUNT", FRAMES),
    Bad("frame", "an .fz whose tiles say that they are larger", larger_tiles, "FrameError",
        "64 x 64 pixels", FRAMES),
    Bad("frame", "a .zip of two files", frame_file("two.fits.zip")(lambda lab: zipped(
        {"a.fits": b"SIMPLE", "b.fits": b"SIMPLE"})), "FrameError", "of 2 files", FRAMES),
    Bad("frame", "a .zip of 40 kB that unpacks to 4 GB", frame_file("bomb.fits.zip")(lambda lab: zipped(
        {"a.fits": header_only(NAXIS=2, NAXIS1=40000, NAXIS2=50000) + bytes(2**25)})), "FrameError",
        "unpack", FRAMES),
    Bad("frame", "a .zip that is damaged", frame_file("odd.fits.zip")(lambda lab: zipped(
        {"a.fits": (lab / "frame.fits").read_bytes()})[:-99]), "FrameError", "unpacked", FRAMES),
    Bad("frame", "an EXTNAME that cannot be read", unreadable_name, FINE, "", FRAMES),
    Bad("frame", "a .gz of 4 MB that unpacks to 4 GB", frame_file("bomb.fits.gz")(
        lambda lab: bomb(4 * 2**30)), "FrameError", "unpack", ("read_frame", "mlpsf select")),
    Bad("frame", "a pipe that nobody writes to", fifo, "FrameError", "", FRAMES),
    Bad("frame", "a device", lambda lab: Path("/dev/zero"), "FrameError", "", FRAMES),
    Bad("frame", "a link to itself", loop, "FrameError", "", FRAMES),
    Bad("frame", "a name of 265 bytes", lambda lab: lab / LONG, "FrameError", "name", FRAMES),
    Bad("frame", "a name with a null byte", lambda lab: f"{lab.folder}/a\0b.fits", "FrameError", "",
        ("read_frame",)),
    Bad("frame", "a name that would clear the terminal, of no file",
        lambda lab: lab / "a\x1b[2Jb\nc.fits", "FrameNotFoundError", r"\\x1b", FRAMES),
    Bad("frame", "all pixels NaN", frame_file("nan.fits")(
        lambda lab: fits_bytes(fits.PrimaryHDU(np.full((90, 90), np.nan)))), "FrameError", "NaN",
        FRAMES),
    Bad("frame", "20,000 HDUs", frame_file("many.fits")(
        lambda lab: header_only(NAXIS=0)[:2880] + 20000 * empty_hdu()), "FrameError", "headers",
        FRAMES),
    Bad("frame", "a header of 10^6 cards", frame_file("cards.fits")(
        lambda lab: header_only(NAXIS=0)[:240] + 10**6 * b"COMMENT".ljust(80) + bytes(2880)),
        "FrameError", "blocks", FRAMES),
    Bad("frame", "all pixels alike", frame_file("flat.fits")(
        lambda lab: fits_bytes(fits.PrimaryHDU(np.ones((90, 90))))), "FrameError", "value 1",
        FRAMES),
    Bad("frame", "one dimension", frame_file("line.fits")(
        lambda lab: fits_bytes(fits.PrimaryHDU(np.arange(90.0)))), "FrameError", "2-D", FRAMES),
    Bad("frame", "a cube", frame_file("cube.fits")(
        lambda lab: fits_bytes(fits.PrimaryHDU(np.ones((3, 90, 80))))), "FrameError", "cube",
        FRAMES),
    Bad("frame", "a table only", catalogue(x=[1.0], y=[2.0]), "FrameError", "2-D", FRAMES),
    Bad("frame", "noise without a source", frame_file("noise.fits")(
        lambda lab: fits_bytes(fits.PrimaryHDU(
            np.random.default_rng(3).normal(100, 5, (120, 120))))), "NoSourcesError", "",
        ("select_stars", "mlpsf select", "mlpsf label", "mlpsf run")),
    Bad("frame", "3 x 3 pixels", frame_file("tiny.fits")(
        lambda lab: fits_bytes(fits.PrimaryHDU(np.arange(9.0).reshape(3, 3)))), "MlpsfError", "",
        ("select_stars", "mlpsf select", "mlpsf run")),
    Bad("frame", "one row", frame_file("row.fits")(
        lambda lab: fits_bytes(fits.PrimaryHDU(np.arange(900.0).reshape(1, 900)))), "MlpsfError",
        "", ("select_stars", "mlpsf select", "mlpsf run")),
    Bad("frame", "BSCALE is NaN", card("frame.fits", "BSCALE", "'nan'"), "FrameError", "", FRAMES),
    Bad("frame", "BSCALE 0", card("frame.fits", "BSCALE", "0.0"), "FrameError", "", FRAMES),
    Bad("frame", "BZERO is text", card("frame.fits", "BZERO", "'text'"), "FrameError", "", FRAMES),
    Bad("frame", "a BUNIT with a flipped byte", card("frame.fits", "BUNIT", "'a\xc4u'"), FINE, "",
        ("read_frame", "mlpsf select")),
    *(
        Bad("frame", f"a {key} without its first quote", card("frame.fits", key, "text'"), FINE, "",
            ("read_frame", "mlpsf select"))
        for key in ("BUNIT", "TELESCOP", "OBJECT", "FILENAME")
    ),
    Bad("frame", "a GAIN of 1e300", card("frame.fits", "GAIN", "1E300"), FINE, "",
        ("read_frame", "mlpsf select")),
    Bad("frame", "a GAIN that is text", card("frame.fits", "GAIN", "'high'"), FINE, "",
        ("read_frame", "mlpsf select")),
    Bad("frame", "a SATURATE of -1", card("frame.fits", "SATURATE", "-1"), FINE, "",
        ("read_frame", "mlpsf select")),
    *(
        Bad("frame", f"{key} of 30000", card("frame.fits", "CTYPE1", "'RA---TAN-SIP'", key, "30000"),
            FINE, "", ("read_frame", "mlpsf select"))
        for key in ("WCSAXES", "WCSAXESA", "A_ORDER", "BP_ORDER")
    ),
    Bad("frame", "CRVAL1 is NaN", card("frame.fits", "CRVAL1", "'nan'"), FINE, "",
        ("read_frame", "mlpsf select")),
    Bad("frame", "a file of nobody's", lambda lab: lab.bytes("junk.fits", b"SIMPLE  =" + b"\xff" * 9999),
        "FrameError", "", FRAMES),
    # --- arrays
    Bad("array", "complex pixels", lambda lab: lab.image + 1j, "MlpsfError", "complex", ARRAYS),
    Bad("array", "pixels of text", lambda lab: np.full((60, 60), "a"), "MlpsfError", "", ARRAYS),
    Bad("array", "pixels that are objects", lambda lab: np.full((60, 60), None), "MlpsfError", "",
        ARRAYS),
    Bad("array", "dates", lambda lab: np.zeros((60, 60), "M8[s]"), "MlpsfError", "", ARRAYS),
    Bad("array", "records", lambda lab: np.zeros((60, 60), [("a", "f4")]), "MlpsfError", "",
        ARRAYS),
    Bad("array", "one dimension", lambda lab: np.arange(60.0), "MlpsfError", "2-D", ARRAYS),
    Bad("array", "a cube", lambda lab: np.ones((3, 60, 60)), "MlpsfError", "", ARRAYS),
    Bad("array", "no pixels", lambda lab: np.ones((0, 60)), "MlpsfError", "", ARRAYS),
    Bad("array", "all NaN", lambda lab: np.full((120, 130), np.nan), "MlpsfError", "", ARRAYS),
    Bad("array", "all masked", lambda lab: np.ma.masked_all((120, 130)), "MlpsfError", "", ARRAYS),
    Bad("array", "a dict", lambda lab: {"data": 1}, "MlpsfError", "", ARRAYS),
    Bad("array", "None", lambda lab: None, "MlpsfError", "", ARRAYS),
    Bad("array", "rows of different lengths", lambda lab: [[1.0, 2.0], [3.0]], "MlpsfError", "",
        ARRAYS),
    Bad("array", "Fortran order", lambda lab: np.asfortranarray(lab.image), FINE, "",
        (*ARRAYS, "select_stars")),
    Bad("array", "transposed", lambda lab: lab.image.T, FINE, "", (*ARRAYS, "select_stars")),
    Bad("array", "every other pixel of a larger one", lambda lab: np.repeat(lab.image, 2, 1)[:, ::2],
        FINE, "", (*ARRAYS, "select_stars")),
    Bad("array", "big-endian", lambda lab: lab.image.astype(">f8"), FINE, "",
        (*ARRAYS, "select_stars")),
    Bad("array", "float16", lambda lab: lab.image.clip(0, 6e4).astype(np.float16), FINE, "",
        (*ARRAYS, "select_stars")),
    Bad("array", "a mask of another shape", lambda lab: np.zeros((3, 3)), "InputError", "shape",
        ("read_frame(mask=)",)),
    Bad("array", "a mask that is text", lambda lab: "no such mask.fits", "FrameNotFoundError", "",
        ("read_frame(mask=)", "mlpsf select --mask")),
    Bad("array", "a mask of all pixels", lambda lab: np.ones((260, 280)), "FrameError", "masked",
        ("read_frame(mask=)",)),
    # --- HDUs
    Bad("HDU", "a superscript two", lambda lab: "\u00b2", "FrameError", "HDU",
        ("read_frame(hdu=)", "mlpsf select --hdu")),
    Bad("HDU", "number 99", lambda lab: "99", "FrameError", "HDU",
        ("read_frame(hdu=)", "mlpsf select --hdu")),
    Bad("HDU", "number 10^30", lambda lab: "1" + 30 * "0", "FrameError", "HDU",
        ("read_frame(hdu=)", "mlpsf select --hdu")),
    Bad("HDU", "a name that no HDU has", lambda lab: "SCI,\u00b9", "FrameError", "HDU",
        ("read_frame(hdu=)", "mlpsf select --hdu")),
    Bad("HDU", "a list", lambda lab: [1], "MlpsfError", "", ("read_frame(hdu=)",)),
    Bad("HDU", "a name with escape sequences", lambda lab: "\x1b[31mred", "FrameError", r"\\x1b",
        ("read_frame(hdu=)", "mlpsf select --hdu")),
    # --- lists of sources
    Bad("list", "no such file", lambda lab: lab / "none.csv", "CatalogueError", "no file",
        LISTS),
    Bad("list", "empty file", frame_file("e.csv")(lambda lab: b""), "CatalogueError", "", LISTS),
    Bad("list", "random bytes", frame_file("r.csv")(
        lambda lab: np.random.default_rng(1).bytes(9000)), "CatalogueError", "", LISTS),
    Bad("list", "no positions", catalogue(a=[1.0], b=[2.0]), "CatalogueError", "positions", LISTS),
    Bad("list", "no rows", catalogue(x=np.zeros(0), y=np.zeros(0)), "CatalogueError", "rows",
        LISTS),
    Bad("list", "text for x", catalogue(x=["a"], y=["b"]), "CatalogueError", "numbers", LISTS),
    Bad("list", "a vector for x", catalogue(x=np.ones((3, 2)), y=np.ones(3)), "CatalogueError",
        "numbers", LISTS),
    Bad("list", "complex x", catalogue(x=np.ones(3) + 1j, y=np.ones(3)), "CatalogueError",
        "numbers", LISTS),
    Bad("list", "positions off the frame", catalogue(x=[1e6], y=[1e6]), "CatalogueError", "lies on",
        LISTS),
    Bad("list", "positions of 1e300", catalogue(x=[1e300], y=[-1e300]), "CatalogueError",
        "lies on", LISTS),
    Bad("list", "NaN only", catalogue(x=[np.nan], y=[np.nan]), "CatalogueError", "finite", LISTS),
    Bad("list", "a declination of 95 degrees", on_the_sky, "CatalogueError", "90", LISTS),
    Bad("list", "sky positions without a WCS", catalogue(ra=[1.0], dec=[2.0]), "CatalogueError",
        "WCS", LISTS),
    Bad("list", "a header of 10^12 rows", card("list.fits", "NAXIS2", "1000000000000"),
        "CatalogueError", "", LISTS),
    Bad("list", "a FITS table cut short", spoilt("list.fits", lambda c: c[:5800]),
        "CatalogueError", "", LISTS),
    Bad("list", "a pipe", fifo, "CatalogueError", "", LISTS),
    Bad("list", "ECSV that asks for a class of Python", frame_file("x.ecsv")(
        lambda lab: b"# %ECSV 1.0\n# ---\n# datatype:\n# - {name: x, datatype: float64}\n# - {name: y,"
        b" datatype: float64}\n# meta: !!python/object/apply:os.system ['touch owned']\nx y\n50 60\n"),
        FINE, "", LISTS[:1]),
    Bad("list", "no positions (an array)", lambda lab: np.zeros((3, 3)), "MlpsfError", "",
        ("build_psf(stars=)",)),
    Bad("list", "text (an array)", lambda lab: [["a", "b"]], "MlpsfError", "",
        ("build_psf(stars=)",)),
    Bad("list", "no star", lambda lab: np.zeros((0, 2)), "MlpsfError", "", ("build_psf(stars=)",)),
    Bad("list", "NaN (an array)", lambda lab: [[np.nan, 5.0]], "InputError", "finite",
        ("build_psf(stars=)",)),
    Bad("list", "a place without a star", lambda lab: [[97.0, 97.0]], "PSFError", "",
        ("build_psf(stars=)",)),
    # --- PSF files
    Bad("PSF file", "no such file", lambda lab: lab / "none.fits", "ModelFileError", "", PSFS),
    Bad("PSF file", "a frame", lambda lab: lab / "frame.fits", "ModelFileError", "", PSFS),
    Bad("PSF file", "random bytes", frame_file("r.fits")(
        lambda lab: np.random.default_rng(1).bytes(9000)), "ModelFileError", "", PSFS),
    Bad("PSF file", "cut short", spoilt("psf.fits", lambda c: c[: len(c) // 2]), "ModelFileError",
        "", PSFS),
    Bad("PSF file", "a pipe", fifo, "ModelFileError", "", PSFS),
    *(
        Bad("PSF file", f"{key} of {value}", card("bare.fits", key, value), "ModelFileError", "",
            PSFS)
        for key, value in (
            ("BETA", "1E5"), ("BETA", "1E300"), ("BETA", "0.5"), ("BETA", "'two'"),
            ("ALPHA", "1E300"), ("ALPHA", "60.0"), ("ALPHA", "-3.0"), ("ALPHA", "1E-30"),
            ("REPFACT", "7"), ("REPFACT", "'ten'"), ("ALPHA", "'' 3.0"), ("PIXSCALE", "'' 3.0"),
            ("FRAME", "a'"), ("NAXIS1", "1000000000"),
        )
    ),
    *(
        Bad("PSF file", f"a trail with {key} of {value}", card("trail.fits", key, value),
            "ModelFileError", "", PSFS)
        for key, value in (
            ("RATE", "1E6"), ("RATE", "1E300"), ("PIXSCALE", "0.0"), ("PIXSCALE", "-1.0"),
            ("DT", "1E300"), ("ANGLE", "1E300"),
        )
    ),
    Bad("PSF file", "a bit of its table flipped", flipped("psf.fits", 40000, 6), "ModelFileError",
        "", PSFS),
    Bad("PSF file", "its brightest pixel in a corner", bright_corner, "ModelFileError", "middle",
        PSFS),
    Bad("PSF file", "a star's place flipped", lambda lab: card("psf.fits", "XSTAR0", "1E9")(lab),
        "ModelFileError", "", PSFS),
    # --- models
    Bad("model", "no such file", lambda lab: lab / "none.keras", "ModelFileError", "", MODELS),
    Bad("model", "no zip file", frame_file("t.keras")(lambda lab: b"text" * 99), "ModelFileError",
        "", MODELS),
    Bad("model", "cut short", spoilt("model.keras", lambda c: c[: len(c) // 2]), "ModelFileError",
        "", MODELS),
    Bad("model", "a pipe", fifo, "ModelFileError", "", MODELS),
    Bad("model", "a description of 10^5 nested lists", lambda lab: archive(
        lab, **{"mlpsf.json": deep(10**5)}), "ModelFileError", "", MODELS),
    Bad("model", "a description that unpacks to 5 MB", lambda lab: archive(
        lab, **{"mlpsf.json": " " * 5 * 10**6 + "{}"}), "ModelFileError", "", MODELS),
    Bad("model", "a network that unpacks to 100 MB", lambda lab: archive(
        lab, **{"network.onnx": bytes(10**8)}), "ModelFileError", "", MODELS),
    Bad("model", "a network of nonsense", lambda lab: archive(lab, **{"network.onnx": b"x" * 99}),
        "ModelFileError", "", ("load_judge", "mlpsf select --model")),
    *(
        Bad("model", f"{key} of {value!r:.40}", described(**{key: value}), "ModelFileError", "",
            MODELS)
        for key, value in (
            ("cutout_size", 0), ("cutout_size", 40), ("cutout_size", 43),
            ("cutout_size", 10**6 + 1), ("cutout_size", "many"), ("cutout_size", None),
            ("reference_fwhm", "wide"), ("reference_fwhm", -4.0), ("reference_fwhm", 1e300),
            ("calibration", [-1, 0]), ("calibration", [0, 50]), ("calibration", [1e9, 0]),
            ("calibration", [1.0, "a"]), ("calibration", [1.0]), ("calibration", None),
            ("scaler", {"parameters": {"method": "none"}, "mean": 0, "scale": 1,
                        "n_features_in": 1681}),
            ("scaler", {"unknown": "words"}), ("scaler", 5),
            ("scaler", {"parameters": {"method": "star"}, "mean": 0, "scale": 0,
                        "n_features_in": 1681}),
            ("classes", [0, 1, 2]), ("classes_dtype", "O"), ("n_features_in", "all"), ("kind", "Other"),
            ("format", 99),
        )
    ),
    *(
        Bad("model", f"parameters of {value}", described(parameters=value), "ModelFileError", "",
            ("PSFStarSelector.load",))
        for value in ({"unknown": 1}, {"epochs": -1})
    ),
    Bad("model", "one that begins a training", described(cutout_size=0), "ModelFileError", "",
        ("mlpsf train --from",)),
    # --- star tables
    Bad("star table", "no such file", lambda lab: lab / "none.ecsv", "CatalogueError", "none.ecsv",
        ("read_stars",)),
    Bad("star table", "an unknown ending", frame_file("stars.xyz")(lambda lab: b"x y"),
        "CatalogueError", "from .ecsv", ("read_stars",)),
    Bad("star table", "text that is no ECSV", frame_file("s.ecsv")(lambda lab: b"text" * 99),
        "CatalogueError", "cannot be read", ("read_stars",)),
    Bad("star table", "a header of 10^9 axes", frame_file("s.fits")(
        lambda lab: header_only(NAXIS=10**9)), "CatalogueError", "axes", ("read_stars",)),
    Bad("star table", "a FITS file without tables", lambda lab: lab / "frame.fits",
        "CatalogueError", "cannot be read", ("read_stars",)),
    Bad("star table", "one without x", catalogue(y=[2.0]), "CatalogueError", "no columns x and y",
        ("read_stars",)),
    # --- training sets
    Bad("set", "no such file", lambda lab: lab / "none.h5", "InputError", "", SETS),
    Bad("set", "text", frame_file("t.h5")(lambda lab: b"text" * 99), "InputError", "", SETS),
    Bad("set", "cut short", spoilt("set.h5", lambda c: c[: len(c) // 2]), "InputError", "", SETS),
    Bad("set", "a pipe", fifo, "InputError", "", SETS),
    Bad("set", "labels of text", hdf5(lambda f: put(f, "label", [b"good"] * 24)), "InputError", "",
        SETS),
    Bad("set", "labels of 7", hdf5(lambda f: put(f, "label", np.full(24, 7, "i1"))), "InputError",
        "", SETS),
    Bad("set", "10^12 rows", hdf5(lambda f: [
        put(f, "label", None, shape=(10**12,), dtype="i1", chunks=(8192,))]), "InputError", "",
        SETS),
    Bad("set", "all columns of 10^12 rows", hdf5(lambda f: [
        put(f, key, None, shape=(10**12, *f[key].shape[1:]), dtype=f[key].dtype,
            chunks=(64, *f[key].shape[1:])) for key in list(f) if key != "frame_name"]),
        "InputError", "", SETS),
    Bad("set", "a size of 10^9", hdf5(lambda f: f.attrs.update(size=10**9)), "InputError", "", SETS),
    Bad("set", "a size that is text", hdf5(lambda f: f.attrs.update(size="many")), "InputError", "",
        SETS),
    Bad("set", "cutouts that are a group", hdf5(lambda f: (f.pop("cutouts"), f.create_group("cutouts"))),
        "InputError", "", SETS),
    Bad("set", "a loop of links", hdf5(lambda f: (f.pop("label"), f.__setitem__(
        "label", _import("h5py.SoftLink")("/label")))), "InputError", "", SETS),
    Bad("set", "a link to another file", hdf5(lambda f: (f.pop("label"), f.__setitem__(
        "label", _import("h5py.ExternalLink")("/etc/passwd", "/label")))), "InputError", "", SETS),
    Bad("set", "parameters of 10^5 nested lists", hdf5(
        lambda f: f.attrs.update(parameters=np.bytes_(deep(30000)))), "InputError", "", SETS),
    Bad("set", "frames that it does not name", hdf5(lambda f: put(f, "frame", np.full(24, 9))),
        "InputError", "", SETS),
    Bad("set", "all pixels NaN", hdf5(lambda f: put(
        f, "cutouts", np.full((24, 15, 15), np.nan, "f4"))), FINE, "", ("CutoutSet",)),
    Bad("set", "all pixels NaN, or 0", hdf5(lambda f: put(
        f, "cutouts", np.where(np.arange(24)[:, None, None] % 2, np.nan, np.zeros((24, 15, 15))
                               ).astype("f4"))), "InputError", "light", ("mlpsf train",)),
    Bad("set", "an infinite pixel", hdf5(lambda f: f["cutouts"].__setitem__((3, 2, 2), np.inf)),
        "InputError", "infinite", SETS),
    Bad("set", "complex cutouts", hdf5(lambda f: put(f, "cutouts", np.ones((24, 15, 15), "c8"))),
        "InputError", "", SETS),
    Bad("set", "one class only", hdf5(lambda f: put(f, "label", np.zeros(24, "i1"))),
        "InputError", "class", ("mlpsf train",)),
    # --- what an interrupted training left
    *(
        Bad("checkpoint", made, frame_file("new.checkpoint.npz")(content), "InputError",
            "new.checkpoint.npz is no checkpoint", ("mlpsf train --resume",))
        for made, content in (
            ("text", lambda lab: b"text" * 99),
            ("another archive", lambda lab: (lab / "cutouts.npz").read_bytes()),
            ("an archive that unpacks to 300 MB", lambda lab: npz_bomb(lab).read_bytes()),
            ("a header that promises 10^12 numbers", lambda lab: npz_promise(lab).read_bytes()),
            ("a pickled description", lambda lab: npz(
                lab, description=np.array([{}], dtype=object)).read_bytes()),
            ("a description of 10^5 nested lists", lambda lab: described_as(lab, deep(10**5))),
            ("a description of no epochs", lambda lab: described_as(lab, "{}")),
        )
    ),
    Bad("checkpoint", "that of another training", frame_file("new.checkpoint.npz")(
        lambda lab: described_as(lab, json.dumps({
            "made_of": {}, "epoch": 1, "stopped": False, "history": {}, "best": None}))),
        "InputError", "another set", ("mlpsf train --resume",)),
    # --- cutouts
    Bad("cutouts", "no such file", lambda lab: lab / "none.npz", "CatalogueError", "", CUTOUTS),
    Bad("cutouts", "a pickled array", lambda lab: pickled(lab), "CatalogueError", "", CUTOUTS),
    Bad("cutouts", "an archive that unpacks to 300 MB", lambda lab: npz_bomb(lab), "CatalogueError",
        "", CUTOUTS),
    Bad("cutouts", "a header that promises 10^12 cutouts", lambda lab: npz_promise(lab),
        "CatalogueError", "", CUTOUTS),
    Bad("cutouts", "no array of cutouts", lambda lab: npz(lab, a=np.zeros(3)), "CatalogueError",
        "cutouts", CUTOUTS),
    Bad("cutouts", "two dimensions", lambda lab: npz(lab, cutouts=np.zeros((3, 9))),
        "CatalogueError", "", CUTOUTS),
    Bad("cutouts", "text", lambda lab: npz(lab, cutouts=np.full((3, 31, 31), "a")),
        "MlpsfError", "", ("mlpsf select CUTOUTS",)),
    Bad("cutouts", "complex (an array)", lambda lab: np.ones((30, 31, 31)) + 1j, "InputError", "",
        ("select_cutouts",)),
    Bad("cutouts", "all NaN (an array)", lambda lab: np.full((30, 31, 31), np.nan), "MlpsfError",
        "", ("select_cutouts",)),
    Bad("cutouts", "none (an array)", lambda lab: np.zeros((0, 31, 31)), "MlpsfError", "",
        ("select_cutouts",)),
    Bad("cutouts", "of 1001 pixels (an array)", lambda lab: np.zeros((2, 1001, 1001)),
        "InputError", "", ("select_cutouts",)),
    # --- parameters
    *(
        Bad("parameter", f"{key}={value!r:.30}", lambda lab, k=key, v=value: {k: v}, gets, "",
            ("select_stars(...)",))
        for key, value, gets in (
            ("cutout_size", 10001, "InputError"), ("cutout_size", 30, "InputError"),
            ("cutout_size", -1, "InputError"), ("cutout_size", "wide", "InputError"),
            ("snr_min", float("nan"), "InputError"), ("snr_min", "a", "InputError"),
            ("threshold", 7.0, "InputError"), ("threshold", float("nan"), "InputError"),
            ("n_max", 0, "InputError"), ("n_max", 2.5, "InputError"),
            ("n_min", -1, "InputError"), ("reserve", 2.0, "InputError"),
            ("rank_by", "luck", "InputError"), ("selector", "magic", "InputError"),
            ("selector", 5, "InputError"), ("veto", [10**30], "InputError"),
            ("stars", ["a"], "InputError"), ("unknown", 1, "TypeError"),
        )
    ),
    *(
        Bad("parameter", f"residual, cutout_size={value!r}",
            lambda lab, v=value: {"cutout_size": v, "selector": "residual"}, "InputError", "",
            ("select_stars(...)",))
        for value in (10001, 30, -1, 3, "wide")
    ),
    *(
        Bad("parameter", f"{key}={value!r:.30}", lambda lab, k=key, v=value: {k: v}, "InputError",
            "", ("build_psf(...)",))
        for key, value in (
            ("size", 10**6 + 1), ("size", 4), ("size", "big"), ("size", 31.5), ("rep_fact", 4),
            ("background", "none"), ("background", np.nan), ("background", np.zeros(3)),
            ("method", "best"), ("at", (1e9, 1e9)), ("at", "here"), ("order", 9),
            ("order", "cubic"), ("refinements", -1), ("refinements", "some"),
        )
    ),
    *(
        Bad("parameter", f"size={value!r}", lambda lab, v=value: {"size": v}, "InputError", "",
            ("extract_cutouts(...)",))
        for value in (10**5 + 1, 10**9 + 1, 4, -3, "wide", float("nan"))
    ),
    *(
        Bad("parameter", f"{option} {value}", lambda lab, o=option, v=value: [
            "select", lab / "frame.fits", "--out", lab / "stars.ecsv", o, v, "--quiet"],
            "MlpsfError", "", ("mlpsf",))
        for option, value in (
            ("--gain", "1e300"), ("--gain", "-1"), ("--gain", "nan"), ("--gain", "0"),
            ("--saturation", "nan"), ("--saturation", "-5"), ("--snr-min", "nan"),
        )
    ),
    *(
        Bad("parameter", f"label --size {value}", lambda lab, v=value: [
            "label", lab / "frame.fits", "--out", lab / "new.h5", "--size", v, "--quiet"],
            "InputError", "size", ("mlpsf",))
        for value in ("100001", "1000000001", "40", "-1", "1")
    ),
    *(
        Bad("parameter", f"render at {x}", lambda lab, x=x: [
            "render", lab / "psf.fits", x, "5", "--out", lab / "new.fits", "--quiet"],
            "MlpsfError", "", ("mlpsf",))
        for x in ("nan", "1e300")
    ),
    *(
        Bad("parameter", f"render {option} {value}", lambda lab, o=option, v=value: [
            "render", lab / "psf.fits", 50, 60, "--out", lab / "new.fits", "--quiet", o, v],
            "MlpsfError", "", ("mlpsf",))
        for option, value in (
            ("--oversampling", "1000000"), ("--size", "1000001"), ("--size", "4"),
        )
    ),
    # --- outputs
    Bad("output", "a folder that does not exist", lambda lab: [
        "select", lab / "frame.fits", "--out", lab / "no" / "a.ecsv"], "OutputError", "folder",
        ("mlpsf",)),
    Bad("output", "a name of 265 bytes", lambda lab: [
        "select", lab / "frame.fits", "--out", lab / f"{'n' * 260}.ecsv"], "OutputError", "name",
        ("mlpsf",)),
    Bad("output", "a PSF of a name of 265 bytes", lambda lab: [
        "psf", lab / "frame.fits", "--out", lab / LONG], "OutputError", "name", ("mlpsf",)),
    Bad("output", "a name of 250 bytes, whose table has a longer one", lambda lab: [
        "psf", lab / "frame.fits", "--out", lab / f"{'n' * 245}.fits"], "OutputError", "name",
        ("mlpsf",)),
    Bad("output", "the input", lambda lab: [
        "select", lab / "frame.fits", "--out", lab / "frame.fits"], "OutputError", "input",
        ("mlpsf",)),
    Bad("output", "a full disk", lambda lab: [
        "select", lab / "frame.fits", "--out", "/dev/full"], "OutputError", "", ("mlpsf",)),
    Bad("output", "a folder", lambda lab: ["psf", lab / "frame.fits", "--out", lab.folder],
        "OutputError", "folder", ("mlpsf",)),
]  # fmt: skip


def npz(lab: Lab, **arrays: Any) -> Path:
    np.savez(lab / "bad.npz", **arrays)
    return lab / "bad.npz"


def described_as(lab: Lab, text: str) -> bytes:
    return npz(lab, description=np.frombuffer(text.encode(), np.uint8)).read_bytes()


def pickled(lab: Lab) -> Path:
    return npz(lab, cutouts=np.array([{"a": 1}], dtype=object))


def npz_bomb(lab: Lab) -> Path:
    """Three hundred megabytes of zeros in one or two."""
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (78125, 31, 31), }"
    head = head.ljust(117) + b"\n"
    with (
        zipfile.ZipFile(lab / "bad.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new,
        new.open("cutouts.npy", "w", force_zip64=True) as file,
    ):
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)
        for _ in range(300):
            file.write(bytes(2**20))
    return lab / "bad.npz"


def npz_promise(lab: Lab) -> Path:
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 31, 31), }"
    head = head.ljust(117) + b"\n"
    with zipfile.ZipFile(lab / "bad.npz", "w") as new:
        new.writestr(
            "cutouts.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(99)
        )
    return lab / "bad.npz"


def rows() -> Iterator[Row]:
    """Yield all rows of the table."""
    for bad in BAD:
        for entrance in bad.entrances:
            yield Row(bad, entrance)


HEAD = """# Bad inputs, and what each gets

Made of the table by which it is tested: `python tests/bad_inputs.py > mlpsf/BAD_INPUTS.md`.

In Python a bad input gets the error that is named here, a `mlpsf.MlpsfError` and a built-in error as
well, or it is taken, perhaps with a warning. A command gets one line on stderr and an exit code, and
leaves nothing half-written; a frame of a night (`mlpsf run`) gets a row with the reason. What estimators
are given (wrong dimensions, infinities, a `predict` before `fit`) gets the errors of scikit-learn's own
contract, and an unknown keyword Python's TypeError.
"""


def page() -> str:
    """Return the table as a page in Markdown."""
    lines = [HEAD]
    for kind in dict.fromkeys(bad.kind for bad in BAD):
        head = ("given", "in Python", "gets", "on the command line", "exit code")
        lines += [f"## {kind}", "", f"| {' | '.join(head)} |", "|---|---|---|---|---|"]
        for bad in BAD:
            if bad.kind == kind:
                commands = [name for name in bad.entrances if name.startswith("mlpsf")]
                functions = [name for name in bad.entrances if name not in commands]
                code = Row(bad, commands[0]).gets.removeprefix("exit code ") if commands else ""
                cells = (
                    bad.made,
                    ", ".join(f"`{name}`" for name in functions),
                    bad.gets if functions else "",
                    ", ".join(f"`{name}`" for name in commands),
                    code.replace(FINE, "0"),
                )
                lines.append(
                    f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
                )
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(), end="")
