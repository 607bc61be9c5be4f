"""Turns values as users have them, NumPy's and a table's, into plain JSON values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from decimal import Decimal
from typing import Any

from lambda_hat.conf.samplers import SAMPLERS


def plain(value: Any) -> Any:
    """The value in Python's own types: arrays are lists, scalars numbers, pandas' NA is None."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays, and what mimics them.
        return value.tolist()
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    return float(value) if isinstance(value, Decimal) else value


def number(value: Any) -> float | None:
    """The number that is meant, or None where there is none: None, NaN, pandas' NA."""
    value = plain(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return value


def own_settings(method_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those that a table has for the sake of other methods.

    A table has every method's settings in every row: None where a method has no such setting, or
    NaN in a column of numbers. NaN in a setting of the method's own stays, and is refused.
    """
    config = SAMPLERS.get(str(method_cfg.get("name")))
    own = {field.name for field in fields(config)} if config else set()
    return {
        name: value
        for name, value in method_cfg.items()
        if value is not None and (name in own or value == value)
    }
