"""Draws -> Estimate: across many short runs, 95 % intervals hold the truth about as often.

Own long-run mean: that of all runs together, whose own error is a fourteenth of one run's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from known_answers import FAMILIES, configure, estimate, expected

RUNS = 200
SHORT: dict[str, dict[str, Any]] = {
    "hmc": {"steps": 700, "num_warmup": 200},
    "mclmc": {"steps": 1_000, "step_size": 0.3, "L": 3.0},
    "sgld": {"steps": 10_000, "eta0": 4e-3},
}
"""Standard errors of 2 to 7 %: a run of a second or less."""


@pytest.mark.slow
@pytest.mark.parametrize("family", ["quadratic", "monomial"])
@pytest.mark.parametrize("method", SHORT)
def test_the_interval_covers(method: str, family: str) -> None:
    known, config = FAMILIES[family](), configure(method, **SHORT[method])
    found = [estimate(method, known.target, config, seed=1000 + run) for run in range(RUNS)]
    llc, se = (np.array([getattr(one, name) for one in found]) for name in ("llc_hat", "se_hat"))

    def coverage(truth: float) -> float:
        return float(np.mean(np.abs(llc - truth) < 1.96 * se))

    assert 0.90 <= coverage(llc.mean()) <= 0.99
    # The mean square: one run in some thousands strays far, and its own error says so.
    assert np.sqrt(np.mean(se**2)) == pytest.approx(llc.std(), rel=0.15)
    if method == "hmc":
        assert 0.90 <= coverage(known.exact) <= 0.99
    # All runs together tell the known bias to a few tenths of a percent.
    off = llc.mean() / expected(method, known, config) - 1
    assert abs(off) < 3 * llc.std() / known.exact / np.sqrt(RUNS) + 0.01
