"""The family `normal_crossing`: L = prod_i w_i^(2 k_i)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lambda_hat.conf.schema import ProblemConfig
from lambda_hat.problems.exact import product_llc
from lambda_hat.problems.forms import PopulationForm
from lambda_hat.problems.problem import EXACT, Problem, make_problem


@dataclass(frozen=True)
class NormalCrossingForm(PopulationForm):
    """L = prod_i w_i^(2 k_i); no data."""

    powers: tuple[int, ...]

    def losses(self, w: Float[Array, " d"], data: Any) -> Float[Array, " 1"]:
        """The one population loss."""
        factors = [w[i] ** (2 * power) for i, power in enumerate(self.powers)]
        return jnp.prod(jnp.stack(factors), keepdims=True)


def make_form(config: ProblemConfig) -> NormalCrossingForm:
    """The powers are part of the program."""
    return NormalCrossingForm(config.model.powers)


def build(config: ProblemConfig) -> Problem:
    """The minimum is where all factors vanish."""
    return make_problem(config, {}, np.zeros(len(config.model.powers)), EXACT)


def llc_exact(problem: Problem) -> float:
    """By quadrature."""
    config, powers = problem.config, problem.config.model.powers
    dims = (1,) * len(powers)
    return product_llc(config.nbeta, config.posterior.gamma, dims=dims, powers=powers)


def rlct(config: ProblemConfig) -> tuple[float, int]:
    """min 1/(2 k_i), with the number that attain it."""
    powers = config.model.powers
    return 1 / (2 * max(powers)), powers.count(max(powers))
