"""Checks of settings: names, types and ranges of a dataclass, with a sentence for every fault."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


class ConfigError(ValueError):
    """What a user's configuration gets wrong; `faults` has one sentence for each fault."""

    def __init__(self, faults: Iterable[str]):
        self.faults = list(faults)
        super().__init__("\n".join(self.faults))


class _WrongType(Exception):
    """A value that is not of the declared type; its text says what must hold."""


def bounded(
    default: Any = dataclasses.MISSING,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    word: str | None = None,
    do: str = "",
) -> Any:
    """A dataclass field whose numbers (each element of a list) keep to a range.

    Args:
        default: The field's default; without one the key must be given.
        above: Numbers must be greater than this.
        least: Numbers must be this or greater.
        below: Numbers must be smaller than this.
        most: Numbers must be this or smaller.
        word: What may stand in place of a number, until it is settled which.
        do: What a user can do about a value out of range, as a sentence.
    """
    bounds = [(">", above), (">=", least), ("<", below), ("<=", most)]
    kept = [(sign, b) for sign, b in bounds if b is not None]
    metadata = {"bounds": kept, "do": do, "word": word}
    return dataclasses.field(default=default, metadata=metadata)


def place(default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that says where something lies: its content counts, and not its name."""
    return dataclasses.field(default=default, metadata={"place": True})


def unknown_name(what: str, name: object, known: Iterable[str], where: str) -> str:
    """The sentence for a name nobody knows: the known ones, and the nearest."""
    names = sorted(known)
    hint = _nearest(str(name), names)
    return f"{what} must be one of {', '.join(names)}, but got {name!r} ({where}).{hint}"


def _nearest(name: str, known: Iterable[str]) -> str:
    """Asks whether the nearest known name was meant, where there is one; case is no matter."""
    names = {known_name.casefold(): known_name for known_name in known}
    near = difflib.get_close_matches(name.casefold(), names, n=1, cutoff=0.5)
    return f" Did you mean {names[near[0]]!r}?" if near else ""


def check_keys(raw: Mapping, known: Iterable[str], where: str, faults: list[str]) -> None:
    """Adds a fault for every key of `raw` that is not in `known`."""
    known = list(known)
    faults += [unknown_name("A key", key, known, where) for key in raw if key not in known]


def check_mapping(raw: object, where: str, faults: list[str]) -> Mapping:
    """`raw` if it is a mapping, else an empty one and a fault; null is an empty mapping."""
    if raw is None:
        return {}
    if isinstance(raw, Mapping):
        return raw
    faults.append(f"`{where}` must be a mapping of keys to values, but got {raw!r}. Indent keys.")
    return {}


def read(cls: type, raw: Mapping, where: str, faults: list[str]) -> Any:
    """Builds the dataclass `cls` from a mapping, or adds faults and returns None.

    Args:
        cls: A dataclass of int, float, bool, str, Literal, tuple[.., ...] or Optional fields.
        raw: The keys a user or a preset gave.
        where: The place named in messages, such as `problems[0].overrides.data`.
        faults: Collects one sentence for each fault.
    """
    values = read_values(cls, raw, where, faults)
    return None if values is None else cls(**values)


def read_values(cls: type, raw: Mapping, where: str, faults: list[str]) -> dict | None:
    """The arguments of `cls` taken from `raw`, coerced and checked; None if there are faults."""
    before = len(faults)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    check_keys(raw, fields, where, faults)
    hints = typing.get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        if name in raw:
            values[name] = _read_field(field, hints[name], raw[name], where, faults)
        elif field.default is dataclasses.MISSING:
            faults.append(f"`{name}` must be given, but is missing ({where}). Add `{name}:`.")
    return values if len(faults) == before else None


def _read_field(field: Any, hint: Any, value: Any, where: str, faults: list[str]) -> Any:
    word = field.metadata.get("word")
    if word is not None and value == word:
        return word
    try:
        value = _coerce(hint, value)
    except _WrongType as wrong:
        rule = f"{wrong} or {word}" if word else str(wrong)
        faults.append(
            f"`{field.name}` must be {rule}, but got {field.name}={value!r} ({where})."
            f"{_near(hint, value)}"
        )
        return None
    for number in value if isinstance(value, tuple) else (value,):
        if number is not None and (rule := _broken(field, number)):
            do = field.metadata["do"]
            faults.append(
                f"`{rule}` must hold, but got {field.name}={_shown(value)!r} ({where})."
                + (f" {do}" if do else "")
            )
            break
    return value


def _broken(field: Any, number: float) -> str | None:
    holds = {">": float.__gt__, ">=": float.__ge__, "<": float.__lt__, "<=": float.__le__}
    for sign, bound in field.metadata.get("bounds", ()):
        if not holds[sign](float(number), float(bound)):
            return f"{field.name} {sign} {bound}"
    return None


def _shown(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _near(hint: Any, value: Any) -> str:
    if typing.get_origin(hint) is not typing.Literal or not isinstance(value, str):
        return ""
    return _nearest(value, typing.get_args(hint))


def _coerce(hint: Any, value: Any) -> Any:
    """`value` as the declared type, where it is that type up to spelling (100.0 is 100)."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _coerce_optional(args, value)
    if origin is typing.Literal:
        if not isinstance(value, str) or value not in args:
            raise _WrongType("one of " + ", ".join(args))
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _WrongType(f"a list, each {_name(args[0])}")
        return tuple(_coerce(args[0], item) for item in value)
    return _coerce_scalar(hint, value)


def _coerce_optional(args: tuple, value: Any) -> Any:
    if value is None:
        return None
    inner = next(arg for arg in args if arg is not type(None))
    try:
        return _coerce(inner, value)
    except _WrongType as wrong:
        raise _WrongType(f"{wrong} or null") from None


def _coerce_scalar(hint: Any, value: Any) -> Any:
    if hint is float and isinstance(value, str) and _EXPONENT.fullmatch(value):
        value = float(value)  # YAML 1.1 reads 1e-3, which has no dot, as text.
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        if hint is float:
            return float(value)
        if hint is int and value == int(value):
            return int(value)
    if hint in (bool, str) and isinstance(value, hint):
        return value
    raise _WrongType(_name(hint))


def _name(hint: Any) -> str:
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
    return names.get(hint, str(hint))
