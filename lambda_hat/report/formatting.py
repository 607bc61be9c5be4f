"""Formatting of numbers, durations and settings, for the terminal and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lambda_hat.tables.transfer import Transfer


def format_duration(seconds: float) -> str:
    """A duration, such as `9 s`, `2:05 min` or `10:00:00 h`."""
    whole = round(seconds)
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d} h"


def format_count(number: int, noun: str) -> str:
    """A number with its noun: `1 trial`, `2 trials`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def join_words(names: Sequence[str], word: str = "and") -> str:
    """Joins words: `a`, `a and b`, `a, b and c`."""
    names = list(names)
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {word} {names[-1]}"


def format_estimate(value: float | None, se: float | None) -> str:
    """A value with its standard error to two digits, such as `4.532 ± 0.021`."""
    if value is None or not math.isfinite(value):
        return "-"
    if not se or not math.isfinite(se):
        return f"{value:.4g}"
    if max(abs(value), se) >= 1e6:
        return f"{format_number(value)} ± {format_number(se)}"
    digits = max(0, 1 - math.floor(math.log10(se)))
    return f"{value:.{digits}f} ± {se:.{digits}f}"


def format_number(value: float) -> str:
    """A number to two digits, such as `0.031`, `5.9` or `9.6e11`."""
    return f"{value:.2g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")


def format_percent(share: float) -> str:
    """A share in percent, to two digits: `0.064 %`, `6.4 %`, `640 %`."""
    if share == 0 or not math.isfinite(share):
        return f"{share:.0f} %"
    digits = 1 - math.floor(math.log10(abs(share) * 100))
    rounded = round(share * 100, digits)
    return f"{rounded:.{max(0, digits)}f} %" if rounded < 1e6 else f"{format_number(rounded)} %"


def format_transfer(found: Transfer | None) -> str:
    """What a winner gives on a problem, such as `+4.2 % ± 1.1 %, 1 of 4 failed`."""
    if found is None:
        return "-"
    failed = f", {found.num_failed} of {found.num_runs} failed" if found.num_failed else ""
    if found.error is None or found.margin is None:
        return "all failed" if found.num_failed == found.num_runs else f"no reference{failed}"
    return f"{100 * found.error:+.2g} % ± {100 * found.margin:.2g} %{failed}"


def format_setting(value: Any) -> str:
    """The value of a setting: whole numbers in full, other numbers to three digits."""
    if isinstance(value, str | bool) or value is None:
        return str(value)
    if float(value).is_integer() and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.3g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")


def format_settings(hyperparams: Mapping[str, Any]) -> str:
    """Settings in one line, such as `eta0=0.001 batch=64`; floats to three digits."""
    return " ".join(f"{name}={format_setting(value)}" for name, value in hyperparams.items())
