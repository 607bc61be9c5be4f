"""Reads the settings of a Parsl file from the environment, and checks them."""

from __future__ import annotations

import os
import re
from typing import TypeVar

from lambda_hat.conf.checks import ConfigError

Value = TypeVar("Value", int, float, str)

PLAIN_WORD = re.compile(r"[\w.,:/@%+=-]*")


def setting(name: str, default: Value, *, least: float | None = None) -> Value:
    """The environment variable `name` as a value of the type of `default`.

    Args:
        name: The variable; empty counts as not set.
        default: What holds where it is not set; checked just the same.
        least: Numbers must be this or greater. A text must be one plain word, since it is
            written into shell scripts.

    Raises:
        ConfigError: The value does not fit.
    """
    text = os.environ.get(name, "").strip()
    kind = type(default)
    try:
        value = kind(text) if text else default
    except ValueError:
        noun = "a whole number" if kind is int else "a number"
        raise ConfigError([f"{name} must be {noun}, but got {text!r}."]) from None
    if isinstance(value, str):
        if not PLAIN_WORD.fullmatch(value):
            raise ConfigError([f"{name} must be one word of plain characters, but got {value!r}."])
    elif least is not None and not value >= least:
        raise ConfigError([f"{name} must be {least:g} or more, but got {value:g}."])
    return value
