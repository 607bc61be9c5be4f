"""The family `external`: a user's own loss, parameters and data."""

from __future__ import annotations

import functools
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lambda_hat.conf.array_files import read_arrays
from lambda_hat.conf.own_files import nested
from lambda_hat.conf.schema import ProblemConfig, TrainingConfig
from lambda_hat.problems.curvature import Curvature, measure_curvature
from lambda_hat.problems.data import read_data, stream
from lambda_hat.problems.deadline import check_deadline, pieces
from lambda_hat.problems.descent import Descent, begin, go_on
from lambda_hat.problems.evidence import gather_evidence
from lambda_hat.problems.kinks import settle
from lambda_hat.problems.own_loss import OwnForm, flat, form_of, import_loss
from lambda_hat.problems.problem import Problem, make_problem
from lambda_hat.target import mean_loss

_ADVICE = "Train it further, or set `polish: true` (model), which descends from there."
_POLISHED_ADVICE = "Train it further: `polish: true` ended there. A larger gamma helps, too."
_SETTLE_ROUNDS = 200


def make_form(config: ProblemConfig) -> OwnForm:
    """The function, and the structure of what it is called with."""
    return form_of(import_loss(config.model), read_params(config))


def build(config: ProblemConfig) -> Problem:
    """The minimum is the given point, or what the polish finds from there."""
    return build_given(config, make_form(config), read_data(config), flat(read_params(config)))


def llc_exact(problem: Problem) -> None:
    """Not known."""


def rlct(config: ProblemConfig) -> None:
    """Not known."""


def read_params(config: ProblemConfig) -> Any:
    """The parameters in their file."""
    model = config.model
    arrays = read_arrays(Path(model.path, model.params), "params", "model")
    if (structure := import_loss(model).params) is not None:
        return jax.tree.map(arrays.__getitem__, structure)
    return nested(arrays, model.params, "model")


def build_given(
    config: ProblemConfig, form: OwnForm, data: dict[str, np.ndarray], given: np.ndarray
) -> Problem:
    """The problem of a point that a user gives, with the evidence that it is a minimum.

    Raises:
        TrainingUnfinished: The deadline of the context passed first.
    """
    nbeta, rng = config.nbeta, stream(config.seed, "shakes")
    around = {"nbeta": nbeta, "gamma": config.posterior.gamma, "rng": rng}
    tol, advice = TrainingConfig().shift_bias_tol, _ADVICE
    with jax.enable_x64(True):
        arrays, w = jax.tree.map(jnp.asarray, data), jnp.asarray(given)
        before = float(_loss(form, arrays, w))
        curvature = measure_curvature(form, arrays, w, **around)
        if config.model.polish:
            w, advice = _polished(config, form, arrays, w, rng, curvature), _POLISHED_ADVICE
            curvature = measure_curvature(form, arrays, w, **around)
        evidence = gather_evidence(
            form, arrays, w, curvature, rng, shift_bias_tol=tol, advice=advice
        )
        if config.model.polish:
            gained = nbeta * (before - float(_loss(form, arrays, w)))
            moved = float(np.linalg.norm(np.asarray(w) - given))
            evidence |= {"polish_moved": moved, "polish_gained": gained}
    return make_problem(config, data, np.asarray(w), evidence, form=form)


def _polished(
    config: ProblemConfig,
    form: OwnForm,
    arrays: dict,
    w: Array,
    rng: np.random.Generator,
    curvature: Curvature,
) -> Array:
    """The minimum below `w`: quasi-Newton steps, then second-order ones, along kinks too."""
    training = TrainingConfig()
    descent = _begin(form, arrays, w)
    for stop in pieces(training.polish_steps, "steps of polishing the given point"):
        descent = jax.block_until_ready(_go_on(form, arrays, descent, jnp.asarray(stop)))
    check_deadline("the polish, before its second-order steps")
    if curvature.vectors is None:
        return descent.w
    enough = 0.01 * training.shift_bias_tol * curvature.laplace_llc
    around = {"nbeta": config.nbeta, "gamma": config.posterior.gamma}
    return settle(form, arrays, descent.w, rng, **around, enough=enough, rounds=_SETTLE_ROUNDS)


@functools.partial(jax.jit, static_argnums=0)
def _loss(form: OwnForm, arrays: dict, w: Array) -> Array:
    return mean_loss(form, arrays, w)


@functools.partial(jax.jit, static_argnums=0)
def _begin(form: OwnForm, arrays: dict, w: Array) -> Descent:
    return begin(partial(mean_loss, form, arrays), w)


@functools.partial(jax.jit, static_argnums=0)
def _go_on(form: OwnForm, arrays: dict, descent: Descent, stop: Array) -> Descent:
    return go_on(partial(mean_loss, form, arrays), descent, stop)
