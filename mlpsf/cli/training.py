"""Commands ``label`` and ``train``, to make a new model."""

from __future__ import annotations

import math
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mlpsf.cli.common.groups import General, grouped
from mlpsf.cli.common.options import HduOption, OverwriteOption, check_outputs, hdu_number
from mlpsf.cli.common.progress import Progress
from mlpsf.cli.common.telling import tell
from mlpsf.errors import InputError
from mlpsf.files import check_replaceable

__all__ = ["EXIT_SOME_FAILED", "label", "train"]

EXIT_SOME_FAILED = 4
_FINE_TUNING_RATE = 1e-4  # a tenth of Adam's usual rate, to preserve what the model has learnt


class Rule(StrEnum):
    """Names of labelling rules on the command line."""

    residual = "residual"
    truth = "truth"


class Architecture(StrEnum):
    """Names of networks on the command line."""

    compact = "compact"
    published = "published"


class Balance(StrEnum):
    """How to balance good and other sources."""

    weights = "weights"
    undersample = "undersample"
    none = "none"


@grouped
def label(
    frames: Annotated[
        list[Path],
        typer.Argument(metavar="FRAME...", help="FITS files; .fz, .gz and others too."),
    ],
    out: Annotated[Path, typer.Option(help="The set of labelled cutouts, HDF5.")] = Path("set.h5"),
    rule: Annotated[
        Rule,
        typer.Option(
            help="residual: the best of each frame by the residuals of PSF subtraction. "
            "truth: what is known of frames that mlpsf simulate wrote."
        ),
    ] = Rule.residual,
    good: Annotated[
        list[Path] | None,
        typer.Option(
            help="Your own list of good stars instead of a rule: a table with x, y (from 0), "
            "X_IMAGE, Y_IMAGE (from 1) or ra, dec. One for all frames, or once a frame, in order.",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of the cutouts in pixels. Default: 41; 111 with --native.",
            show_default=False,
        ),
    ] = None,
    native: Annotated[
        bool,
        typer.Option(
            "--native",
            help="Cutouts at the frame's own scale, as the published network takes them, not "
            "resampled to a FWHM of 4 pixels.",
        ),
    ] = False,
    snr_min: Annotated[float, typer.Option(help="Least signal-to-noise ratio of a source.")] = 50.0,
    n_best: Annotated[
        int, typer.Option(min=1, help="Candidates of a frame, by the residual rule.")
    ] = 25,
    hdu: HduOption = None,
    overwrite: OverwriteOption = False,
    *,
    general: General,
) -> None:
    """Cut out and label the sources of FRAMEs, as a set to train on.

    A frame that cannot be used is said in a line and left out: exit code 4, or 1 where none can.

    Examples:

        mlpsf label night1/*.fits --out set.h5

        mlpsf label frame.fits --good my_stars.csv --native --out set.h5
    """  # noqa: D406, D407, D412 - the help of a command, not numpydoc
    from mlpsf.training.frame_labels import label_frames

    if good and rule is not Rule.residual:
        raise InputError("Give either --good or --rule truth, not both.")
    check_outputs([(out, None)], [*frames, *(good or [])], overwrite=overwrite)
    with Progress(general) as progress:
        progress("labelling")
        report = label_frames(
            frames,
            out,
            rule="list" if good else rule.value,
            good=good,
            size=size,
            native=native,
            snr_min=snr_min,
            n_best=n_best,
            hdu=hdu_number(hdu),
            progress=not general.quiet,
        )
        used = report[report["error"] == ""]
        if general.verbose:
            for row in used:
                counts = ", ".join(f"{row[key]} {key}" for key in ("good", "other", "ambiguous"))
                progress.note(f"{row['frame']}: {counts}")
        for row in report:
            progress.result(**{name: row[name] for name in report.colnames})
        n, n_good, n_other, n_ambiguous = (
            int(used[key].sum()) for key in ("n", "good", "other", "ambiguous")
        )
        progress.note(
            f"{n} cutouts of {len(used)} of {len(report)} frames: {n_good} good, {n_other} other, "
            f"{n_ambiguous} ambiguous; set in {out}."
        )
    if len(used) < len(report):
        raise typer.Exit(EXIT_SOME_FAILED)


