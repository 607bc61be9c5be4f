"""Config -> Problem: each family's data and minimum, in closed form where there is one."""

from __future__ import annotations

import numpy as np

from lambda_hat.conf.distributions import InputConfig, NoiseConfig
from lambda_hat.conf.schema import (
    DeepLinearConfig,
    LinearConfig,
    MLPConfig,
    MLPTeacher,
    ProblemConfig,
)
from lambda_hat.problem.data import draw_inputs, draw_noise, stream
from lambda_hat.problem.network import draw_teacher, predict
from lambda_hat.problem.problem import Problem, make_problem
from lambda_hat.problem.training import train

EXACT = {"status": "exact", "reasons": []}
"""Evidence for a minimum in closed form; its gradient is measured all the same."""


def build_problem(config: ProblemConfig) -> Problem:
    """Draws the data of a problem and finds its minimum."""
    model = config.model
    if model.family == "quadratic":
        data = {"curvature": np.asarray([model.curvature], np.float64)}
        return make_problem(config, data, np.zeros(len(model.curvature)), EXACT)
    if model.family == "normal_crossing":
        return make_problem(config, {}, np.zeros(len(model.powers)), EXACT)
    if model.family == "deep_linear":
        return _deep_linear(config, model)
    return _with_teacher(config, model)


def _with_teacher(config: ProblemConfig, model: MLPConfig | LinearConfig) -> Problem:
    """Networks and linear regression: data from a teacher with label noise."""
    teacher = config.teacher or MLPTeacher("mlp", widths=(), activation="identity")
    widths, kind = teacher.widths or (), {"bias": teacher.bias, "activation": teacher.activation}
    out_dim = model.out_dim if isinstance(model, MLPConfig) else 1
    inputs, noise = _distributions(config)
    x = draw_inputs(stream(config.seed, "inputs"), inputs, config.data.n, model.in_dim)
    truth = draw_teacher(stream(config.seed, "teacher"), teacher, x, out_dim)
    y = predict(truth, x, (model.in_dim, *widths, out_dim), **kind)
    y = y + draw_noise(stream(config.seed, "noise"), noise, x, out_dim)
    data = {"x": x, "y": y}
    if isinstance(model, LinearConfig):
        design = np.column_stack([x, np.ones(len(x))]) if model.bias else x
        w_star = np.linalg.lstsq(design, y[:, 0], rcond=None)[0]
        return make_problem(config, data, w_star, EXACT)
    student = {"bias": model.bias, "activation": model.activation}
    w_star, evidence = train(
        config, data, start=truth if (widths, kind) == (model.widths, student) else None
    )
    return make_problem(config, data, w_star, evidence)


def _deep_linear(config: ProblemConfig, model: DeepLinearConfig) -> Problem:
    layers = _block_diagonal(stream(config.seed, "teacher"), model)
    product = layers[0]
    for layer in layers[1:]:
        product = layer @ product
    if model.population:
        return make_problem(config, {"product": product[None]}, _flat(layers), EXACT)
    inputs, noise = _distributions(config)
    x = draw_inputs(stream(config.seed, "inputs"), inputs, config.data.n, model.widths[0])
    y = x @ product.T + draw_noise(stream(config.seed, "noise"), noise, x, model.widths[-1])
    if noise.kind != "none":
        layers = _balanced(_reduced_rank(x, y, min(model.widths)), model.widths)
    return make_problem(config, {"x": x, "y": y}, _flat(layers), EXACT)


def _distributions(config: ProblemConfig) -> tuple[InputConfig, NoiseConfig]:
    if config.data.input is None or config.data.noise is None:
        raise TypeError(f"A {config.model.family} model draws data; `input` and `noise` must be.")
    return config.data.input, config.data.noise


def _block_diagonal(rng: np.random.Generator, model: DeepLinearConfig) -> list[np.ndarray]:
    """Layers diag(A_s, 0) with A_s a random rotation: the deepest point of the true fibre."""
    layers = []
    for fan_in, fan_out in zip(model.widths[:-1], model.widths[1:], strict=True):
        layer = np.zeros((fan_out, fan_in))
        layer[: model.rank, : model.rank] = np.linalg.qr(
            rng.standard_normal((model.rank, model.rank))
        )[0]
        layers.append(layer)
    return layers


def _reduced_rank(x: np.ndarray, y: np.ndarray, rank: int) -> np.ndarray:
    """The product [out, in] of at most `rank` with the least squared error (Izenman 1975)."""
    least_squares = np.linalg.lstsq(x, y, rcond=None)[0].T
    fitted = np.linalg.svd(x @ least_squares.T, full_matrices=False)[2][:rank]
    return fitted.T @ fitted @ least_squares


def _balanced(product: np.ndarray, widths: tuple[int, ...]) -> list[np.ndarray]:
    """Layers of this product with equal singular values, |w|^2 least among all that have it.

    Label noise leaves no block-diagonal minimum. This is the point of the empirical fibre
    nearest to the block-diagonal one up to rotations of the hidden layers, which change neither
    the loss nor the tether.
    """
    left, values, right = np.linalg.svd(product, full_matrices=False)
    rank, depth = min(*widths, len(values)), len(widths) - 1
    root = values[:rank] ** (1 / depth)
    layers = []
    for index, (fan_in, fan_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        ins = right[:rank] if index == 0 else np.eye(rank, fan_in)
        outs = left[:, :rank] if index == depth - 1 else np.eye(fan_out, rank)
        layers.append(outs @ (root[:, None] * ins))
    return layers


def _flat(layers: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([layer.ravel() for layer in layers])
