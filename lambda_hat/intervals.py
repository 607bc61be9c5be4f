"""The error of a mean over a few independent runs, wide enough for their small number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def error_of_mean(values: Sequence[float] | np.ndarray) -> float:
    """Standard error of the mean of independent values, such that 1.96 of it make a 95 % interval.

    With few values their spread is itself uncertain: the error is widened to what Student's t
    asks for.

    Args:
        values: One number per run; a single one has no spread, and gives 0.
    """
    if len(values) < 2:
        return 0.0
    return _widening(len(values) - 1) * _plain_error(values)


def error_of_difference(some: Sequence[float], others: Sequence[float]) -> float:
    """The same of a difference of two means, by Welch's t: the two need not spread alike.

    Args:
        some: One number per run, two or more.
        others: Likewise, of other runs, which share nothing with the first.
    """
    errors = [_plain_error(values) for values in (some, others)]
    joint = math.hypot(*errors)
    if joint == 0.0:
        return 0.0
    shares = [
        (error / joint) ** 4 / (len(v) - 1) for error, v in zip(errors, (some, others), strict=True)
    ]
    return _widening(1.0 / sum(shares)) * joint


def _plain_error(values: Sequence[float] | np.ndarray) -> float:
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def _widening(freedom: float) -> float:
    """How much wider Student's t makes a 95 % interval than the normal distribution does."""
    from scipy.stats import t as student_t  # Slow to import, and most commands need none of it.

    return float(student_t.ppf(0.975, freedom)) / 1.96
