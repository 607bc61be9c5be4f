"""Searched settings of one method: their order, their type, and which ranges gave small errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from lambda_hat.conf.search_space import SEARCH_SPACE, Categorical
from lambda_hat.report.findings import relative_error
from lambda_hat.report.formatting import format_count, format_number


def is_choice(method: str, name: str, values: pd.Series) -> bool:
    """Whether a setting is categorical: a text, or a number from a list of choices."""
    seen = values.dropna()
    if seen.map(lambda value: isinstance(value, str | bool)).any():
        return True
    entry = SEARCH_SPACE.get(method, {}).get(name)
    return isinstance(entry, Categorical) and set(seen) <= set(entry.choices)


def is_log(method: str, name: str, values: pd.Series) -> bool:
    """Whether a setting was searched on a log scale, judged by its default range or its values."""
    entry = SEARCH_SPACE.get(method, {}).get(name)
    numbers = values.dropna().astype(float)
    if numbers.empty or numbers.min() <= 0:
        return False
    if entry is None or isinstance(entry, Categorical):
        return bool(numbers.max() / numbers.min() > 100)
    return entry.log


def searched_settings(hyperparams: Iterable[Mapping[str, Any]], method: str) -> list[str]:
    """Names of the searched settings; those with a default range come first, in its order."""
    seen = dict.fromkeys(name for params in hyperparams for name in params)
    known = [name for name in SEARCH_SPACE.get(method, {}) if name in seen]
    return [*known, *(name for name in seen if name not in known)]


def most_concentrated(rows: pd.DataFrame, method: str) -> str:
    """A sentence on the setting in which the best trials differ least."""
    relative = relative_error(rows).dropna()
    count = max(3, round(len(relative) / 4))
    if len(relative) < 2 * count:
        estimates = format_count(len(relative), "estimate")
        return f"{method}: {estimates} in {format_count(len(rows), 'trial')}"
    best = relative.nsmallest(count).index
    shares: dict[float, str] = {}
    for name in searched_settings(rows.hyperparams, method):
        values = values_of(rows, name)
        if is_choice(method, name, values) or values.nunique() < 4:
            continue
        values = values.astype(float)
        low, high = values[best].min(), values[best].max()
        scaled = np.log(values) if is_log(method, name, values) else values
        span = scaled[best].max() - scaled[best].min()
        shares[span / (scaled.max() - scaled.min())] = (
            f"{name} from {format_number(low)} to {format_number(high)}"
        )
    if not shares:
        return f"{method}: no setting was searched widely enough to compare"
    return f"{method}: the best {count} of {len(rows)} trials have {shares[min(shares)]}"


def values_of(rows: pd.DataFrame, name: str) -> pd.Series:
    """The value of one setting in each trial; None where a trial does not have it."""
    return rows.hyperparams.map(lambda params: params.get(name))


def choices_of(method: str, name: str, values: pd.Series) -> list[Any]:
    """The choices that were tried: numbers sorted, texts in the order of the default range."""
    known = list(getattr(SEARCH_SPACE.get(method, {}).get(name), "choices", ()))
    seen = list(values.dropna().unique())
    if not any(isinstance(choice, str) for choice in seen):
        return sorted(seen)
    return [*(c for c in known if c in seen), *sorted(set(seen) - set(known), key=str)]
