"""A problem before its training: of the shapes that it will have, with no minimum yet."""

from __future__ import annotations

import numpy as np

from lambda_hat.conf.schema import ProblemConfig
from lambda_hat.problems.families import make_form
from lambda_hat.problems.network import labelled_rows
from lambda_hat.problems.problem import Problem


def untrained(config: ProblemConfig) -> Problem | None:
    """The problem with zeros in place of its minimum, or None where nothing is trained.

    A program is compiled for the shapes of its arguments, so that this will do. A problem whose
    minimum is known in closed form is built as soon.
    """
    if config.training is None:
        return None
    data, _ = labelled_rows(config, config.model)
    w_star = np.zeros(config.model.num_params)
    return Problem(config, make_form(config), data, w_star, 0.0, 0.0, {})
