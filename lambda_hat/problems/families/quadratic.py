"""The family `quadratic`: L = 1/2 sum_i h_i w_i^2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from lambda_hat.conf.schema import ProblemConfig
from lambda_hat.problems.exact import quadratic_llc
from lambda_hat.problems.forms import PopulationForm
from lambda_hat.problems.problem import EXACT, Problem, make_problem


@dataclass(frozen=True)
class QuadraticForm(PopulationForm):
    """L = 1/2 sum_i h_i w_i^2; data {curvature [1, d]}."""

    def losses(self, w: Float[Array, " d"], data: Any) -> Float[Array, " 1"]:
        """The one population loss."""
        return 0.5 * data["curvature"] @ w**2


def make_form(config: ProblemConfig) -> QuadraticForm:
    """One form for all."""
    return QuadraticForm()


def build(config: ProblemConfig) -> Problem:
    """The minimum is 0."""
    curvature = np.asarray(config.model.curvature, np.float64)
    return make_problem(config, {"curvature": curvature[None]}, np.zeros(len(curvature)), EXACT)


def llc_exact(problem: Problem) -> float:
    """Every direction is a Gaussian."""
    config = problem.config
    h = np.asarray(config.model.curvature)
    return quadratic_llc(h, config.nbeta, config.posterior.gamma)


def rlct(config: ProblemConfig) -> tuple[float, int]:
    """Half the number of directions that curve."""
    return sum(h > 0 for h in config.model.curvature) / 2, 1
