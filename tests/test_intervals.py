"""The error of a mean over few runs: what its interval covers."""

from __future__ import annotations

import numpy as np
import pytest

from lambda_hat.intervals import error_of_mean


@pytest.mark.parametrize("num_runs", [2, 3, 8])
def test_196_errors_cover_the_truth_in_95_of_100_cases_however_few_the_runs(num_runs: int) -> None:
    cases = np.random.default_rng(0).normal(size=(2_000, num_runs))
    covered = [abs(runs.mean()) < 1.96 * error_of_mean(runs) for runs in cases]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_one_run_says_nothing_of_a_spread() -> None:
    assert error_of_mean([3.0]) == 0.0
