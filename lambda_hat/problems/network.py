"""Weights of teachers and initial points, drawn with NumPy so that no bit depends on JAX."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from lambda_hat.conf.families import NetworkConfig
from lambda_hat.conf.networks import Activation
from lambda_hat.conf.schema import ProblemConfig
from lambda_hat.problems.data import inputs_of, noisy, read_data, stream

_GAIN = {"relu": 2.0, "gelu": 2.0, "tanh": 25 / 9, "identity": 1.0}
_BIAS_SCALE = 0.25

Vector = Float[np.ndarray, " d"]


def draw_weights(
    rng: np.random.Generator, sizes: tuple[int, ...], *, bias: bool, activation: Activation
) -> Vector:
    """Flat parameters of a network: weights N(0, gain/fan_in) (He et al. 2015), small biases."""
    parts = []
    for layer, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        gain = _GAIN[activation] if layer < len(sizes) - 2 else 1.0
        parts.append(rng.normal(0, np.sqrt(gain / fan_in), fan_out * fan_in))
        parts.append(rng.normal(0, _BIAS_SCALE, fan_out * bias))
    return np.concatenate(parts)


def predict(
    w: Vector, x: np.ndarray, sizes: tuple[int, ...], *, bias: bool, activation: Activation
) -> np.ndarray:
    """The outputs [n, out] of the network with flat parameters `w`, in float64."""
    start, last = 0, len(sizes) - 2
    for layer, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        stop = start + fan_in * fan_out
        x = x @ w[start:stop].reshape(fan_out, fan_in).T
        if bias:
            x = x + w[stop : stop + fan_out]
        x = _activate(activation, x) if layer < last else x
        start = stop + fan_out * bias
    return x


def labelled_rows(config: ProblemConfig, model: NetworkConfig) -> tuple[dict, Vector | None]:
    """Rows {x [n, in], y [n, out]}, and the weights of the teacher that labelled them, if one did.

    They are labelled with noise, or are those of a file.
    """
    if config.data.file is not None:
        rows = {name: array.astype(np.float64) for name, array in read_data(config).items()}
        return {"x": rows["x"], "y": rows["y"].reshape(len(rows["y"]), -1)}, None
    x, teacher = inputs_of(config, model.sizes[0]), config.teacher
    if teacher is None:
        raise TypeError(f"A {config.model.title} model has no teacher.")
    truth = draw_teacher(stream(config.seed, "teacher"), teacher, x, model.sizes[-1])
    sizes = (model.sizes[0], *(teacher.widths or ()), model.sizes[-1])
    y = predict(truth, x, sizes, bias=teacher.bias, activation=teacher.activation)
    return {"x": x, "y": noisy(config, x, y)}, truth


def draw_teacher(rng: np.random.Generator, teacher: Any, x: np.ndarray, out_dim: int) -> Vector:
    """A teacher whose outputs have unit variance on the inputs `x`.

    The last layer is scaled to that; a teacher with an output that does not vary (dead units) is
    drawn again.

    Raises:
        ValueError: A hundred teachers in a row were constant.
    """
    sizes = (x.shape[1], *teacher.widths, out_dim)
    kind = {"bias": teacher.bias, "activation": teacher.activation}
    for _ in range(100):
        w = draw_weights(rng, sizes, **kind)
        spread = np.std(predict(w, x, sizes, **kind), axis=0)
        if np.all(spread > 0.05):
            rows = sizes[-2] * out_dim
            end = len(w) - out_dim * teacher.bias
            w[end - rows : end] /= np.repeat(spread, sizes[-2])
            w[end:] /= spread[: len(w) - end]
            return w
    raise ValueError(
        "The teacher must vary over the inputs, but 100 draws of it were constant. "
        "Give it more width or another activation, or the inputs a larger scale."
    )


def _activate(activation: Activation, x: np.ndarray) -> np.ndarray:
    if activation == "relu":
        return np.maximum(x, 0)
    if activation == "tanh":
        return np.tanh(x)
    if activation == "gelu":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x
