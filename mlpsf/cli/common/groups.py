"""Groups of options that several commands take, each written once.

A command names a group as one parameter; `grouped` shows its fields to typer as options.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from mlpsf.cli.common.options import (
    CatalogueOption,
    GainOption,
    HduOption,
    KeepOption,
    MaskOption,
    ModelOption,
    NMaxOption,
    NMinOption,
    RelaxOption,
    ReserveOption,
    SaturationOption,
    SecondLookOption,
    SelectorName,
    SelectorOption,
    SnrOption,
    StarsOption,
    ThresholdOption,
    VetoOption,
    hdu_number,
)
from mlpsf.errors import InputError

__all__ = ["Choosing", "General", "Lists", "Reading", "grouped"]


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter of a command that is a group by the group's options."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {}
    shown: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if not is_dataclass(kind):
            shown[name] = parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY)
            continue
        groups[name] = kind
        types = get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            shown[field.name] = inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=types[field.name],
            )

    @wraps(command)
    def wrapped(**values: Any) -> None:
        for name, kind in groups.items():
            values[name] = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
        command(**values)

    del wrapped.__wrapped__  # or its signature would be that of the command
    wrapped.__signature__ = inspect.Signature(list(shown.values()))  # type: ignore[attr-defined]
    wrapped.__annotations__ = {name: p.annotation for name, p in shown.items()}
    return wrapped


@dataclass(frozen=True)
class Reading:
    """How the pixels of a frame are understood."""

    gain: GainOption = None
    saturation: SaturationOption = None
    mask: MaskOption = None

    def frame(self, path: Path, hdu: HduOption = None) -> Any:
        """Read a frame."""
        from mlpsf.frames.io.reading import read_frame

        return read_frame(
            path,
            hdu=hdu_number(hdu),
            mask=self.mask,
            gain=self.gain,
            saturation=self.saturation,
        )


@dataclass(frozen=True)
class Choosing:
    """How stars are chosen."""

    selector: SelectorOption = SelectorName.cnn
    model: ModelOption = None
    catalogue: CatalogueOption = None
    threshold: ThresholdOption = None
    n_max: NMaxOption = 25
    n_min: NMinOption = None
    reserve: ReserveOption = 0.0
    relax: RelaxOption = False
    snr_min: SnrOption = 50.0
    second_look: SecondLookOption = True

    def settings(self) -> dict[str, Any]:
        """Return the options by name, for `mlpsf.batch.Settings`."""
        from mlpsf.selection.choice import N_MIN

        if self.model is not None and self.selector is SelectorName.residual:
            raise InputError("--model and --selector residual exclude each other: give one.")
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        settings["selector"] = self.selector.value
        settings["n_min"] = min(N_MIN, self.n_max) if self.n_min is None else self.n_min
        return settings

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `mlpsf.select_stars`."""
        arguments = self.settings()
        model = arguments.pop("model")
        if model is not None:
            from mlpsf.selectors.loading import load_judge

            arguments["selector"] = load_judge(model)
        return arguments


@dataclass(frozen=True)
class Lists:
    """Stars that the user names."""

    stars: StarsOption = None
    keep: KeepOption = None
    veto: VetoOption = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `mlpsf.select_stars`."""
        return {"stars": self.stars, "keep": self.keep, "veto": self.veto}


@dataclass(frozen=True)
class General:
    """What a command says, and where settings may come from."""

    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.")] = False
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="A line a step on stderr, with its seconds.")
    ] = False
    as_json: Annotated[
        bool,
        typer.Option("--json", help="The result as a line of JSON on stdout, for scripts."),
    ] = False
    config: Annotated[
        Path | None,
        typer.Option(
            help="Settings from this file (TOML: option = value). Default: mlpsf.toml beside the "
            "first file, if there is one. The command line wins.",
            show_default=False,
        ),
    ] = None
