"""Settings from a file: ``mlpsf.toml`` beside the data, or ``--config``.

The command line wins over the file. A key is an option without its dashes; keys of the file's top
are for all commands that have the option, those of a table named like a command for this one.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, get_args, get_type_hints

import typer
from typer.core import TyperCommand

from mlpsf.cli.common.telling import tell
from mlpsf.errors import InputError

__all__ = ["CONFIG", "configured"]

CONFIG = "mlpsf.toml"
"""Name of the file that is looked for beside the first file of a command."""

_TYPED = frozenset({"config", "overwrite", "help"})  # to be given each time
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", Path: "a path"}


def configured(command: Callable[..., Any]) -> type[TyperCommand]:
    """Return the class of a command whose defaults a file may set."""
    hints = get_type_hints(command)
    kinds = {name: _kind(hint) for name, hint in hints.items()}
    return type("ConfiguredCommand", (_Configured,), {"kinds": kinds})


def _kind(hint: Any) -> str:
    """Return what an option's values are: one, none, or a list of them."""
    found = (_KINDS.get(hint), *map(_kind, get_args(hint)))
    return next((kind for kind in found if kind not in (None, "text")), "text")


class _Configured(TyperCommand):
    """A command whose defaults a file may set."""

    kinds: ClassVar[dict[str, str]] = {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line; what it leaves open is taken from the file."""
        if not ctx.resilient_parsing and "--help" not in args:
            given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
            path = _find(given.get("config"), self._first_file(given))
            if path is not None:
                self._take(ctx, path, given)
        return list(super().parse_args(ctx, args))

    def invoke(self, ctx: Any) -> Any:
        """Run the command, and say which settings are from a file."""
        if "mlpsf.config" in ctx.meta and not ctx.params.get("quiet"):
            path, keys = ctx.meta["mlpsf.config"]
            tell(f"Settings from {path}: {', '.join(keys)}.")
        return super().invoke(ctx)

    def _first_file(self, given: dict[str, Any]) -> str | None:
        for param in self.params:
            if param.param_type_name == "argument":
                value = given.get(param.name or "")
                first = value[0] if isinstance(value, list | tuple) and value else value
                return first if isinstance(first, str) else None
        return None

    def _take(self, ctx: Any, path: Path, given: dict[str, Any]) -> None:
        commands = set(ctx.parent.command.commands) if ctx.parent else set()
        content = _read(path)
        options = {
            max(param.opts, key=len).lstrip("-"): param
            for param in self.params
            if param.param_type_name == "option" and param.name not in _TYPED
        }
        own = content.get(ctx.info_name, {})
        common = {k: v for k, v in content.items() if not (isinstance(v, dict) and k in commands)}
        known = _all_options(ctx)
        if unknown := sorted(set(own) - set(options)):
            raise _unknown(path, f"[{ctx.info_name}] {unknown[0]}", unknown[0], options)
        if unknown := sorted(set(common) - known):
            raise _unknown(path, unknown[0], unknown[0], dict.fromkeys(known | commands))
        wanted = {key: v for key, v in {**common, **own}.items() if key in options}
        found = {}
        for key, value in wanted.items():
            param = options[key]
            # Typer hands only what was given to the parser on; a flag that was not is absent.
            if param.name in given and given[param.name] is not None:
                continue
            found[param.name] = _value(ctx, path, key, value, param, self.kinds[param.name])
        if found:
            ctx.default_map = {**(ctx.default_map or {}), **found}
            ctx.meta["mlpsf.config"] = (path, sorted(k for k in wanted if options[k].name in found))


def _find(given: Any, first: str | None) -> Path | None:
    if given is not None:
        path = Path(str(given))
        if not path.is_file():
            raise InputError(f"There is no file {path} of settings.")
        return path
    if first is None:
        return None
    path = Path(first.removeprefix("@")).parent / CONFIG
    return path if path.is_file() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as settings (TOML): {error}.") from error


def _all_options(ctx: Any) -> set[str]:
    if ctx.parent is None:
        return set()
    return {
        max(param.opts, key=len).lstrip("-")
        for command in ctx.parent.command.commands.values()
        for param in command.params
        if param.param_type_name == "option" and param.name not in _TYPED
    }


def _unknown(path: Path, where: str, key: str, known: dict[str, Any]) -> InputError:
    if key in _TYPED:
        return InputError(
            f"{path}: {where} cannot be set in a file: give --{key} on the command line, each time."
        )
    near = get_close_matches(str(key).replace("_", "-"), [*known, *_TYPED], n=1)
    guess = f" Did you mean {near[0]}?" if near else f" Known: {', '.join(sorted(known))}."
    return InputError(f"{path}: there is no option {where}.{guess}")


def _value(ctx: Any, path: Path, key: str, value: Any, param: Any, kind: str) -> Any:
    if isinstance(value, dict):
        raise InputError(f"{path}: {key} is an option, and its value no table.")
    if (kind == _KINDS[bool]) is not isinstance(value, bool):
        raise InputError(f"{path}: {key} must be {kind}. Got {json.dumps(value, default=str)}.")
    if param.multiple and not isinstance(value, list):
        value = [value]
    if isinstance(value, list) and not param.multiple and param.nargs == 1:
        raise InputError(f"{path}: {key} is one value, not a list. Got {value!r}.")
    # A file is found from where the settings are, not from where the command is given.
    values = value if isinstance(value, list) else [value]
    if kind == _KINDS[Path] and all(isinstance(one, str) for one in values):
        values = [str(path.parent / Path(one).expanduser()) for one in values]
    value = values if isinstance(value, list) else values[0]
    try:
        param.process_value(ctx, value)
    except typer.BadParameter as error:
        said = error.message.rstrip(".")
        raise InputError(
            f"{path}: {key} cannot be {json.dumps(value, default=str)}. {said}."
        ) from error
    return value
