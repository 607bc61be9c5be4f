"""The Pareto front of a study with several objectives: the trials that no other one beats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lambda_hat.trial import ESTIMATED, NOISY

Row = Mapping[str, Any]


def dominates(one: Row, other: Row) -> bool:
    """Whether a trial is as good as another in every objective, and better in one."""
    pairs = [(value, other["objectives"][name]) for name, value in one["objectives"].items()]
    return all(mine <= its for mine, its in pairs) and any(mine < its for mine, its in pairs)


def joined(front: tuple[Row, ...], row: Row) -> tuple[Row, ...]:
    """The front with one more trial, which may join it, replace some of it, or neither.

    As for the best, a noisy trial counts only as long as none is complete.
    """
    if row["status"] not in ESTIMATED or not row["objectives"]:
        return front
    if front and (noisy := front[0]["status"] == NOISY) != (row["status"] == NOISY):
        return (row,) if noisy else front
    if any(dominates(one, row) for one in front):
        return front
    return (*(one for one in front if not dominates(row, one)), row)
