"""Short chains from elsewhere: their error, what ends them early, and what that costs in sight."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lambda_hat.references import elsewhere
from lambda_hat.references.elsewhere import Checked, look_elsewhere
from lambda_hat.references.gates import ELSEWHERE
from lambda_hat.references.starts import Starts

DRAWS, CHAINS, MOST = 10_000, 4, 79
RUNS = 600


def autoregressive(rng: np.random.Generator, rho: float, shape: tuple[int, int]) -> np.ndarray:
    """Stationary chains of unit variance, [draws, chains]."""
    noise = rng.standard_normal(shape)
    draws = np.empty(shape)
    draws[0] = noise[0]
    for i in range(1, len(draws)):
        draws[i] = rho * draws[i - 1] + math.sqrt(1.0 - rho**2) * noise[i]
    return draws


@pytest.mark.parametrize("rho", [0.0, 0.9])
@pytest.mark.parametrize("count", [20, 79])
def test_the_error_is_that_of_means_of_successive_draws(rho: float, count: int) -> None:
    """Exact at any number of draws, those of a few autocorrelation times included."""
    excess = autoregressive(np.random.default_rng(0), rho, (DRAWS, CHAINS))
    lags = np.arange(1, count)
    exact = (1.0 + 2.0 * np.sum((1.0 - lags / count) * rho**lags)) / count
    se = math.sqrt((1.0 + rho) / (1.0 - rho) / excess.size)
    checked = Checked(float(excess.mean()), se, excess)
    assert checked.error(count) ** 2 == pytest.approx(exact + se**2, rel=0.1)


class Independent:
    """Short chains of independent draws, in basins whose LLCs have a standard deviation."""

    def __init__(self, rng: np.random.Generator, llc: float, apart: float):
        shift = apart * rng.standard_normal(elsewhere.NUM_STARTS)
        self._losses = llc + shift + rng.standard_normal((2 * MOST, elsewhere.NUM_STARTS))
        self.work = 0.0

    def starts(self) -> Starts:
        return Starts(np.zeros((elsewhere.NUM_STARTS, 1)), 5, 0.0)

    def draw(self, count: int) -> np.ndarray:
        self.work = float(count)
        return self._losses[:count]


def looked(seed: int, apart: float) -> elsewhere.Elsewhere:
    """What short chains say of long ones, with basins `apart` by so many errors of a mean."""
    rng = np.random.default_rng(seed)
    losses = 5.0 + rng.standard_normal((DRAWS, CHAINS))
    runner: Any = SimpleNamespace(
        target=SimpleNamespace(nbeta=1.0, init_loss=0.0),
        draws=lambda: SimpleNamespace(loss=losses),
        progress=SimpleNamespace(
            num_draws=DRAWS,
            state=SimpleNamespace(chains=SimpleNamespace(position=np.zeros((CHAINS, 1)))),
        ),
        plan=SimpleNamespace(num_draws=DRAWS),
    )
    se = 1.0 / math.sqrt(losses.size)
    short = Independent(rng, 5.0, apart / math.sqrt(MOST))
    return look_elsewhere(short, runner, float(losses.mean()), se)


def test_chains_of_one_posterior_pass_and_most_end_early() -> None:
    found = [looked(seed, 0.0) for seed in range(RUNS)]
    assert all(one.scatter <= ELSEWHERE for one in found)
    assert {one.draws for one in found} == {20, 40, MOST} == {20, 40, found[0].most_draws}
    assert np.mean([one.draws < MOST for one in found]) > 0.8
    whole = [one.scatter for one in found if one.draws == MOST]
    assert 0.9 < np.mean(whole) < 1.2, "in units of their own error, of those that were not clear"


def test_what_the_gate_refuses_with_even_odds_is_seldom_passed_early() -> None:
    """At most one in twenty at each of two looks, by the quantile of chi^2."""
    border = math.sqrt(ELSEWHERE**2 - 1.0)
    early = np.mean([looked(seed, border).draws < MOST for seed in range(RUNS)])
    assert early <= 0.1 + 3.0 * math.sqrt(0.1 * 0.9 / RUNS)
    refused = np.mean([looked(seed, border).scatter > ELSEWHERE for seed in range(RUNS)])
    assert 0.3 < refused < 0.6


def test_basins_farther_apart_are_refused() -> None:
    found = [looked(seed, 3.0) for seed in range(RUNS)]
    assert all(one.scatter > ELSEWHERE for one in found)
    assert all(one.draws == MOST for one in found), "and none before the end"
