"""TrialResult -> objective: what a good trial is."""

from __future__ import annotations

import math

import pytest

from lambda_hat.entrypoints.parsl_optuna import FUNCTIONS, objective_from_metrics
from lambda_hat.tuning.objective import penalty


def result(llc: float | None, status: str = "complete") -> dict:
    return {"status": status, "llc_hat": llc}


@pytest.mark.parametrize("llc", [1.0, 2.0, 3.5])
def test_the_objective_is_the_absolute_error(llc: float) -> None:
    assert objective_from_metrics(result(llc), 2.0) == abs(llc - 2.0)


@pytest.mark.parametrize(("error", "score"), [(0.2, 0.02), (0.5, 0.125), (2.0, 0.875)])
def test_huber_is_squared_within_delta_and_linear_beyond(error: float, score: float) -> None:
    assert objective_from_metrics(result(2 - error), 2.0, huber_delta=0.5) == pytest.approx(score)


def test_an_objective_that_knows_its_noise() -> None:
    noisy = {**result(2.3), "se_hat": 0.4}
    assert objective_from_metrics(noisy, 2.0, objective="rmse") == pytest.approx(0.5)
    assert objective_from_metrics(result(2.3), 2.0, objective="rmse") == pytest.approx(0.3)
    assert objective_from_metrics(noisy, 2.0, objective="relative") == pytest.approx(0.15)
    assert objective_from_metrics(noisy, 2.0, objective="abs") == pytest.approx(0.3)
    scores = [FUNCTIONS.score(noisy, 2.0, huber_delta=None, objective=o) for o in ("abs", "rmse")]
    assert scores == pytest.approx([0.3, 0.5])


@pytest.mark.parametrize("failed", [result(None), result(4.0, "failed"), result(math.nan), {}])
def test_a_trial_without_an_estimate_scores_infinity(failed: dict) -> None:
    assert objective_from_metrics(failed, 2.0) == math.inf


def test_a_penalty_is_finite_and_no_better_than_the_worst() -> None:
    assert penalty(4.5, -math.inf) == 4.5
    assert penalty(4.5, 50.0) == 50.0
    assert penalty(4.5, 1.0) == 4.5


def test_a_made_up_error_is_scored_like_a_trial() -> None:
    assert FUNCTIONS.score_of_error(4.5, huber_delta=None) == 4.5
    assert FUNCTIONS.score_of_error(4.5, huber_delta=1.0) == 4.0
