"""How far a study has come, counted from its rows one by one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lambda_hat.tables.best import Shortlist
from lambda_hat.tables.front import joined
from lambda_hat.trial import COMPLETE, ESTIMATED, NOISY, PRUNED
from lambda_hat.tuning.objective import ERROR

Row = Mapping[str, Any]


class StudyProgress:
    """How a study stands: what is needed to go on and to show it, at a size that stays the same.

    Args:
        se_ref: The reference's standard error: a gain within it is none.
        patience: Trials without a gain before a study has converged; None: it never does.
    """

    def __init__(self, se_ref: float = 0.0, *, patience: int | None = None):
        self._se_ref, self._patience = se_ref, patience
        self.num_ended = self.num_noisy = self.num_pruned = self.num_failed = self.num_lost = 0
        """Trials that have ended; noisy ones; those that were stopped early; those that failed;
        and, of these, those without a run."""
        self.num_timed, self.seconds = 0, 0.0
        """Trials with a wall time, and their seconds in all."""
        self.shortlist = Shortlist()
        """Of the trials that may turn out to be the best."""
        self.last: Row | None = None
        """Of the trial taken up last."""
        self.front: tuple[Row, ...] = ()
        """Of the Pareto front, where a study has several objectives."""
        self.worst: dict[str, float] = {}
        """The largest value of each objective."""
        self.converged = False
        self._without_gain = 0
        self._anchor = math.inf
        """The error that a gain is measured from."""

    @property
    def leaders(self) -> set[str]:
        """The ids of the trials whose draws are worth keeping."""
        return {row["trial_id"] for row in (*self.shortlist.rows, *self.front)}

    @property
    def best(self) -> Row | None:
        """Of the best trial so far, which is a complete one if there is any."""
        return next(iter(self.shortlist.best), None)

    @property
    def mean_seconds(self) -> float | None:
        """Wall time of a trial, on average; None as long as no trial has one."""
        return self.seconds / self.num_timed if self.num_timed else None

    def take(self, row: Row) -> None:
        """Takes up the row of a trial that has ended."""
        self.last = row
        self.num_ended += 1
        self.num_failed += row["status"] not in (*ESTIMATED, PRUNED)
        self.num_noisy += row["status"] == NOISY
        self.num_pruned += row["status"] == PRUNED
        if (seconds := row["runtime_sec"]) is not None:
            self.num_timed, self.seconds = self.num_timed + 1, self.seconds + seconds
        if row["status"] == PRUNED:
            self._count_gain(None)
        elif row["objective"] is None:
            self.num_lost += 1
        else:
            self._weigh(row)

    def _weigh(self, row: Row) -> None:
        told = row["objectives"] or {ERROR: row["objective"]}
        self.worst |= {n: max(value, self.worst.get(n, -math.inf)) for n, value in told.items()}
        if len(told) > 1:
            self.front = joined(self.front, row)
        self.shortlist = self.shortlist.and_row(row)
        self._count_gain(row["error"] if row["status"] == COMPLETE else None)

    def _count_gain(self, known: float | None) -> None:
        """Counts trials without a gain; `known` is the error of a complete one."""
        if known is not None and known < self._anchor - self._se_ref:
            self._anchor, self._without_gain = known, 0
        else:
            self._without_gain += 1
        self.converged |= self._patience is not None and self._without_gain >= self._patience