@grouped
def train(
    cutouts: Annotated[
        Path, typer.Argument(metavar="SET", help="Labelled cutouts, as mlpsf label wrote them.")
    ],
    out: Annotated[Path, typer.Option(help="The model (.keras).")] = Path("model.keras"),
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="pretrained|FILE",
            help="Train this model further: the one that ships, or a file. Default: from nothing.",
            show_default=False,
        ),
    ] = None,
    architecture: Annotated[
        Architecture | None,
        typer.Option(help="Network to train from nothing. Default: compact.", show_default=False),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="At most so many passes.")] = 30,
    batch_size: Annotated[int, typer.Option(min=1, help="Cutouts a step.")] = 256,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help=f"Of Adam. Default: 0.001; {_FINE_TUNING_RATE:g} with --from.",
            show_default=False,
        ),
    ] = None,
    validation: Annotated[
        float,
        typer.Option(
            min=0.0, max=0.9, help="Share of the frames held out: to stop, calibrate and test by."
        ),
    ] = 0.2,
    patience: Annotated[
        int,
        typer.Option(
            min=0, help="Stop after so many epochs without a gain on held-out frames; 0: never."
        ),
    ] = 5,
    balance: Annotated[
        Balance,
        typer.Option(
            help="Good and other sources: equal weights, equal numbers of every frame, or as is."
        ),
    ] = Balance.weights,
    seed: Annotated[int, typer.Option(help="The same seed gives the same model.")] = 1,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on after the last epoch of a training that was stopped, if there is one; "
            "the model is that of a training without the stop.",
        ),
    ] = False,
    overwrite: OverwriteOption = False,
    *,
    general: General,
) -> None:
    """Train a network on SET, and write it as a model for --model of select and psf.

    The set is read from disk as it is needed and may be larger than memory. Figures on frames
    held out are printed at the end. Stopped, or killed, after an epoch or more: give the same
    command with --resume. NAME.checkpoint.npz beside the model holds what it needs until then.

    Examples:

        mlpsf train set.h5 --from pretrained --out model.keras

        mlpsf train set.h5 --architecture published --epochs 50 --out model.keras
    """  # noqa: D406, D407, D412 - the help of a command, not numpydoc
    from mlpsf.selectors.cnn import PSFStarSelector
    from mlpsf.training.sets import CutoutSet
    from mlpsf.training.train import train_on_set

    if out.suffix != ".keras":
        raise InputError(f"A model file ends in .keras. Got {out.name!r}.")
    begun = None if start in (None, "pretrained") else Path(start)
    checkpoint = out.with_suffix(".checkpoint.npz")
    check_outputs([(out, None)], [cutouts, begun], overwrite=overwrite)
    if not resume:
        check_replaceable(checkpoint, None, overwrite, how="--resume goes on from it; --overwrite")
    if start is not None and architecture is not None:
        raise InputError("A model that --from gives has its --architecture already.")
    with Progress(general, ("reading", "training", "writing")) as progress:
        progress("reading")
        with CutoutSet(cutouts) as data:
            if start is None:
                name = (architecture or Architecture.compact).value
                selector = PSFStarSelector(architecture=name)
            elif start == "pretrained":
                selector = PSFStarSelector.from_pretrained()
            else:
                selector = PSFStarSelector.load(start)
            selector.set_params(
                epochs=epochs,
                batch_size=batch_size,
                learning_rate=learning_rate or (1e-3 if start is None else _FINE_TUNING_RATE),
                validation_fraction=validation,
                early_stopping=patience > 0 and validation > 0,
                patience=patience,
                class_weight="balanced" if balance is Balance.weights else None,
                random_state=seed,
                verbose=0,
            )
            progress("training")
            try:
                trained = train_on_set(
                    data,
                    selector,
                    undersample=balance is Balance.undersample,
                    progress=not general.quiet,
                    checkpoint=checkpoint,
                    resume=resume,
                )
            except KeyboardInterrupt as stop:
                done = ": --resume goes on after the last whole epoch" * checkpoint.exists()
                tell(f"mlpsf: stopped{done}")
                raise typer.Exit(130) from stop
            n_frames = len(set(data.frame[trained.held_out_].tolist()))
        progress("writing")
        trained.save(out)
        checkpoint.unlink(missing_ok=True)
        if general.verbose:
            for line in _epochs(trained.history_):
                progress.note(line)
        for line in _figures(trained, n_frames, out):
            progress.note(line)
        progress.result(
            model=out,
            epochs=len(trained.history_["loss"]),
            n_frames_held_out=n_frames,
            **{name: asdict(s) for name, s in trained.scores_.items()},
        )


def _epochs(history: dict[str, list[float]]) -> list[str]:
    """Return a line an epoch: what was measured in it."""
    lines = []
    for k in range(len(history["loss"])):
        measured = (f"{name} {v[k]:.4g}" for name, v in history.items() if k < len(v))
        lines.append(f"epoch {k + 1}: {', '.join(measured)}")
    return lines


def _figures(trained: Any, n_frames: int, out: Path) -> list[str]:
    """Return the scores as lines of text."""
    done = f"{len(trained.history_['loss'])} epochs; model in {out}."
    if not trained.scores_:
        as_before = trained.calibration_ != (1.0, 0.0)
        how = "calibrated as before" if as_before else "not calibrated"
        return [f"{done} No frames were held out: its probabilities are {how}."]
    lines = [
        f"{done} On {n_frames} frames held out:",
        f"{'':8} {'n':>7} {'good':>7} {'accuracy':>9} {'ROC AUC':>8} {'precision':>10} "
        f"{'recall':>7}   (balanced; both last at 0.9)",
    ]
    lines += [
        f"{name:8} {s.n:7} {s.n_good:7} {s.balanced_accuracy:9.3f} {s.roc_auc:8.3f} "
        f"{s.precision:10.3f} {s.recall:7.3f}".replace("nan", "  -")
        for name, s in trained.scores_.items()
    ]
    before, after = trained.scores_.get("before"), trained.scores_["after"]
    if before is not None and after.roc_auc < before.roc_auc:
        lines.append(
            "It tells them apart no better than the model that it began from: keep that one, or "
            "label more frames."
        )
    scores = trained.scores_.values()
    reasons = []
    if any(math.isnan(s.roc_auc) for s in scores):
        reasons.append("all sources held out are of one class")
    if any(math.isnan(s.precision) for s in scores):
        reasons.append("none reaches 0.9")
    if reasons:
        lines.append(f"-: {', or '.join(reasons)}; give more frames.")
    return lines
