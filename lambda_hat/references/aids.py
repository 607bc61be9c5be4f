"""What makes a large problem's trajectories cheaper or longer, and leaves its posterior alone."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lambda_hat.problems import Problem
from lambda_hat.samplers.metric import with_narrow
from lambda_hat.samplers.surrogate import with_surrogate
from lambda_hat.target import Target, num_rows

LARGE = 500_000
"""Parameters times rows of data from which on a gradient takes a tenth of a millisecond or more."""
LEAST_ROWS = 1_000
"""Of a surrogate."""
SHARE = 20
"""So many times fewer rows than the data have, from `LEAST_ROWS` times that on."""
WORTH_IT = 5
"""So many times more rows the data must have at least."""
RANK = 128
"""Narrow directions that have a width of their own."""
_KEY = 0
"""Of the narrow directions: a matter of the problem, whoever finds them."""
_FOUND: dict[tuple[str, int, int], Target] = {}
_KEPT = 2
"""Targets that are kept for what else a process does with them."""


def is_large(target: Target) -> bool:
    """Whether the gradient is what a reference of this target takes its time for."""
    whole = target.arrays.statistics is not None
    return target.d * (1 if whole else num_rows(target.form, target.arrays)) >= LARGE


def surrogate_rows(target: Target, dense_up_to: int) -> int:
    """Rows that trajectories follow in float32; 0 where they follow all in float64.

    A dense metric has every direction at the same pace: kicks by the other rows can be rare.
    Without one they resonate with the fastest directions, and trajectories follow all rows.
    """
    if not is_large(target) or target.arrays.statistics is not None:
        return 0
    n = num_rows(target.form, target.arrays)
    rows = max(n // SHARE, LEAST_ROWS)
    if n < WORTH_IT * rows:
        return 0
    return rows if target.d <= dense_up_to else n


def metric_rank(target: Target, dense_up_to: int) -> int:
    """Narrow directions of HMC's metric; 0 where it is dense or diagonal.

    Curvature at w* says how narrow the posterior is where the tether keeps draws nearer to w* than
    w* is long. Elsewhere narrow directions are others in every place.
    """
    near = math.sqrt(target.d / float(target.arrays.gamma)) < float(
        jnp.linalg.norm(target.arrays.w_star)
    )
    if target.d <= dense_up_to or not is_large(target) or not near:
        return 0
    return min(RANK, target.d // 4)


def aided(problem: Problem, dtype: str, tuning: Mapping[str, Any]) -> tuple[Target, float]:
    """The problem's target with the aids that a tuning names, and the seconds they took."""
    began = time.monotonic()
    rows, rank = tuning.get("surrogate_rows", 0), tuning.get("metric_rank", 0)
    if not rows and not rank:
        return problem.target(dtype), 0.0
    key = (problem.target_id, rows, rank)
    if key not in _FOUND:
        target = problem.target(dtype)
        target = with_surrogate(target, rows) if rows else target
        target = with_narrow(target, rank, jax.random.key(_KEY)) if rank else target
        while len(_FOUND) >= _KEPT:
            _FOUND.pop(next(iter(_FOUND)))
        _FOUND[key] = jax.block_until_ready(target)
    return _FOUND[key], time.monotonic() - began
