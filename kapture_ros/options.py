"""One definition of a component's settings: a frozen dataclass.

From it come the command line's options, the keys of the YAML file, the node's
parameters and the parameter table of the documentation:

    @dataclass(frozen=True)
    class RetrievalOptions:
        top_k: int = option(20, "map images to match against", minimum=1)
        radius: float = option(50.0, "gate around the GNSS position", unit="m", minimum=0)

Values are int, float, bool, str, tuples of those, or None where the type allows it.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from kapture_ros.errors import InputError, OptionError

T = TypeVar("T")


def option(
    default: Any,
    help: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field with its explanation, unit and allowed values."""
    meta = {"help": help, "unit": unit, "minimum": minimum, "maximum": maximum, "choices": choices}
    return dataclasses.field(default=default, metadata=meta)


@dataclasses.dataclass(frozen=True)
class OptionInfo:
    """One option as the borders see it."""

    name: str
    type: type
    optional: bool
    many: bool
    default: Any
    help: str
    unit: str
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """The allowed values in words; empty when anything goes."""
        if self.choices:
            return " | ".join(self.choices)
        if self.minimum is not None and self.maximum is not None:
            return f"{self.minimum:g} to {self.maximum:g}"
        if self.minimum is not None:
            return f"at least {self.minimum:g}"
        if self.maximum is not None:
            return f"at most {self.maximum:g}"
        return ""

    @property
    def explanation(self) -> str:
        """Help, unit and range in one line."""
        notes = [note for note in (self.unit, self.allowed) if note]
        return self.help + (f" [{', '.join(notes)}]" if notes else "")


def describe(cls: type[Any]) -> list[OptionInfo]:
    """The options of a dataclass, in order."""
    hints = typing.get_type_hints(cls)
    found = []
    for field in dataclasses.fields(cls):
        if "help" not in field.metadata:
            continue
        base, optional, many = _parse_type(hints[field.name])
        found.append(
            OptionInfo(field.name, base, optional, many, field.default, **dict(field.metadata))
        )
    return found


def _parse_type(hint: Any) -> tuple[type, bool, bool]:
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        optional = len(members) < len(typing.get_args(hint))
        (hint,) = members
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], optional, True
    return hint, optional, False


def check(info: OptionInfo, value: Any, where: str) -> Any:
    """Convert and validate one value.

    Raises:
        OptionError: naming the option, the value and what is allowed.
    """
    if value is None:
        if info.optional:
            return None
        raise OptionError(f"{where}: '{info.name}' must not be empty")
    if info.many:
        items = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else value
        return tuple(_check_one(info, item, where) for item in items)
    return _check_one(info, value, where)


def _check_one(info: OptionInfo, value: Any, where: str) -> Any:
    expected = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    wrong = OptionError(
        f"{where}: '{info.name}' is {value!r} but must be {expected[info.type]}"
        + (f" ({info.allowed})" if info.allowed else "")
    )
    if info.type is bool:
        if not isinstance(value, bool):
            raise wrong
        return value
    if isinstance(value, bool) or (info.type is str) != isinstance(value, str):
        raise wrong
    try:
        converted = info.type(value)
    except (TypeError, ValueError, OverflowError):
        raise wrong from None
    if info.type is int and converted != value:
        raise wrong
    if info.choices and converted not in info.choices:
        raise wrong
    if info.type in (int, float):
        if not math.isfinite(converted):
            raise wrong
        if info.minimum is not None and converted < info.minimum:
            raise wrong
        if info.maximum is not None and converted > info.maximum:
            raise wrong
    return converted


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Options from a mapping (a YAML file, a node's parameters).

    Args:
        where: what the values came from, for the error message.

    Raises:
        OptionError: if it is no mapping, on an unknown key (with the nearest known one) or a
            bad value.
    """
    if not isinstance(values, Mapping):
        raise OptionError(f"{where}: expected 'key: value' lines, found {values!r}")
    infos = {info.name: info for info in describe(cls)}
    unknown = [key for key in values if key not in infos]
    if unknown:
        near = difflib.get_close_matches(unknown[0], infos, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(infos)}"
        raise OptionError(f"{where}: unknown option '{unknown[0]}'{hint}")
    return cls(**{key: check(infos[key], value, where) for key, value in values.items()})


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top level is a mapping.

    Raises:
        InputError: if it is missing, unreadable or something else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected 'key: value' lines, found {type(content).__name__}")
    return content


def add_arguments(parser: argparse.ArgumentParser, cls: type[Any]) -> None:
    """Add `--top-k 20` and the like for every option of the dataclass."""
    group = parser.add_argument_group(cls.__name__.removesuffix("Options").lower() + " options")
    for info in describe(cls):
        flag = "--" + info.name.replace("_", "-")
        text = info.explanation.replace("%", "%%") + f" (default: {_shown(info.default)})"
        if info.type is bool and not info.many:
            action = argparse.BooleanOptionalAction
            group.add_argument(flag, action=action, default=None, help=text, dest=info.name)
            continue
        group.add_argument(
            flag,
            type=info.type,
            nargs="+" if info.many else None,
            default=None,
            metavar=info.unit.upper() or info.type.__name__.upper(),
            help=text,
            dest=info.name,
        )


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(str(item) for item in value) or "none"
    return "none" if value is None or value == "" else str(value)


def from_arguments(cls: type[T], args: argparse.Namespace, config: Path | None = None) -> T:
    """Options from the command line over a YAML file over the defaults."""
    values = load_yaml(config) if config else {}
    options = from_mapping(cls, values, str(config))
    given = {
        info.name: getattr(args, info.name)
        for info in describe(cls)
        if getattr(args, info.name, None) is not None
    }
    checked = from_mapping(cls, given, "command line")
    return dataclasses.replace(  # type: ignore[type-var]
        options, **{name: getattr(checked, name) for name in given}
    )


def to_yaml(cls: type[Any], indent: int = 0) -> str:
    """The defaults as commented YAML lines: the body of a parameter file."""
    pad = " " * indent
    lines = []
    for info in describe(cls):
        value = list(info.default) if isinstance(info.default, tuple) else info.default
        shown = yaml.safe_dump(value, default_flow_style=True, width=10_000)
        shown = shown.removesuffix("...\n").strip()
        lines += [f"{pad}# {info.explanation}", f"{pad}{info.name}: {shown}"]
    return "\n".join(lines) + "\n"
