"""How far a study has come, counted from its rows one by one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lambda_hat.tables.best import is_better

Row = Mapping[str, Any]


class StudyProgress:
    """How a study stands: what is needed to go on and to show it, at a size that stays the same.

    Args:
        se_ref: The reference's standard error: a gain within it is none.
        patience: Trials without a gain before a study has converged; None: it never does.
    """

    def __init__(self, se_ref: float = 0.0, *, patience: int | None = None):
        self._se_ref, self._patience = se_ref, patience
        self.num_ended = self.num_failed = self.num_lost = 0
        """Trials that have ended; without an estimate; and, among these, without a run."""
        self.best: Row | None = None
        """Of the complete trial with the smallest objective."""
        self.last: Row | None = None
        """Of the trial taken up last."""
        self.worst = -math.inf
        """The largest objective."""
        self.converged = False
        self._seconds, self._num_timed = 0.0, 0
        self._without_gain = 0
        self._anchor = math.inf
        """The error that a gain is measured from."""

    def take(self, row: Row) -> None:
        """Takes up the row of a trial that has ended."""
        self.last = row
        self.num_ended += 1
        self.num_failed += row["status"] != "complete"
        if row["runtime_sec"] is not None:
            self._seconds, self._num_timed = self._seconds + row["runtime_sec"], self._num_timed + 1
        if row["objective"] is None:
            self.num_lost += 1
        else:
            self._weigh(row)

    def _weigh(self, row: Row) -> None:
        self.worst = max(self.worst, row["objective"])
        if is_better(row, self.best):
            self.best = row
        if row["error"] is not None and row["error"] < self._anchor - self._se_ref:
            self._anchor, self._without_gain = row["error"], 0
        else:
            self._without_gain += 1
        self.converged |= self._patience is not None and self._without_gain >= self._patience

    @property
    def mean_runtime_sec(self) -> float | None:
        """Of the trials whose time is known."""
        return self._seconds / self._num_timed if self._num_timed else None
