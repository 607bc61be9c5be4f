"""The chains of a reference start where they can, and a pilot says how they must move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lambda_hat.conf import compose_problem
from lambda_hat.conf.samplers import ReferenceConfig
from lambda_hat.problems import Problem, build_problem
from lambda_hat.references import hmc
from lambda_hat.references.engine import EngineResult
from lambda_hat.references.hmc import LONGER, sample_hmc
from lambda_hat.samplers import warmup
from lambda_hat.target import potential


def problem(model: str, *, n: int = 1000, **values: object) -> Problem:
    over = {"data": {"n": n}, "model": values} if values else {"data": {"n": n}}
    return build_problem(compose_problem({"model": model, "overrides": over}))


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("model", ["normal_crossing", "deep_linear", "quadratic"])
def test_over_dispersed_starts_lie_no_higher_than_those_of_a_quadratic(model, dense):
    with jax.enable_x64(True):
        target = problem(model, n=100_000).target("float64")
        form, arrays = target.form, target.arrays
        key = jax.random.key(0)
        covariance = warmup.laplace_covariance(key, form, arrays, dense=dense)
        given = {"num_chains": 40, "scale": 2.0}
        starts = warmup.overdispersed_starts(key, form, arrays, covariance, **given)
        height = jax.vmap(lambda w: potential(form, arrays, w))(starts)
        rise = np.asarray(height - potential(form, arrays, arrays.w_star))
    assert (rise[::2] == 0).all()  # Half of them start at w*,
    assert rise.max() <= 4 * target.d
    assert rise[1::2].mean() > target.d  # the others well above what is typical, d/2.


def test_starts_on_a_quadratic_are_spread_as_they_say():
    with jax.enable_x64(True):
        target = problem("quadratic", curvature=[1.0] * 200).target("float64")
        form, arrays, key = target.form, target.arrays, jax.random.key(1)
        covariance = warmup.laplace_covariance(key, form, arrays, dense=False)
        starts = warmup.overdispersed_starts(
            key, form, arrays, covariance, num_chains=100, scale=2.0
        )
        ratio = np.asarray(jnp.mean(starts[1::2] ** 2 / covariance))
    assert ratio == pytest.approx(4.0, rel=0.05)


def chains(
    problem: Problem, folder, *, budget_sec: float = 120, **settings: object
) -> EngineResult:
    config = ReferenceConfig(num_draws=1_500, num_warmup=300, **settings)
    return sample_hmc(
        problem, config, budget_sec=budget_sec, seed=0, checkpoint=folder / "hmc.ckpt"
    )


def test_chains_that_mix_keep_their_trajectories(tmp_path):
    result = chains(problem("quadratic"), tmp_path)
    assert result.diagnostics["num_integration_steps"] == 20


def test_chains_that_creep_get_longer_trajectories(tmp_path):
    creeping = problem("deep_linear", n=100_000, widths=[4, 4, 4, 4], rank=2)
    result = chains(creeping, tmp_path, num_integration_steps=1, dense_metric_max_dim=0)
    steps = result.diagnostics["num_integration_steps"]
    assert steps in [LONGER**k for k in range(1, 5)]
    # Those that were tried before are counted: steps of every pilot, of 4 chains.
    tried = [LONGER**k for k in range(5) if LONGER**k <= steps]
    assert result.cost.work > 4 * 1_300 * sum(tried)


def test_there_must_be_time_for_longer_trajectories(tmp_path, monkeypatch):
    monkeypatch.setattr(hmc, "LONGER", 10**9)  # No budget is so many times what a pilot took.
    creeping = problem("deep_linear", n=100_000, widths=[4, 4, 4, 4], rank=2)
    result = chains(creeping, tmp_path, num_integration_steps=1, dense_metric_max_dim=0)
    assert result.diagnostics["num_integration_steps"] == 1
