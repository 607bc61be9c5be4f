"""The family `mlp`: a fully connected network, trained to a minimum."""

from __future__ import annotations

from functools import partial

from lambda_hat.conf.schema import ProblemConfig
from lambda_hat.problems.forms import NetworkForm, network_form
from lambda_hat.problems.network import draw_weights, labelled_rows
from lambda_hat.problems.problem import Problem, make_problem
from lambda_hat.problems.training import train


def make_form(config: ProblemConfig) -> NetworkForm:
    """The network with its loss."""
    return network_form(config.model, config.posterior)


def build(config: ProblemConfig) -> Problem:
    """Training starts at the teacher too, where it has the student's architecture."""
    model, teacher = config.model, config.teacher
    data, truth = labelled_rows(config, model)
    kind = (model.widths, model.bias, model.activation)
    same = teacher is not None and (teacher.widths, teacher.bias, teacher.activation) == kind
    draw = partial(draw_weights, sizes=model.sizes, bias=model.bias, activation=model.activation)
    start = truth if same else None
    w_star, evidence = train(config, make_form(config), data, draw=draw, start=start)
    return make_problem(config, data, w_star, evidence)


def llc_exact(problem: Problem) -> None:
    """Not known."""


def rlct(config: ProblemConfig) -> None:
    """Not known."""
