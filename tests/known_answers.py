"""Families whose LLC is known, and what each method must give there, its own bias included."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import targets
from scipy.optimize import minimize

from lambda_hat.conf import compose_problem
from lambda_hat.conf.samplers import SAMPLERS
from lambda_hat.llc import Estimate, estimate_llc
from lambda_hat.problems import build_problem, llc_exact
from lambda_hat.problems.exact import product_llc, two_layer_llc
from lambda_hat.samplers import load_method
from lambda_hat.samplers.loop import Runner
from lambda_hat.target import Target, loss

CURVATURE = (1.0, 4.0, 0.1)
N, GAMMA = 100, 2.0
NBETA = N / np.log(N)


@dataclass(frozen=True)
class Family:
    """One exact answer.

    Attributes:
        target: dtype -> what is sampled.
        exact: the LLC of its posterior.
        eigenvalues: of the Hessian, where L_n is quadratic.
        row_variance: of one row's gradient in each direction, which minibatches suffer from.
        mean_field: the LLC of the best independent Gaussians, where that is not `exact`.
        step_bias: relative bias of SGLD per unit of step size where there is no formula, from
            256 chains x 40 000 steps at eta0 8e-3 and 1.6e-2, which agree on it to a tenth.
    """

    target: Callable[[str], Target]
    exact: float
    eigenvalues: np.ndarray | None = None
    row_variance: float | np.ndarray = 0.0
    mean_field: float | None = None
    step_bias: float = 0.0


def _log_convex_fit(energy: Callable, value: Callable, d: int) -> float:
    """LLC of the mean-field optimum: E_q[U] - H[q] is convex in the log-variances."""

    def objective(log_variance: np.ndarray) -> float:
        s = np.exp(log_variance)
        return NBETA * energy(s) + 0.5 * GAMMA * s.sum() - 0.5 * log_variance.sum()

    best = minimize(objective, np.full(d, -2.0), tol=1e-12)
    return NBETA * value(np.exp(best.x))


def _quadratic() -> Family:
    return Family(
        lambda dtype: targets.square_sum(CURVATURE, n=N, gamma=GAMMA, dtype=dtype),
        targets.square_sum_llc(CURVATURE, n=N, gamma=GAMMA),
        np.asarray(CURVATURE),
    )


def _monomial() -> Family:
    return Family(
        lambda dtype: targets.monomial((1, 1), n=N, gamma=GAMMA, dtype=dtype),
        product_llc(NBETA, GAMMA, dims=(1, 1), powers=(1, 1)),
        mean_field=_log_convex_fit(np.prod, np.prod, 2),
        step_bias=9.4,
    )


def noisy_squares(scale: float = 1.0) -> Family:
    """A quadratic made of rows, whose minibatch gradients are as noisy as `scale` says."""
    target = targets.noisy_squares(3, n=N, gamma=GAMMA, dtype="float32", scale=scale)
    return Family(
        lambda dtype: targets.noisy_squares(3, n=N, gamma=GAMMA, dtype=dtype, scale=scale),
        targets.square_sum_llc((1.0,) * 3, n=N, gamma=GAMMA),
        np.ones(3),
        row_variance=np.var(np.asarray(target.arrays.data), axis=0),
    )


def _linear() -> Family:
    problem = build_problem(_problem("linear", model={"in_dim": 3}))
    exact = llc_exact(problem)
    assert exact is not None
    x = np.column_stack([problem.data["x"], np.ones(N)])
    return Family(problem.target, exact, 2.0 * np.linalg.svd(x, compute_uv=False) ** 2 / N)


def _deep_linear() -> Family:
    """1/2 |W2 W1|^2 of widths (3, 2, 1); 6 + 2 parameters. Each hidden unit is fitted alone."""
    problem = build_problem(_problem("deep_linear", model={"widths": [3, 2, 1]}))
    exact = two_layer_llc((3, 2, 1), NBETA, GAMMA)
    assert exact is not None

    def energy(s: np.ndarray) -> float:
        return 0.5 * float(s[6:] @ s[:6].reshape(2, 3).sum(axis=1))

    mean_field = _log_convex_fit(energy, energy, 8)
    return Family(problem.target, exact, mean_field=mean_field, step_bias=11.0)


def _problem(family: str, **overrides: Any) -> Any:
    overrides |= {"posterior": {"gamma": GAMMA}}
    return compose_problem({"model": family, "data": "small", "overrides": overrides})


FAMILIES: dict[str, Callable[[], Family]] = {
    "quadratic": functools.cache(_quadratic),
    "monomial": functools.cache(_monomial),
    "noisy_squares": functools.cache(noisy_squares),
    "linear": functools.cache(_linear),
    "deep_linear": functools.cache(_deep_linear),
}


def expected(method: str, family: Family, config: Any) -> float:
    """What the method converges to on a family: the exact LLC, with the bias known of it."""
    if method == "sgld" and family.eigenvalues is not None:
        stiffness = NBETA * family.eigenvalues + GAMMA
        noise = NBETA**2 * family.row_variance / config.batch
        inflation = (1 + config.eta0 * noise / 4) / (1 - config.eta0 * stiffness / 4)
        return float(np.sum(0.5 * NBETA * family.eigenvalues / stiffness * inflation))
    if method == "sgld":
        return family.exact * (1 + config.eta0 * family.step_bias)
    if method == "vi" and family.mean_field is not None:
        return family.mean_field
    return family.exact


def run(method: str, target: Callable[[str], Target], config: Any, *, seed: int = 0) -> Runner:
    """The whole plan of a method, in its own precision."""
    module = load_method(method)
    with jax.enable_x64(module.DTYPE == "float64"):
        runner = Runner(module, target(module.DTYPE), config, key=jax.random.key(seed))
        runner.run()
    return runner


def estimate(method: str, target: Callable[[str], Target], config: Any, **kw: Any) -> Estimate:
    """The estimate of a whole run, made as a trial makes it."""
    runner = run(method, target, config, **kw)
    with jax.enable_x64(runner.method.DTYPE == "float64"):
        arrays = runner.target.arrays
        init_loss = float(loss(runner.target.form, arrays, arrays.w_star))
    return estimate_llc(
        runner.draws(),
        nbeta=runner.target.nbeta,
        init_loss=init_loss,
        trim=runner.method.TRIM_TRANSIENT,
    )


def configure(method: str, **overrides: Any) -> Any:
    """The method's defaults with overrides."""
    return replace(SAMPLERS[method](), **overrides)


def check_known_answer(found: Estimate, answer: float) -> None:
    """Within 3 of its own standard errors, which are small enough for that to mean something."""
    assert found.se_hat < 0.03 * answer, f"se {found.se_hat:.3g} is too large for {answer:.4g}"
    off = (found.llc_hat - answer) / found.se_hat
    assert abs(off) < 3, f"{found.llc_hat:.5g} is {off:.1f} standard errors from {answer:.5g}"
