"""``python -m benchmarks`` lists the commands, ``python -m benchmarks NAME`` runs one."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from importlib import import_module

from benchmarks.common.results import stored

COMMANDS = {
    # name: (module, what it measures)
    "study": ("selection.study", "the ML-PSF study done again, beside its published figures"),
    "head_to_head": ("selection.head_to_head", "all selectors under one cross-validation"),
    "cutouts": ("selection.cutouts", "cutouts alone beside the frame that they are from"),
    "novelty": ("selection.novelty", "what can be done without labels"),
    "selection_defaults": ("selection.selection_defaults", "how many stars, how bright, how sure"),
    "contaminants": ("selection.contaminants", "what a contaminant does to the PSF"),
    "any_frame": ("selection.any_frame", "what is said of frames of every kind"),
    "any_input": ("robust.any_input", "frames of any kind: an error in words, or a valid PSF"),
    "units": ("robust.units", "the same frame in another unit, with another sky: the same stars"),
    "flips": ("robust.flips", "damaged files: an error in words, or a valid result"),
    "fuzz": ("robust.fuzz", "files changed under guidance of coverage: as flips"),
    "faults": ("robust.faults", "a night whose workers, disks and files fail: nothing is lost"),
    "special_frames": ("selection.special_frames", "stars and PSFs of space, drizzled, varying"),
    "real_frames": ("selection.real_frames", "sheets of what is chosen on your own frames"),
    "picture": ("selection.picture", "the picture at the top of the README"),
    "psf_error": ("psf.psf_error", "the PSF against the truth, by who chose its stars"),
    "psf_quality": ("psf.psf_quality", "the PSF against the truth, by who built it"),
    "crowded": ("psf.crowded", "PSFs of crowded fields, beside PSFEx, photutils and DAOPHOT"),
    "psf_variation": ("psf.psf_variation", "a PSF that varies, at 81 places, by who built it"),
    "doors": ("export.doors", "every tool on what was exported for it"),
    "fitters": ("psf.fitters", "the vectorised PSF fit against TRIPPy's"),
    "speed": ("speed.speed", "time and memory beside SExtractor and PSFEx"),
    "counts": ("speed.counts", "operations of a frame, whatever the machine"),
    "scaling": ("speed.scaling", "many frames: rate and memory by workers"),
    "crowds": ("speed.crowds", "time and memory of crowded frames, by their number of stars"),
    "train_pretrained": ("training.train_pretrained", "makes the model that ships"),
    "calibrate_pretrained": (
        "training.calibrate_pretrained",
        "calibrates the model that ships as it is used",
    ),
    "ablation": ("training.ablation", "what each part of the model's making bought"),
    "retraining": ("training.retraining", "the shipped model, taught further"),
    "results": ("common.results", "makes RESULTS.md of what the others stored"),
    "calibrate_residual": ("training.calibrate_residual", "the residual rule's calibration"),
}


def main() -> int:
    """Run the command that is named; list all unless one is."""
    name = sys.argv[1] if sys.argv[1:] else ""
    if name not in COMMANDS:
        width = max(map(len, COMMANDS))
        print("python -m benchmarks NAME [OPTIONS] [--keep[=PART]]\n")
        for command, (_, text) in COMMANDS.items():
            print(f"  {command:{width}}  {text}")
        print(
            "\n--keep stores what is printed in benchmarks/results, of which RESULTS.md is made; "
            "--keep=PART\nbeside what is kept of NAME with other options."
        )
        return 0 if name in ("", "-h", "--help") else 2
    words = [word for word in sys.argv[2:] if word.partition("=")[0] != "--keep"]
    part = [word.partition("=")[2] for word in sys.argv[2:] if word not in words]
    if part and not re.fullmatch("[a-z0-9_]*", part[-1]):
        print(f"--keep=PART is made of a to z, 0 to 9 and _. Got {part[-1]!r}.", file=sys.stderr)
        return 2
    sys.argv = [f"python -m benchmarks {name}", *words]
    module, what = COMMANDS[name]
    with stored(name, what, words, part=part[-1]) if part else nullcontext():
        import_module(f"benchmarks.{module}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
