"""The table of a PSF, and what is measured on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpsf.errors import InputError, PSFError
from mlpsf.pictures import png, wings
from mlpsf.psf.terms import PSFTerms
from mlpsf.psf.trippy import border as border
from mlpsf.psf.trippy.inputs import check_motion
from mlpsf.psf.trippy.tables import Shape, centre_on_pixel, measure_shape, profile
from mlpsf.rich import card

__all__ = ["PSFTable"]

FloatArray = NDArray[np.float64]

_EQUAL = 0.8  # of the brightest pixel: light in the middle that could be it
_NEGATIVE = 0.5  # most of the brightest pixel that the least one is below zero


@dataclass(frozen=True, eq=False, repr=False)
class PSFTable:
    """Data of a PSF, checked and read-only; see :class:`mlpsf.psf.PSFModel` for the parameters."""

    lookup_table: FloatArray
    alpha: float
    beta: float
    rep_fact: int = 10
    stars: FloatArray = field(default_factory=lambda: np.zeros((0, 3)))
    meta: Mapping[str, Any] = field(default_factory=dict)
    motion: tuple[float, float, float, float] | None = None
    terms: PSFTerms | None = None

    def __post_init__(self) -> None:
        table = np.array(self.lookup_table, dtype=np.float64)
        stars = np.array(self.stars, dtype=np.float64).reshape(-1, 3)
        rep = int(self.rep_fact)
        if rep not in border.REP_FACTS:
            raise InputError(f"rep_fact must be one of {border.REP_FACTS}; got {self.rep_fact}")
        side = table.shape[0] if table.ndim == 2 else 0
        if table.shape != (side, side) or side % rep or not (side // rep) % 2 or side < 3 * rep:
            raise InputError(
                f"a lookup table is square, an odd number of pixels times rep_fact {rep}; "
                f"got shape {table.shape}"
            )
        if not np.isfinite(table).all():
            raise PSFError("the lookup table holds values that are not finite")
        if not (0 < self.alpha < np.inf and 1 < self.beta < np.inf):
            raise InputError(
                "a Moffat profile needs alpha > 0 and beta > 1; "
                f"got alpha {self.alpha}, beta {self.beta}"
            )
        if self.motion is not None:
            check_motion(self.motion, side // rep)
        if self.terms is not None and self.terms.tables.shape[1:] != table.shape:
            raise InputError(
                f"the PSF's terms have tables of {self.terms.tables.shape[1:]}, its lookup table "
                f"is {table.shape}"
            )
        for array in (table, stars):
            array.setflags(write=False)
        for name, value in (
            ("lookup_table", table),
            ("stars", stars),
            ("alpha", float(self.alpha)),
            ("beta", float(self.beta)),
            ("rep_fact", rep),
            ("meta", MappingProxyType(dict(self.meta))),
        ):
            object.__setattr__(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        # The TRIPPy object and the caches are recreated when needed.
        state = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**state, "meta": dict(self.meta)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __repr__(self) -> str:
        kind = "trailed " if self.motion else ""
        kind += "varying " if self.varies else ""
        return (
            f"<{kind}PSFModel {self.size} x {self.size} pixels, FWHM {self.fwhm:.2f}, "
            f"ellipticity {self.ellipticity:.2f}, {len(self.stars)} stars>"
        )

    def check(self) -> None:
        """Raise `PSFError` unless this is the image of a star.

        That is finite, its size within its box, less than half as much negative as it is bright,
        and its brightest pixel within its half-maximum: a trailed or defocused star has it anywhere
        there, but is about its middle. A double image has one as bright in its middle.
        """
        if not (np.isfinite(self.oversampled).all() and 0 < self.fwhm < self.size):
            raise PSFError(f"the PSF is no image of a star, of FWHM {self.fwhm:.3g} pixels")
        light, n = self.oversampled, self.oversampled.shape[0] // self.size
        image = light.reshape(self.size, n, self.size, n).sum(axis=(1, 3))
        middle = self.size // 2
        peak = np.array(np.unravel_index(image.argmax(), image.shape))
        # The brightest pixel of a ring is on its rim.
        mean = np.argwhere(image > image.max() / 2).mean(axis=0)
        off = min(float(np.hypot(*(at - middle))) for at in (peak, mean))
        reach = max(0.5 * self.fwhm / np.sqrt(1 - self.ellipticity), 1.5)
        least = image.min() / image.max()
        inner = slice(middle - 1, middle + 2)
        # Of a double image either half may be in the middle.
        if image[inner, inner].max() > _EQUAL * image.max():
            off = 0.0
        wrong = ""
        if off > reach:
            wrong = f"its light is {off:.0f} pixels from its middle"
        elif -least > _NEGATIVE:
            wrong = f"its least pixel has {least:.2g} of the brightest one's light"
        if wrong:
            raise PSFError(
                f"the PSF of FWHM {self.fwhm:.3g} is no image of a star: {wrong}. Look at its "
                "stars, and give others or more"
            )

    def _repr_png_(self) -> bytes:
        sub_pixels = self.oversampled
        return png(wings(sub_pixels, softening=1e-3))

    def _repr_html_(self) -> str:
        order = ("constant", "linear", "quadratic", "cubic")[min(self.order, 3)]
        rows = [
            ("FWHM", f"{self.fwhm:.3f} pixels"),
            ("ellipticity", f"{self.ellipticity:.3f} at {self.position_angle:.0f} degrees"),
            ("box", f"{self.size} x {self.size} pixels, {self.rep_fact} sub-pixels each"),
            ("over the frame", order),
            ("stars", str(len(self.stars))),
            ("frame", str(self.meta.get("frame", "unknown"))),
        ]
        return card("PSF" if self.motion is None else "trailed PSF", rows, self._repr_png_())

    @property
    def size(self) -> int:
        """Side of the box in pixels, odd."""
        return int(self.lookup_table.shape[0]) // self.rep_fact

    @property
    def varies(self) -> bool:
        """Whether the PSF changes over the frame."""
        return self.terms is not None

    @property
    def order(self) -> int:
        """Order of the polynomial over the frame by which the PSF changes; 0 if it does not."""
        return 0 if self.terms is None else self.terms.order

    @cached_property
    def trippy(self) -> Any:
        """A ``trippy.psf.modelPSF``, ready for plant, remove, line, LSfitter, psfStore.

        Changing it does not change this model. Its ``plant`` and ``remove`` take the 0-based centre
        plus 0.5, for round and for trailed sources, and an amplitude: the flux divided by
        `flux_per_amplitude`.
        """
        psf = border.new_psf(self.size, self.alpha, self.beta, self.rep_fact, self.lookup_table)
        for x, y, flux in self.stars:
            psf.psfStars.append([x + 1.0, y + 1.0, flux / psf.fullpsf.sum()])
        psf.A = psf.psfStars[-1][2] if psf.psfStars else 1.0
        if self.motion is not None:
            psf.line(*self.motion[:3], pixScale=self.motion[3])
        return psf

    @cached_property
    def _grid(self) -> tuple[FloatArray, int, float]:
        """Normalised light, sub-pixels per pixel, and the flux of amplitude 1."""
        if self.motion is None:
            light = profile(self.alpha, self.beta, self.lookup_table, self.rep_fact)
        else:
            light = self.trippy.trailed
        table, oversampling = centre_on_pixel(light, self.rep_fact)
        unit = float(table.sum())
        if not unit > 0:
            raise PSFError(f"the PSF's light sums to {unit:g} over its box; it must be positive")
        table = table / unit
        table.setflags(write=False)
        return table, oversampling, unit / oversampling**2

    @property
    def oversampled(self) -> FloatArray:
        """Light in each sub-pixel, with a sum of 1 and the star at the centre; read-only.

        There are `rep_fact` sub-pixels per pixel if that is even, else twice as many. The light of
        a pixel is the sum of its sub-pixels.
        """
        return self._grid[0]

    @property
    def flux_per_amplitude(self) -> float:
        """Flux in the box of a source with TRIPPy's amplitude m = 1: ``fullpsf.sum()``."""
        return self._grid[2]

    @cached_property
    def shape(self) -> Shape:
        """Size and shape of a star's image, pixel included."""
        return measure_shape(*self._grid[:2])

    @property
    def fwhm(self) -> float:
        """Full width at half maximum of a star's image in pixels, pixel included."""
        return self.shape.fwhm

    @property
    def ellipticity(self) -> float:
        """Ellipticity, 1 - b/a."""
        return self.shape.ellipticity

    @property
    def position_angle(self) -> float:
        """Position angle of the long axis in degrees from +x towards +y."""
        return self.shape.position_angle

    @property
    def e1(self) -> float:
        """Distortion along x, (Mxx - Myy) / (Mxx + Myy)."""
        return self.shape.e1

    @property
    def e2(self) -> float:
        """Distortion along the diagonal, 2 Mxy / (Mxx + Myy)."""
        return self.shape.e2
