"""Gibbs sampling of deep linear networks agrees with exact answers and with HMC."""

import dataclasses

import numpy as np
import pytest

from lambda_hat.conf import ConfigError, check_reference, compose_problem, compose_reference
from lambda_hat.conf.samplers import ReferenceConfig
from lambda_hat.problems import Problem, build_problem, llc_exact
from lambda_hat.references import gibbs
from lambda_hat.references.checkpoint import save_arrays
from lambda_hat.references.engine import EngineResult
from lambda_hat.references.gibbs import sample_gibbs
from lambda_hat.references.hmc import sample_hmc

SETTINGS = ReferenceConfig(method="gibbs", num_draws=2_000, num_warmup=200)


def network(widths: tuple[int, ...], *, n: int = 1000, **model: object) -> Problem:
    over = {"model": {"widths": list(widths), **model}, "data": {"n": n}}
    return build_problem(compose_problem({"model": "deep_linear", "overrides": over}))


def error_in_se(result: EngineResult, exact: float) -> float:
    return (result.llc - exact) / result.se


@pytest.mark.parametrize("widths", [(3, 3, 1), (2, 2, 2), (4, 1, 1, 3), (4, 5, 3)])
def test_llc_of_a_population_with_a_known_answer(widths):
    problem = network(widths)
    result = sample_gibbs(problem, SETTINGS, budget_sec=300, seed=0)
    assert not result.failed
    assert result.se < 0.015 * result.llc
    assert abs(error_in_se(result, llc_exact(problem))) < 3


def test_it_agrees_with_hmc_on_drawn_data(tmp_path):
    problem = network((2, 3, 2), n=200, population=False, rank=1)
    found = sample_gibbs(problem, SETTINGS, budget_sec=300, seed=0)
    chains = ReferenceConfig(num_draws=4_000)
    hmc = sample_hmc(problem, chains, budget_sec=300, seed=0, checkpoint=tmp_path / "hmc.ckpt")
    assert not hmc.failed
    joint = np.hypot(found.se, hmc.se)
    assert joint < 0.02 * hmc.llc
    assert abs(found.llc - hmc.llc) < 3 * joint


def test_the_same_seed_gives_the_same_number():
    few = dataclasses.replace(SETTINGS, num_draws=400, num_warmup=20)
    problem = network((2, 2, 2))
    first, again, other = (
        sample_gibbs(problem, few, budget_sec=300, seed=seed).llc for seed in (0, 0, 1)
    )
    assert first == again != other


def test_a_budget_that_ends_before_there_is_an_estimate_is_said():
    result = sample_gibbs(network((2, 2, 2)), SETTINGS, budget_sec=0, seed=0)
    assert result.llc is None
    assert "sweeps >= 20" in result.gates[0].sentence


def test_a_killed_run_goes_on_to_the_same_number(tmp_path, monkeypatch):
    few = dataclasses.replace(SETTINGS, num_draws=400, num_warmup=20)
    problem, path = network((2, 2, 2)), tmp_path / "gibbs.ckpt"
    whole = sample_gibbs(problem, few, budget_sec=300, seed=0)
    monkeypatch.setattr(gibbs, "CHECKPOINT_SECONDS", 0.02)
    saves = iter(range(100))

    def save_and_die(*args):
        save_arrays(*args)
        if next(saves) % 3 == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(gibbs, "save_arrays", save_and_die)
    killed = 0
    while True:
        try:
            parts = sample_gibbs(problem, few, budget_sec=300, seed=0, checkpoint=path)
            break
        except KeyboardInterrupt:
            killed += 1
    assert killed >= 2
    assert (parts.llc, parts.se, parts.draws) == (
        whole.llc,
        whole.se,
        whole.draws,
    )


class Ticking:
    """A clock that goes on by a second whenever it is looked at."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        self.now += 1.0
        return self.now


def test_budgets_that_were_too_short_add_up(tmp_path, monkeypatch):
    few = dataclasses.replace(SETTINGS, num_draws=200, num_warmup=20)
    problem, path = network((2, 2, 2)), tmp_path / "gibbs.ckpt"
    whole = sample_gibbs(problem, few, budget_sec=300, seed=0)
    monkeypatch.setattr(gibbs, "time", Ticking())
    runs = [
        sample_gibbs(problem, few, budget_sec=budget, seed=0, checkpoint=path)
        for budget in (200, 400, 1e6)
    ]
    assert 0 < runs[0].draws < runs[1].draws < 200 <= runs[2].draws
    for run, budget in zip(runs, (200, 400), strict=False):
        assert budget - 5 < run.cost.seconds["sample"] <= budget + 5
    assert runs[2].llc == whole.llc


def test_a_damaged_checkpoint_is_set_aside(tmp_path):
    few = dataclasses.replace(SETTINGS, num_draws=100, num_warmup=20)
    problem, path = network((2, 2, 2)), tmp_path / "gibbs.ckpt"
    first = sample_gibbs(problem, few, budget_sec=300, seed=0, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-7])
    again = sample_gibbs(problem, few, budget_sec=300, seed=0, checkpoint=path)
    assert again.llc == first.llc
    assert len(list(tmp_path.glob("gibbs.ckpt.broken-*"))) == 1


@pytest.mark.parametrize(
    "spec",
    [{"model": "small"}, {"model": "deep_linear", "overrides": {"model": {"widths": [3, 2]}}}],
)
def test_other_problems_are_refused(spec):
    reference = compose_reference({"method": "gibbs"})
    with pytest.raises(ConfigError, match="must have linear networks with hidden layers"):
        check_reference(reference, compose_problem(spec), where="reference")
