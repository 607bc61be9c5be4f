"""The family `linear`: linear regression with one output."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lambda_hat.conf.schema import ProblemConfig
from lambda_hat.problems.exact import quadratic_llc, regression_curvature
from lambda_hat.problems.forms import NetworkForm, network_form
from lambda_hat.problems.network import labelled_rows
from lambda_hat.problems.problem import EXACT, Problem, make_problem


def make_form(config: ProblemConfig) -> NetworkForm:
    """A network without a hidden layer."""
    return network_form(config.model, config.posterior)


def build(config: ProblemConfig) -> Problem:
    """The minimum is that of least squares."""
    data, _ = labelled_rows(config, config.model)
    design = _design(data["x"], bias=config.model.bias)
    w_star = np.linalg.lstsq(design, data["y"][:, 0], rcond=None)[0]
    return make_problem(config, data, w_star, EXACT)


def llc_exact(problem: Problem) -> float:
    """Every eigenvector of the design is a Gaussian direction."""
    config = problem.config
    design = _design(problem.data["x"], bias=config.model.bias)
    h = regression_curvature(design, 1, config.posterior)
    return quadratic_llc(h, config.nbeta, config.posterior.gamma)


def rlct(config: ProblemConfig) -> tuple[float, int]:
    """Half the number of parameters."""
    return config.model.num_params / 2, 1


def _design(x: np.ndarray, *, bias: bool) -> Float[np.ndarray, "n k"]:
    return np.column_stack([x, np.ones(len(x))]) if bias else x
