"""Bias of the variational family: relative error of its LLC, for M components of rank r.

    python benchmarks/vi_bias.py [--seeds 3] [--lr 0.05] [--small-network]

writes the table of docs/vi_mfa.md to the terminal, row by row. Each cell is the mean over
independent fits of `llc_hat / exact - 1` with the standard error of that mean, in percent.
The network's reference is HMC, computed here in about a minute; the others are exact.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import quad

from lambda_hat.conf.compose import compose_problem
from lambda_hat.conf.samplers import HMCConfig, VIConfig
from lambda_hat.problems import load_or_build
from lambda_hat.samplers import hmc, vi_mfa
from lambda_hat.samplers.loop import Runner
from lambda_hat.target import Target, make_target

N, GAMMA = 1000, 1.0
NBETA = N / np.log(N)
COMPONENTS, RANKS = (1, 2, 4, 8), (0, 1, 2)


@dataclass(frozen=True)
class Ellipsoid:
    """L(w) = 1/2 w^T H w, with H as data."""

    has_rows: bool = False

    def losses(self, w: jax.Array, data: Any) -> jax.Array:
        return 0.5 * jnp.vdot(w, data @ w)[None]


@dataclass(frozen=True)
class Monomial:
    """L(w) = prod w_i^(2 k_i), with k as data."""

    has_rows: bool = False

    def losses(self, w: jax.Array, data: Any) -> jax.Array:
        return jnp.prod(w ** (2 * data))[None]


def population(form: Any, data: np.ndarray, d: int) -> Target:
    """A target of a loss without rows, whose minimum is 0."""
    return make_target(
        form,
        data,
        np.zeros(d),
        nbeta=NBETA,
        gamma=GAMMA,
        n=N,
        init_loss=0.0,
        dtype="float32",
    )


def quadratic(covariance: np.ndarray) -> tuple[Target, float]:
    """The quadratic whose posterior has this covariance, and its exact LLC."""
    d = len(covariance)
    curvature = (np.linalg.inv(covariance) - GAMMA * np.eye(d)) / NBETA
    exact = 0.5 * float(d - GAMMA * np.trace(covariance))
    return population(Ellipsoid(), curvature, d), exact


def quartic() -> tuple[Target, float]:
    """w^4, its LLC by quadrature."""

    def moment(power: int) -> float:
        return quad(lambda w: w**power * np.exp(-NBETA * w**4 - GAMMA / 2 * w**2), -2, 2)[0]

    exact = NBETA * moment(4) / moment(0)
    return population(Monomial(), np.asarray([2]), 1), exact


def crossing() -> tuple[Target, float]:
    """w1^2 w2^2, its LLC by quadrature after integrating w2 out."""

    def density(w: float) -> float:
        return float(np.exp(-GAMMA / 2 * w**2) / np.sqrt(2 * NBETA * w**2 + GAMMA))

    def loss(w: float) -> float:
        return NBETA * w**2 / (2 * NBETA * w**2 + GAMMA) * density(w)

    exact = quad(loss, 0, 12, points=[0.1])[0] / quad(density, 0, 12, points=[0.1])[0]
    return population(Monomial(), np.asarray([1, 1]), 2), exact


def small_network() -> tuple[Target, float]:
    """The network of `model: small, data: small`, its LLC by HMC."""
    spec = {"model": "small", "data": "small", "teacher": "_null", "seed": 0, "overrides": {}}
    with tempfile.TemporaryDirectory() as folder:
        problem = load_or_build(compose_problem(spec), Path(folder))
    with jax.enable_x64(True):
        target = problem.target("float64")
        runner = Runner(hmc, target, HMCConfig(steps=6_000), key=jax.random.key(0))
        runner.run()
        llc = target.nbeta * (runner.draws().loss.mean(axis=0) - target.init_loss)
    spread = llc.std(ddof=1) / np.sqrt(llc.size)
    print(f"HMC reference of the network: {llc.mean():.3f} +- {spread:.3f}", flush=True)
    return problem.target("float32"), float(llc.mean())


def cell(target: Target, exact: float, config: VIConfig, seeds: int) -> str:
    """Mean relative error over fits, with its standard error, in percent."""
    errors = []
    for seed in range(seeds):
        runner = Runner(vi_mfa, target, config, key=jax.random.key(seed))
        runner.run()
        llc = target.nbeta * (runner.draws().loss.mean() - target.init_loss)
        errors.append(100 * (llc / exact - 1))
    return f"{np.mean(errors):+.1f} ± {np.std(errors, ddof=1) / np.sqrt(seeds):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Bias of VI by components and rank.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--small-network", action="store_true", help="add the row that needs HMC")
    options = parser.parse_args()
    a = np.asarray([0.4, -0.4, 0.4, 0.4, -0.2])
    own = np.diag([0.01, 0.02, 0.03, 0.04, 0.05])
    rows = {
        "diagonal quadratic": quadratic(own),
        "correlated quadratic": quadratic(own + np.outer(a, a)),
        "w^4": quartic(),
        "w1^2 w2^2": crossing(),
    }
    if options.small_network:
        rows["small network"] = small_network()
    pairs = [(M, r) for M in COMPONENTS for r in RANKS]
    print("| | exact | " + " | ".join(f"M={M} r={r}" for M, r in pairs) + " |")
    print("| --- " * (len(pairs) + 2) + "|", flush=True)
    for name, (target, exact) in rows.items():
        print(f"| {name} | {exact:.4f} ", end="")
        for M, r in pairs:
            config = VIConfig(lr=options.lr, M=M, r=r, eval_draws=40_000)
            text = "" if r > target.d else cell(target, exact, config, options.seeds)
            print(f"| {text} ", end="", flush=True)
        print("|", flush=True)


if __name__ == "__main__":
    main()
