"""Draws -> Diagnostics: each number says what it is for, on draws where the answer is plain."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import targets
from test_llc import autoregressive, draws

from lambda_hat.diagnostics import diagnose, ebfmi, effective_draws, ess, left_basin, rhat

TARGET = targets.square_sum((1.0, 1.0), n=100, gamma=1.0, dtype="float32")


def test_independent_draws_are_worth_themselves():
    values = np.random.default_rng(0).normal(size=(2000, 4))
    assert effective_draws(values) == pytest.approx(8000, rel=0.1)
    assert ess(values, "bulk") == pytest.approx(8000, rel=0.1)
    assert ess(values, "tail") == pytest.approx(8000, rel=0.15)
    assert rhat(values) < 1.005


def test_autocorrelated_draws_are_worth_less_by_the_known_factor():
    values = autoregressive(0.8, (5000, 4))
    assert effective_draws(values) == pytest.approx(20_000 / 9, rel=0.15)


def test_chains_that_disagree_raise_rhat_and_are_worth_little():
    values = np.random.default_rng(0).normal(size=(1000, 4)) + np.arange(4)
    assert rhat(values) > 1.3
    assert effective_draws(values) < 20


def test_heavy_tails_do_not_hide_a_chain_apart():
    """Cauchy draws have no variance to compare; ranks have."""
    values = np.random.default_rng(0).standard_cauchy(size=(1000, 4))
    assert rhat(values) < 1.01
    values[:, 0] += 5
    assert rhat(values) > 1.05


def test_what_is_undefined_is_the_worst():
    still = np.zeros((100, 4))
    assert effective_draws(still) >= 1
    assert rhat(np.full((100, 4), np.nan)) == math.inf
    assert ess(np.full((100, 4), np.nan), "bulk") == 0


def test_ebfmi_of_energies_that_change_freely_and_of_those_that_crawl():
    free = np.random.default_rng(0).normal(size=(5000, 4))
    assert ebfmi(free) == pytest.approx(2, rel=0.05)
    assert ebfmi(np.cumsum(free, axis=0)) < 0.05
    assert ebfmi(np.full((10, 4), np.nan)) is None


def test_the_virial_ratio_and_its_error():
    virial = 2.0 + autoregressive(0.5, (4000, 4))
    found = diagnose(draws(np.abs(virial), virial=virial), target=TARGET, init_loss=0.0)
    assert found["virial_ratio"] == pytest.approx(1, abs=0.05)
    assert found["virial_se"] == pytest.approx(np.sqrt(3 / 16_000) / 2, rel=0.2)


def test_draws_below_the_minimum_are_counted_beyond_rounding():
    loss = np.full((100, 2), 1.0) + np.linspace(0, 1, 100)[:, None]
    loss[:5] = 1.0 - 1e-14
    assert diagnose(draws(loss), target=TARGET, init_loss=1.0)["below_minimum_fraction"] == 0
    loss[:5] = 1.0 - 1e-6
    assert diagnose(draws(loss), target=TARGET, init_loss=1.0)["below_minimum_fraction"] == 0.05


def test_a_chain_that_left_the_basin_is_counted():
    excess = np.random.default_rng(0).exponential(size=(100, 4)) / TARGET.nbeta
    assert left_basin(excess, TARGET) == 0
    excess[:, 1] += 5.0
    assert left_basin(excess, TARGET) == 1


def test_divergences_count_steps_and_not_draws():
    loss = np.random.default_rng(0).exponential(size=(100, 4))
    divergence = np.zeros_like(loss)
    divergence[:10] = 0.5
    found = diagnose(draws(loss, divergence=divergence), target=TARGET, init_loss=0.0)
    assert found["divergence_rate"] == pytest.approx(0.05) and found["divergences"] == 20


def test_diagnostics_are_plain_numbers():
    loss = np.random.default_rng(0).exponential(size=(100, 4))
    found = diagnose(draws(loss), target=TARGET, init_loss=0.0)
    assert found["acceptance_rate"] is None and found["virial_ratio"] is None
    json.dumps(found, allow_nan=False)
