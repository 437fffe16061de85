"""What a contaminant does to the PSF: ``python -m benchmarks contaminants``.

25 stars of one S/N, one of them, or all, with a point source of some flux beside it at some
distance; positions are measured with the contaminant in place, as they are in use. The PSF is
TRIPPy's (`mlpsf.build_psf`, which clips), and a plain mean of the stars; what counts is its
change from the PSF of the same stars, with the same noise, uncontaminated. FWHM 3 and 6, Moffat and
Kolmogorov, angles at random. A star is better left out when its contaminant takes the largest
residual further than the noise of 24 instead of 25 stars does.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from benchmarks.common.results import record
from benchmarks.common.stamps import OUTPUT
from benchmarks.psf.psf_error import SIDE, errors_of
from mlpsf.files import whole_file
from mlpsf.frames.cutouts import extract_cutouts
from mlpsf.psf import build_psf
from mlpsf.simulation import TruePSF, simulate_frame
from mlpsf.stacks.effective import stack_stars
from mlpsf.stacks.moments import FWHM_PER_SIGMA, gaussian_moments

FIGURE = Path(__file__).parents[1] / "figures" / "contaminants.png"

DISTANCES = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0)
"""Of the contaminant, FWHM."""

FRACTIONS = (0.02, 0.1, 0.4)
"""Flux of the contaminant over that of its star; under the first, its effect is proportional."""

SNRS = (50, 200, 1000)
"""Of every star; only sky noise, in the effective area of a Gaussian PSF."""

N_STARS = 25
BIAS_SNR = 200  # of the stars whose contamination is measured: what TRIPPy clips depends on it

Image = NDArray[np.float64]


@dataclass
class Field:
    """25 stars in a square, far from each other, under one PSF.

    Parameters
    ----------
    fwhm : float
        Pixels.
    profile : str
        As `simulate_frame` takes it.
    seed : int
    """

    fwhm: float
    profile: str
    seed: int
    psf: TruePSF = field(init=False)
    true: Image = field(init=False)

    def __post_init__(self) -> None:
        self.psf = simulate_frame(
            shape=(64, 64),
            fwhm=self.fwhm,
            psf=self.profile,
            e1=0.02,
            n_stars=0,
            n_galaxies=0,
            seed=self.seed,
        ).psf
        self.true = self.psf.stamp(0.0, 0.0, size=SIDE)
        rng = np.random.default_rng([79, self.seed])
        self.pitch = SIDE + 8 + int(2 * max(DISTANCES) * self.fwhm)
        grid = np.indices((5, 5)).reshape(2, -1) * self.pitch + self.pitch // 2
        self.y, self.x = grid + rng.uniform(-0.5, 0.5, (2, N_STARS))
        self.angle = rng.uniform(0, 2 * np.pi, N_STARS)
        self.clean = self._draw(self.x, self.y)

    def _draw(self, x: Image, y: Image) -> Image:
        rim = 2 * self.pitch
        image = np.zeros((5 * self.pitch + 2 * rim,) * 2)
        for at in zip(x, y, strict=True):
            stamp, row, column = self.psf.draw(*at, 2 * self.pitch // 3)
            side = len(stamp)
            image[rim + row : rim + row + side, rim + column : rim + column + side] += stamp
        return image[rim:-rim, rim:-rim]

    def contaminants(self, distance: float, everywhere: bool) -> Image:
        """Draw sources of flux 1 at a distance in FWHM from the first star, or from all."""
        n = N_STARS if everywhere else 1
        x = self.x[:n] + distance * self.fwhm * np.cos(self.angle[:n])
        y = self.y[:n] + distance * self.fwhm * np.sin(self.angle[:n])
        return self._draw(x, y)

    def noise(self, snr: float, seed: int) -> Image:
        """Noise of an image whose stars of flux 1 have some S/N."""
        sigma = 1 / (snr * np.sqrt(4 * np.pi) * self.fwhm / FWHM_PER_SIGMA)
        rng = np.random.default_rng([80, self.seed, seed])
        return rng.normal(0, sigma, self.clean.shape)

    def psfs(self, image: Image, *, stack: bool = True) -> dict[str, Image]:
        """Make TRIPPy's PSF and the plain mean of the stars, shape (SIDE, SIDE) each."""
        cut = extract_cutouts(image, self.x, self.y, SIDE + 2)
        m = gaussian_moments(cut.data, self.fwhm)
        at = np.column_stack([cut.x0 + m.dx, cut.y0 + m.dy])
        model = build_psf(image, at, size=SIDE, background=0.0)
        out = {"build": model.render(SIDE // 2, SIDE // 2, shape=(SIDE, SIDE))}
        if stack:
            centre = np.zeros(1)
            mean = stack_stars(cut.data, m.dx, m.dy, m.flux, SIDE // 2, n_iter=2, clip=np.inf)
            out["stack"] = mean.stamps(centre, centre, SIDE)[0].astype(np.float64)
        return {name: psf / psf.sum() for name, psf in out.items()}


def fields() -> list[Field]:
    """Return FWHM 3 and 6, Moffat and Kolmogorov, two of each with other angles."""
    kinds = [(w, p) for w in (3.0, 6.0) for p in ("moffat", "kolmogorov")]
    return [Field(w, p, seed) for seed, (w, p) in enumerate(kinds)]


def biases(here: Field) -> tuple[list[dict[str, object]], dict[tuple[str, float, float], Image]]:
    """Measure all contaminants of one field.

    Returns
    -------
    rows : list of dict
        A row for each of TRIPPy's and the plain PSF, one and all stars, distance and fraction.
    changes : dict
        By PSF, distance and fraction: the change of the PSF that one star makes.
    """
    noisy = 1e5 * (here.clean + here.noise(BIAS_SNR, 0))
    before = here.psfs(noisy)
    rows: list[dict[str, object]] = []
    changes: dict[tuple[str, float, float], Image] = {}
    for distance in DISTANCES:
        for everywhere in (False, True):
            light = here.contaminants(distance, everywhere)
            for fraction in FRACTIONS:
                if everywhere and fraction != FRACTIONS[0]:
                    continue
                after = here.psfs(noisy + 1e5 * fraction * light)
                for name, psf in after.items():
                    change = psf - before[name]
                    if not everywhere:
                        changes[name, distance, fraction] = change
                    # The truth plus the change: free of what the build itself gets wrong.
                    errors = errors_of(here.true / here.true.sum() + change, here.true, here.fwhm)
                    row = {"psf": name, "stars": "all" if everywhere else "one"}
                    rows.append(row | {"distance": distance, "fraction": fraction, **errors})
    return rows, changes


def break_even(
    here: Field, changes: dict[tuple[str, float, float], Image], realisations: int = 4
) -> list[dict[str, object]]:
    """Find the flux fraction from which a contaminated star is better left out.

    Returns
    -------
    list of dict
        A row for each S/N and distance, for TRIPPy's PSF: ``fraction`` by the largest residual,
        ``square`` by the residuals' mean square.
    """
    exact = here.psfs(1e5 * here.clean, stack=False)["build"]
    # Scaled with the stars' S/N; measured where a few of them make the PSF's noise plain.
    noises = [
        here.psfs(1e5 * (here.clean + here.noise(BIAS_SNR, k)), stack=False)["build"] - exact
        for k in range(1, realisations + 1)
    ]
    fine = np.geomspace(1e-5, FRACTIONS[-1], 161)
    rows: list[dict[str, object]] = []
    for distance in DISTANCES:
        # The change for each unit of flux, between the fractions that were measured.
        unit = np.array([changes["build", distance, f] / f for f in FRACTIONS])
        place = np.clip(np.interp(np.log(fine), np.log(FRACTIONS), np.arange(len(FRACTIONS))), 0, 9)
        low = np.minimum(place.astype(int), len(FRACTIONS) - 2)
        share = (place - low)[:, None, None]
        change = fine[:, None, None] * ((1 - share) * unit[low] + share * unit[low + 1])
        for snr in SNRS:
            scale = BIAS_SNR / snr
            with_it = np.mean([np.abs(scale * n + change).max(axis=(1, 2)) for n in noises], axis=0)
            without = np.mean(
                [scale * np.abs(n).max() * np.sqrt(N_STARS / (N_STARS - 1)) for n in noises]
            )
            worse = np.flatnonzero(with_it > without)
            found = float(fine[worse[0]]) if worse.size else np.inf
            power = np.mean([(scale * n) ** 2 for n in noises], axis=0).sum() / (N_STARS - 1)
            over = np.flatnonzero((change**2).sum(axis=(1, 2)) > power)
            square = float(fine[over[0]]) if over.size else np.inf
            rows.append({"snr": snr, "distance": distance, "fraction": found, "square": square})
    return rows


def medians(rows: Table, keys: tuple[str, ...], values: tuple[str, ...]) -> Table:
    """Median of absolute values over the fields."""
    grouped = rows.group_by(list(keys))
    lines = []
    for group in grouped.groups:
        line = {key: group[key][0] for key in keys}
        lines.append(line | {v: float(np.median(np.abs(group[v]))) for v in values})
    return Table(lines)


def label_line(distance: float) -> tuple[float, float]:
    """Flux fractions under which the labels call a star clean, and from which spoiled."""
    weight = 1.0 if distance <= 4.0 else 0.15
    return 0.005 / weight, 0.02 / weight


def snr_at(row: Table.Row, fraction: float) -> float:
    """S/N from which a flux fraction does more harm than the star does good."""
    # The bias goes with the flux and the noise with 1 / S/N: their product is all but constant.
    known = [(abs(np.log(row[f"S/N {s}"] / fraction)), s * row[f"S/N {s}"]) for s in SNRS]
    return float(min(known)[1] / fraction)


def draw(change: Table, line: Table, path: Path) -> None:
    """Draw both tables."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = {"build": "#0072b2", "stack": "#d55e00"}
    names = {"build": "TRIPPy (mlpsf.build_psf)", "stack": "plain mean"}
    for stars, style in (("one", "-"), ("all", "--")):
        for name, colour in colours.items():
            use = (change["psf"] == name) & (change["stars"] == stars)
            part = change[use & (change["fraction"] == FRACTIONS[0])]
            label = f"{names[name]}, {stars} of 25"
            left.plot(part["distance"], part["residual"], style, color=colour, label=label)
    left.set(
        yscale="log",
        xlabel="distance / FWHM",
        ylabel="largest change of the PSF / peak",
        title=f"a contaminant of {FRACTIONS[0]:.0%}",
    )
    left.legend(fontsize=7, frameon=False)
    for snr, colour in zip(SNRS, ("#56b4e9", "#0072b2", "#000000"), strict=True):
        part = line[line["snr"] == snr]
        found = np.isfinite(part["fraction"])
        label = f"S/N {snr}" if found.any() else f"S/N {snr}: never under {FRACTIONS[-1]:.0%}"
        right.plot(
            part["distance"][found], part["fraction"][found], "o-", ms=3, c=colour, label=label
        )
    d = np.linspace(0.5, 6, 500)
    rule = np.array([label_line(v) for v in d])
    right.fill_between(d, rule[:, 0], rule[:, 1], color="0.85", lw=0, label="labels: ambiguous")
    right.set(
        yscale="log",
        xlabel="distance / FWHM",
        ylabel="contaminant's flux / star's",
        title="from here a star is better left out",
    )
    right.legend(fontsize=7, frameon=False, loc="lower right")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def main() -> None:
    """Measure, print, write and draw."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    warnings.simplefilter("ignore")
    rows: list[dict[str, object]] = []
    even: list[dict[str, object]] = []
    for here in fields():
        more, changes = biases(here)
        rows += more
        even += break_even(here, changes)
        print(f"FWHM {here.fwhm:g}, {here.profile} done", flush=True)
    values = ("residual", "dT/T", "de", "flux")
    change = medians(Table(rows), ("psf", "stars", "fraction", "distance"), values)
    line = medians(Table(even), ("snr", "distance"), ("fraction", "square"))
    for name in values:
        change[name].format = ".5f"
    wide = Table({"distance": DISTANCES})
    for snr in SNRS:
        wide[f"S/N {snr}"] = line["fraction"][line["snr"] == snr]
        wide[f"square, S/N {snr}"] = line["square"][line["snr"] == snr]
    for k, name in enumerate(("clean", "spoiled")):
        wide[name] = [label_line(d)[k] for d in DISTANCES]
        wide[f"S/N at {name}"] = [snr_at(row, row[name]) for row in wide]
        wide[name].format, wide[f"S/N at {name}"].format = ".3f", ".0f"
    for snr in SNRS:
        wide[f"S/N {snr}"].format = wide[f"square, S/N {snr}"].format = ".4f"
    folder = OUTPUT / "contaminants"
    folder.mkdir(parents=True, exist_ok=True)
    record("What a contaminant does to the PSF", change)
    record("Where it does no more harm than noise", wide)
    change.write(folder / "change.ecsv", overwrite=True)
    wide.write(folder / "break_even.ecsv", overwrite=True)
    draw(change, line, FIGURE)
