"""Trajectories along a part of the data, and metrics of a few directions: exact all the same."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.mcmc.integrators import IntegratorState
from targets import noisy_squares

from lambda_hat.conf import compose_problem
from lambda_hat.conf.samplers import HMCConfig, ReferenceConfig
from lambda_hat.diagnostics import ess
from lambda_hat.problems import Problem, build_problem, llc_exact
from lambda_hat.references import aids
from lambda_hat.references.hmc import sample_hmc
from lambda_hat.references.tempering import sample_tempering
from lambda_hat.samplers import hmc
from lambda_hat.samplers.loop import Runner
from lambda_hat.samplers.metric import coordinates, metric_of, momentum_root, spread, with_narrow
from lambda_hat.samplers.surrogate import STEPS_A_KICK, Stride, integrator_of, with_surrogate
from lambda_hat.target import (
    Target,
    hessian_vector_product,
    logdensity,
    make_target,
    mean_loss,
)


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@functools.cache
def regression() -> Problem:
    """Linear regression on 2000 rows, whose LLC is known."""
    over = {"data": {"n": 2000}, "posterior": {"gamma": 30.0}}
    return build_problem(compose_problem({"model": "linear", "overrides": over}))


def by_rows(problem: Problem) -> Target:
    """Its target, which does not know that a few moments of the data would do."""
    target = problem.target("float64")
    return Target(target.form, target.arrays._replace(statistics=None), target.n, target.init_loss)


def drawn(target: Target, *, draws: int = 3000, seed: int = 0) -> tuple[float, float, Any]:
    """LLC, its standard error and the draws of HMC."""
    config = HMCConfig(num_warmup=500, steps=500 + draws)
    runner = Runner(hmc, target, config, key=jax.random.key(seed))
    runner.run()
    found = runner.draws()
    excess = target.nbeta * (found.loss - target.init_loss)
    return float(excess.mean()), float(excess.std() / np.sqrt(ess(excess, "bulk"))), found


def off(problem: Problem, llc: float, se: float) -> float:
    """How many standard errors an LLC is from the exact one."""
    exact = llc_exact(problem)
    assert exact is not None
    return (llc - exact) / se


# The surrogate.


@pytest.mark.parametrize("rows", [20, 200, 2000])
def test_draws_along_a_poor_surrogate_are_exact(rows: int) -> None:
    llc, se, found = drawn(with_surrogate(by_rows(regression()), rows))
    assert abs(off(regression(), llc, se)) < 3.5
    assert se < 0.03 * llc
    assert abs(found.virial.mean() / 5 - 1) < 0.1


def test_draws_accepted_by_the_surrogate_alone_would_not_be() -> None:
    """The claim above can fail: the posterior of 20 rows has another LLC."""
    target = with_surrogate(by_rows(regression()), 20)
    few = target.arrays._replace(
        data=jax.tree.map(lambda leaf: leaf.astype("float64"), target.arrays.surrogate.data),
        surrogate=None,
    )
    lowest = float(mean_loss(target.form, few.data, few.w_star))
    llc, se, _ = drawn(Target(target.form, few, target.n, lowest))
    assert abs(off(regression(), llc, se)) > 5


def test_a_surrogate_has_the_slope_of_the_loss_at_the_minimum() -> None:
    target = with_surrogate(noisy_squares(4, n=1000, gamma=1.0, dtype="float64"), 50)
    arrays = target.arrays
    part = jax.grad(mean_loss, argnums=2)(target.form, arrays.surrogate.data, arrays.w_star)
    assert np.abs(part).max() > 0.01
    np.testing.assert_allclose(part + arrays.surrogate.slope, 0.0, atol=1e-6)


def moved(target: Target, state: IntegratorState, steps: int) -> IntegratorState:
    """A trajectory in the Euclidean metric."""
    density = functools.partial(logdensity, target.form, target.arrays)
    integrator = integrator_of(target.form, target.arrays, Stride(STEPS_A_KICK, steps))
    step: Any = integrator(density, lambda p, position=None: 0.5 * p @ p)
    return jax.lax.fori_loop(0, steps, lambda _, s: step(s, 0.01), state)


def begun(target: Target, position: Any, momentum: Any) -> IntegratorState:
    density = functools.partial(logdensity, target.form, target.arrays)
    return IntegratorState(position, momentum, *jax.value_and_grad(density)(position))


def test_trajectories_with_kicks_run_backwards_and_conserve_volume() -> None:
    target = with_surrogate(by_rows(regression()), 50)
    normal = jax.random.normal(jax.random.key(3), (2, target.d))
    position, momentum = target.arrays.w_star + 0.1 * normal[0], normal[1]
    end = moved(target, begun(target, position, momentum), 7)
    assert float(jnp.linalg.norm(end.position - position)) > 0.05
    back = moved(target, end._replace(momentum=-end.momentum), 7)
    np.testing.assert_allclose(back.position, position, atol=1e-9)
    np.testing.assert_allclose(back.momentum, -momentum, atol=1e-9)

    def flow(place: Any) -> Any:
        end = moved(target, begun(target, place[: target.d], place[target.d :]), 1)
        return jnp.concatenate([end.position, end.momentum])

    # Slopes are cut to float32 by the surrogate, and so are their derivatives.
    jacobian = jax.jacfwd(flow)(jnp.concatenate([position, momentum]))
    assert float(jnp.linalg.det(jacobian)) == pytest.approx(1.0, abs=1e-4)


def test_energies_along_trajectories_with_kicks_err_by_the_square_of_the_step() -> None:
    target = with_surrogate(by_rows(regression()), 200)
    normal = jax.random.normal(jax.random.key(3), (2, target.d))
    start = begun(target, target.arrays.w_star + 0.1 * normal[0], normal[1])
    density = functools.partial(logdensity, target.form, target.arrays)
    integrator = integrator_of(target.form, target.arrays, Stride(STEPS_A_KICK, 1))
    step: Any = integrator(density, lambda p, _=None: 0.5 * p @ p)

    def error(size: float) -> float:
        count = round(0.2 / (size * STEPS_A_KICK))
        end = jax.lax.fori_loop(0, count, lambda _, s: step(s, size), start)
        energies = [0.5 * s.momentum @ s.momentum - s.logdensity for s in (start, end)]
        return abs(float(energies[1] - energies[0]))

    assert error(0.0005) < 0.1 * error(0.002)


# Narrow directions.


@functools.cache
def curved() -> Target:
    """A small network, and its six narrowest directions."""
    model = {"widths": [5], "in_dim": 6, "depth": 1}
    over = {"model": model, "data": {"n": 500}, "posterior": {"gamma": 40.0}}
    problem = build_problem(compose_problem({"model": "small", "overrides": over}))
    return with_narrow(problem.target("float64"), 6, jax.random.key(0))


def test_narrow_directions_are_the_leading_eigenvectors() -> None:
    target = curved()
    arrays = target.arrays

    def loss(w: Any) -> Any:
        return mean_loss(target.form, arrays.data, w)

    product = functools.partial(hessian_vector_product, loss, arrays.w_star)
    values, vectors = jnp.linalg.eigh(jax.vmap(product)(jnp.eye(target.d)))
    basis, variance = arrays.narrow
    np.testing.assert_allclose(basis.T @ basis, np.eye(6), atol=1e-10)
    exact = 1.0 / (arrays.nbeta * values[::-1][:3] + arrays.gamma)
    np.testing.assert_allclose(variance[:3], exact, rtol=0.05)
    overlap = jnp.linalg.norm(vectors[:, -3:].T @ basis, axis=0)
    assert float(overlap[:3].min()) > 0.95


def test_momenta_and_energies_of_narrow_directions_are_of_one_metric() -> None:
    """Momenta are drawn from exp(-K), and w moves along M^-1 p, M^-1 = cov of `spread`."""
    target = curved()
    arrays, variance = target.arrays, target.arrays.narrow.variance
    metric: Any = metric_of(arrays, variance, momentum_root(variance))
    keys = jax.random.split(jax.random.key(1), 20_000)
    momenta = jax.vmap(lambda key: metric.sample_momentum(key, arrays.w_star))(keys)
    inverse = jax.hessian(metric.kinetic_energy)(arrays.w_star)
    # E[p p^T] M^-1 = 1, and M^-1 is what positions are spread by.
    product = momenta.T @ momenta / len(momenta) @ inverse
    scale = jnp.sqrt(jnp.diag(inverse))
    np.testing.assert_allclose(product * scale / scale[:, None], np.eye(target.d), atol=0.08)
    root = spread(arrays, variance, jnp.eye(target.d))
    np.testing.assert_allclose(root @ root.T, inverse, atol=1e-12)


def test_draws_in_a_metric_of_narrow_directions_are_exact() -> None:
    target = with_narrow(by_rows(regression()), 2, jax.random.key(0))
    llc, se, _ = drawn(target)
    assert abs(off(regression(), llc, se)) < 3.5 and se < 0.03 * llc


def test_variances_are_learned_along_narrow_directions() -> None:
    target = with_narrow(by_rows(regression()), 2, jax.random.key(0))
    narrow = target.arrays.narrow
    wrong = target.arrays._replace(narrow=narrow._replace(variance=narrow.variance * 50))
    config = HMCConfig(num_warmup=500, steps=600)
    given = Target(target.form, wrong, target.n, target.init_loss)
    runner = Runner(hmc, given, config, key=jax.random.key(0))
    runner.run()
    found = runner.progress.state.adaptation.metric.inverse_mass_matrix
    np.testing.assert_allclose(found, narrow.variance, rtol=0.2)
    assert coordinates(wrong, wrong.w_star[None]).shape == (1, 2)


# References that use both.


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> Problem:
    """The regression, taken for a large problem whose gradient needs every row."""
    given = regression()
    monkeypatch.setattr(type(given.form), "statistics", lambda *args: None)
    monkeypatch.setattr(aids, "LARGE", 0)
    monkeypatch.setattr(aids, "LEAST_ROWS", 100)
    return given


def test_a_reference_with_both_is_exact_and_goes_on_where_it_was_cut(
    all_large: Problem, tmp_path: Path
) -> None:
    config = ReferenceConfig(num_draws=2000, num_warmup=300, dense_metric_max_dim=0)
    asked = {"budget_sec": 120.0, "seed": 1}
    whole = sample_hmc(all_large, config, **asked, checkpoint=tmp_path / "whole.ckpt")
    assert whole.diagnostics["surrogate_rows"] == 2000 and whole.diagnostics["metric_rank"] == 1
    assert whole.llc is not None and whole.se is not None
    assert whole.passed and abs(off(all_large, whole.llc, whole.se)) < 3.5

    path, short = tmp_path / "cut.ckpt", {**asked, "budget_sec": 0.5}
    assert not sample_hmc(all_large, config, **short, checkpoint=path).finished
    resumed = sample_hmc(all_large, config, **asked, checkpoint=path)
    assert (resumed.llc, resumed.se, resumed.draws) == (whole.llc, whole.se, whole.draws)


def test_ladders_along_a_surrogate_are_exact(all_large: Problem, tmp_path: Path) -> None:
    config = ReferenceConfig(num_draws=2500, num_warmup=500)
    asked = {"budget_sec": 120.0, "seed": 1, "checkpoint": tmp_path / "ladders.ckpt"}
    found = sample_tempering(all_large, config, **asked)
    assert found.diagnostics["surrogate_rows"] == 100
    assert found.llc is not None and found.se is not None
    assert abs(off(all_large, found.llc, found.se)) < 3.5
    assert found.se < 0.03 * found.llc


@dataclass(frozen=True)
class Shape:
    has_rows: bool = True

    def losses(self, w: Any, data: Any) -> Any:
        return jnp.zeros(len(data))


@pytest.mark.parametrize(
    ("d", "n", "gamma", "statistics", "aided"),
    [
        (45, 100, 1.0, None, (0, 0)),
        (45, 20_000, 101.0, None, (1000, 0)),
        (45, 100_000, 101.0, None, (5000, 0)),
        (967, 20_000, 101.0, None, (20_000, 128)),
        (967, 20_000, 1.0, None, (20_000, 0)),
        (9921, 100, 1.0, None, (0, 0)),
        (9921, 4_000, 101.0, None, (0, 128)),
        (9921, 20_000, 101.0, 1, (0, 0)),
    ],
)
def test_large_problems_get_what_helps_them(
    d: int, n: int, gamma: float, statistics: Any, aided: tuple[int, int]
) -> None:
    """w* is 12 long: a tether wider than that leaves nothing local for the curvature to say."""
    w_star = np.full(d, 12.0 / np.sqrt(d))
    given: Any = {"nbeta": 1.0, "n": n, "init_loss": 0.0, "dtype": "float64"}
    target = make_target(Shape(), np.zeros(n), w_star, gamma=gamma, **given)
    target = replace(target, arrays=target.arrays._replace(statistics=statistics))
    up_to = ReferenceConfig().dense_metric_max_dim
    assert (aids.surrogate_rows(target, up_to), aids.metric_rank(target, up_to)) == aided
