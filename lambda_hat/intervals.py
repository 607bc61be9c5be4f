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
    from scipy.stats import t as student_t  # Slow to import, and most commands need none of it.

    widening = float(student_t.ppf(0.975, len(values) - 1)) / 1.96
    return widening * float(np.std(values, ddof=1)) / math.sqrt(len(values))
