"""Draws -> Estimate: the value, an error that knows autocorrelation and weights, and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from lambda_hat.llc import MIN_DRAWS, Estimate, NoEstimate, burn_in, estimate_llc
from lambda_hat.samplers.base import Draws

NBETA = 20.0


def draws(loss: np.ndarray, weight: np.ndarray | None = None, **fields: np.ndarray) -> Draws:
    """Draws whose other fields say nothing."""
    nothing = np.full_like(loss, np.nan)
    values = {
        "weight": np.ones_like(loss) if weight is None else weight,
        "distance": np.ones_like(loss),
        "virial": nothing,
        "log_ratio": nothing,
        "acceptance": nothing,
        "divergence": np.zeros_like(loss),
        "energy": nothing,
        "work": np.ones_like(loss),
    }
    return Draws(
        loss=loss,
        loss_dtype="float64",
        num_warmup=0,
        thin=1,
        work_total=float(loss.size),
        **{**values, **fields},
    )


def deviation(found: list[Estimate]) -> float:
    """Estimates of 0 in units of their own errors: 1 where errors are right."""
    return float(np.sqrt(np.mean([(one.llc_hat / one.se_hat) ** 2 for one in found])))


def autoregressive(rho: float, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Chains of unit variance whose neighbours correlate by rho."""
    noise = np.random.default_rng(seed).normal(size=shape)
    values = noise.copy()
    for i in range(1, shape[0]):
        values[i] = rho * values[i - 1] + np.sqrt(1 - rho**2) * noise[i]
    return values


def estimate(loss: np.ndarray, *, trim: bool = False, init_loss: float = 0.0, **kwargs):
    return estimate_llc(draws(loss, **kwargs), nbeta=NBETA, init_loss=init_loss, trim=trim)


def test_the_estimate_is_nbeta_times_the_mean_excess_loss():
    loss = np.random.default_rng(0).exponential(size=(500, 4)) + 3.0
    found = estimate(loss, init_loss=3.0)
    assert found.llc_hat == pytest.approx(NBETA * (loss.mean() - 3.0))
    assert found.se_hat == pytest.approx(NBETA * loss.std() / np.sqrt(2000), rel=0.15)
    assert found.work == 2000 and found.burn_in == 0


def test_a_large_loss_does_not_drown_its_changes():
    excess = np.random.default_rng(0).exponential(size=(500, 4))
    shifted = estimate(excess + 1e8, init_loss=1e8)
    assert shifted.llc_hat == pytest.approx(estimate(excess).llc_hat, abs=1e-6)


def test_the_error_of_autocorrelated_draws_is_their_own():
    means, errors = [], []
    for seed in range(100):
        found = estimate(autoregressive(0.9, (1000, 4), seed))
        means.append(found.llc_hat)
        errors.append(found.se_hat)
    # (1 + rho) / (1 - rho) = 19 draws are worth one.
    assert np.mean(errors) == pytest.approx(NBETA * np.sqrt(19 / 4000), rel=0.1)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.25)


@pytest.mark.parametrize("shape", [(50, 8), (1000, 8)])
def test_the_error_knows_of_what_is_slower_than_autocorrelations_show(shape):
    """A twenty-fifth of the variance, over a hundred draws; alone they give 1.2 to 1.5."""
    found = []
    for seed in range(300):
        quick = np.random.default_rng(seed).normal(size=shape)
        found.append(estimate(quick + 0.2 * autoregressive(0.97, shape, seed + 1000)))
    assert deviation(found) < 1.25


@pytest.mark.parametrize("chains", [1, 4])
def test_the_error_of_few_chains_is_by_their_autocorrelations(chains: int):
    found = [estimate(autoregressive(0.9, (4000 // chains, chains), seed)) for seed in range(100)]
    mean_square = np.mean([one.se_hat**2 for one in found])
    assert np.sqrt(mean_square) == pytest.approx(NBETA * np.sqrt(19 / 4000), rel=0.1)


def test_draws_weigh_what_they_weigh():
    loss = np.concatenate([np.full((100, 2), 1.0), np.full((100, 2), 2.0)])
    loss += 1e-3 * np.random.default_rng(0).normal(size=loss.shape)
    weight = np.concatenate([np.full((100, 2), 3.0), np.full((100, 2), 1.0)])
    assert estimate(loss, weight=weight).llc_hat == pytest.approx(NBETA * 1.25, rel=1e-3)


def test_the_error_covers_the_spread_of_weighted_means():
    means, errors = [], []
    for seed in range(200):
        loss = np.random.default_rng(seed).normal(size=(400, 4))
        weight = np.broadcast_to((1.0 + np.arange(400) / 20.0)[:, None] ** -0.6, loss.shape)
        found = estimate(loss, weight=weight)
        means.append(found.llc_hat)
        errors.append(found.se_hat)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.15)


def test_a_transient_is_cut_by_the_trace_itself():
    rng = np.random.default_rng(0)
    loss = rng.normal(size=(1000, 4)) + 50.0 * np.exp(-np.arange(1000) / 20.0)[:, None]
    found = estimate(loss, trim=True)
    assert 60 <= found.burn_in <= 300
    assert abs(found.llc_hat) < 5 * found.se_hat < 0.5 * NBETA
    assert estimate(loss).llc_hat > NBETA * 0.9


def test_a_stationary_trace_loses_little():
    starts = [burn_in(np.random.default_rng(seed).normal(size=(1000, 4))) for seed in range(50)]
    assert np.median(starts) < 150 and max(starts) <= 500


def test_a_chain_that_rejects_everything_is_told_by_its_acceptance():
    loss = np.stack([np.arange(50.0), np.zeros(50)], axis=1)
    acceptance = np.tile([0.8, 0.0], (50, 1))
    with pytest.raises(NoEstimate, match=r"its acceptance rate is 0, .*warm-up more time.*\.$"):
        estimate(loss, acceptance=acceptance)


@pytest.mark.parametrize(
    "loss, words",
    [
        (np.full((100, 2), np.nan), "finite"),
        (np.full((100, 2), np.inf), "finite"),
        (np.random.default_rng(0).normal(size=(MIN_DRAWS - 1, 2)), "draws >= 20"),
        (np.empty((0, 1)), "but got 0"),
        (np.stack([np.arange(50.0), np.zeros(50)], axis=1), "one never did"),
    ],
)
def test_draws_without_an_estimate_are_refused_in_a_sentence(loss, words):
    with pytest.raises(NoEstimate, match=words) as refusal:
        estimate(loss)
    assert str(refusal.value).endswith(".") and "must" in str(refusal.value)
