"""Failed trials of one problem, grouped by reason, with the settings at which they failed."""

from __future__ import annotations

import re

import pandas as pd

from lambda_hat.report.findings import has_failed, select
from lambda_hat.report.formatting import format_setting, join_words
from lambda_hat.report.overview import Cell, Table
from lambda_hat.report.settings import is_choice, searched_settings, values_of

MOST = 12
"""The largest number of groups that are shown."""


def failures_table(trials: pd.DataFrame) -> Table | None:
    """One row per method and reason, the most frequent first; None if no trial failed.

    Reasons that differ only in their numbers are one group; the first of them is shown.
    """
    failed = select(trials, has_failed(trials))
    if failed.empty:
        return None
    reasons = failed.error_msg.fillna("no reason was given").astype(str)
    alike = reasons.map(lambda sentence: re.sub(r"[\d.e+-]+", "#", sentence))
    rows = []
    for _, group in failed.groupby([failed.method, alike], sort=False):
        method = str(group.method.iloc[0])
        where = ranges_of(group, select(trials, trials.method == method), method)
        reason = str(reasons[group.index[0]])
        count = Cell(str(len(group)), len(group))
        rows.append([Cell(method), Cell(reason, mark="wide"), Cell(where, mark="wide"), count])
    rows.sort(key=lambda row: -float(row[3].key or 0))
    return Table(("method", "reason", "settings (of those tried)", "trials"), rows[:MOST], 3)


def ranges_of(some: pd.DataFrame, tried: pd.DataFrame, method: str) -> str:
    """The range of each setting in some trials, beside the range in all trials."""
    parts = []
    for name in searched_settings(tried.hyperparams, method):
        inside, outside = values_of(some, name).dropna(), values_of(tried, name).dropna()
        if inside.empty:
            continue
        if is_choice(method, name, outside):
            here, all_of_them = _choices(inside), _choices(outside)
        else:
            here, all_of_them = _range(inside), _range(outside)
        parts.append(f"{name} {here}" if here == all_of_them else f"{name} {here} ({all_of_them})")
    return "; ".join(parts)


def _choices(values: pd.Series) -> str:
    return join_words(sorted(str(value) for value in values.unique()), "or")


def _range(values: pd.Series) -> str:
    low, high = format_setting(values.min()), format_setting(values.max())
    return low if low == high else f"{low} to {high}"
