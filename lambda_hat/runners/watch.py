"""Looks at a trial at the end of each chunk: reports how it stands, and stops it where need be."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np

from lambda_hat.diagnostics import LEFT_BASIN
from lambda_hat.samplers.base import Plan
from lambda_hat.samplers.loop import Progress
from lambda_hat.store.reports import NUM_STEPS, Report, TrialReports
from lambda_hat.target import Target

FEWEST = 8
"""Rows that a running estimate is made of, at least, even if warm-up has hardly ended."""


@dataclass
class Watch:
    """What `Runner.run` calls after each chunk; it says whether to stop.

    A report is of a tenth of the run exactly, however the steps fall into chunks: the rows that
    there were at that tenth are known afterwards.
    """

    plan: Plan
    target: Target
    began: float
    """When the trial's budget began, in monotonic seconds."""
    deadline: float
    ref_llc: float | None = None
    reports: TrialReports | None = None
    """Where reports go and the verdict comes from, if the study prunes."""
    pruned_at: int | None = None
    """The step that the study had the trial stopped for."""
    lost: bool = False
    """Whether it was stopped for a chain that had left the basin for good."""
    _start: float = field(default_factory=time.monotonic)
    _share: float = 0.0
    _rows: int = 0
    _blocks: int = 0
    _excess: float | np.ndarray = 0.0
    """Of each chain's draws in so many blocks, the sum of L_n - L_n(w*)."""

    def __call__(self, progress: Progress) -> bool:
        if self.reports is not None and self.ref_llc is not None:
            self.reports.add(self._new_reports(progress, self.ref_llc))
            self.pruned_at = self.reports.pruned_at()
        self.lost = self._is_lost(progress)
        return self.pruned_at is not None or self.lost

    def _is_lost(self, progress: Progress) -> bool:
        """Whether a chain has left the basin for good, whatever its remaining draws will be.

        None of them can lie below w*, so a sum that is too large already stays so.
        """
        for block in progress.rows[self._blocks :]:
            self._excess = self._excess + (block["loss"] - self.target.init_loss).sum(axis=0)
        self._blocks = len(progress.rows)
        least = self.target.nbeta * self._excess / self.plan.num_draws
        return bool(np.any(least > LEFT_BASIN * self.target.d))

    def _new_reports(self, progress: Progress, ref_llc: float) -> list[Report]:
        """A report for each tenth that the last chunk has come to."""
        num_warmup = sum(len(block["loss"]) for block in progress.warmup_rows)
        share, num_rows = self._share_of(progress), num_warmup + progress.num_draws
        before, had = self._share, self._rows
        self._share, self._rows = share, num_rows
        steps = range(math.floor(NUM_STEPS * before) + 1, math.floor(NUM_STEPS * share) + 1)
        rows = _rows_of(progress) if steps else np.empty(0)
        found = []
        for step in steps:
            part = (step / NUM_STEPS - before) / (share - before)
            count = max(1, round(had + part * (num_rows - had)))
            start = max(count // 2, min(num_warmup, count - FEWEST))
            excess = float(rows[start:count].mean()) - self.target.init_loss
            llc = self.target.nbeta * excess
            if math.isfinite(llc):
                took = time.monotonic() - self.began
                found.append(Report(step, llc, abs(llc - ref_llc), took))
        return found

    def _share_of(self, progress: Progress) -> float:
        """How much of the run is done: of its steps or of its time, whichever is more."""
        steps = self.plan.num_warmup + self.plan.num_draws * self.plan.thin
        now = time.monotonic() - self._start
        return min(1.0, max(progress.step / steps, now / (self.deadline - self._start)))


def _rows_of(progress: Progress) -> np.ndarray:
    """The mean loss over chains of every row so far, those of warm-up first."""
    blocks = [*progress.warmup_rows, *progress.rows]
    return np.concatenate([block["loss"].mean(axis=1) for block in blocks])
