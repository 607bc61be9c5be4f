"""Rows -> StudyProgress: what is kept of the rows that were taken up."""

from __future__ import annotations

import itertools

from lambda_hat.tuning.progress import StudyProgress

SETTINGS = itertools.count()
"""No two trials have the same."""


def row(
    error: float | None, *, objective: float | None = None, seconds: float | None = 1.0
) -> dict:
    return {
        "status": "failed" if error is None else "complete",
        "error": error,
        "objective": error if objective is None else objective,
        "runtime_sec": seconds,
        "objectives": {},
        "trial_number": 0,
        "hyperparams": {"lr": next(SETTINGS)},
        "se_hat": 0.0,
        "llc_ref": None,
    }


def progress_of(*rows: dict, **kwargs: float) -> StudyProgress:
    progress = StudyProgress(
        kwargs.get("se_ref", 0.0), patience=int(kwargs.get("patience", 0)) or None
    )
    for one in rows:
        progress.take(one)
    return progress


def test_failed_and_lost_trials_are_counted() -> None:
    lost = {**row(None, seconds=None), "objective": None}
    progress = progress_of(row(0.5, seconds=2.0), row(None, objective=9.0, seconds=4.0), lost)
    assert (progress.num_ended, progress.num_failed, progress.num_lost) == (3, 2, 1)
    assert progress.worst == {"error": 9.0} and progress.last is lost


def test_nothing_is_known_of_no_trials() -> None:
    progress = StudyProgress()
    assert progress.best is progress.last is None


def test_the_best_is_complete_and_the_first_among_equals() -> None:
    first = row(0.5)
    progress = progress_of(row(None, objective=0.1), row(0.7), first, row(0.5))
    assert progress.best is first


def test_a_gain_within_the_references_error_is_none() -> None:
    small_gains = [row(1.0), row(0.98), row(0.96)]
    assert progress_of(*small_gains, se_ref=0.05, patience=2).converged
    assert not progress_of(*small_gains, se_ref=0.01, patience=2).converged


def test_a_study_that_has_converged_stays_so() -> None:
    assert progress_of(row(1.0), row(1.0), row(1.0), row(0.1), patience=2).converged
