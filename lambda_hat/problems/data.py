"""Data of a problem: drawn from its seed, whatever the JAX version, or read from a file."""

from __future__ import annotations

from typing import Any

import numpy as np

from lambda_hat.conf.array_files import read_arrays
from lambda_hat.conf.distributions import InputConfig, NoiseConfig
from lambda_hat.conf.schema import FileData, ProblemConfig

STREAMS = ("inputs", "noise", "teacher", "init", "shakes")
"""Each has a generator of its own, so that one setting never moves another's draws."""


def stream(seed: int, name: str) -> np.random.Generator:
    """The generator of one of `STREAMS`."""
    return np.random.Generator(np.random.PCG64([seed, STREAMS.index(name)]))


def read_data(config: ProblemConfig) -> dict[str, np.ndarray]:
    """The rows of a problem whose data are in a file, floating ones as float64."""
    data = config.data
    if not isinstance(data, FileData):
        raise TypeError(f"The data of {config.pid} are in no file.")
    rows = read_arrays(data.source, "file", "data", label=data.label)
    return {k: a.astype(np.float64) if a.dtype.kind == "f" else a for k, a in rows.items()}


def inputs_of(config: ProblemConfig, dim: int) -> np.ndarray:
    """The problem's inputs [n, dim]."""
    if config.data.input is None:
        raise TypeError(f"A {config.model.title} model draws no data.")
    return draw_inputs(stream(config.seed, "inputs"), config.data.input, config.data.n, dim)


def noisy(config: ProblemConfig, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The labels y [n, out] of the inputs x, with the problem's label noise."""
    if config.data.noise is None:
        raise TypeError(f"A {config.model.title} model draws no data.")
    return y + draw_noise(stream(config.seed, "noise"), config.data.noise, x, y.shape[1])


def draw_inputs(rng: np.random.Generator, inputs: InputConfig, n: int, dim: int) -> np.ndarray:
    """Inputs [n, dim] of the kind that `inputs` says."""
    return _INPUTS[inputs.kind](rng, inputs, n, dim)


def draw_noise(
    rng: np.random.Generator, noise: NoiseConfig, x: np.ndarray, out_dim: int
) -> np.ndarray:
    """Label noise [n, out_dim] of the kind that `noise` says."""
    shape = (x.shape[0], out_dim)
    if noise.kind == "none":
        return np.zeros(shape)
    if noise.kind == "student_t":
        return noise.scale * rng.standard_t(noise.df, shape)
    draws = noise.scale * rng.standard_normal(shape)
    if noise.kind == "hetero":
        size = np.linalg.norm(x, axis=1, keepdims=True) / np.sqrt(x.shape[1])
        return draws * (1 + noise.slope * size)
    if noise.kind == "outliers":
        hit = rng.random((x.shape[0], 1)) < noise.fraction
        return np.where(hit, noise.factor * draws, draws)
    return draws


def _gauss_iso(rng: np.random.Generator, inputs: Any, n: int, dim: int) -> np.ndarray:
    return inputs.scale * rng.standard_normal((n, dim))


def _gauss_aniso(rng: np.random.Generator, inputs: Any, n: int, dim: int) -> np.ndarray:
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    scales = inputs.scale * np.geomspace(1, 1 / inputs.condition, dim)
    return (rng.standard_normal((n, dim)) * scales) @ rotation.T


def _mixture(rng: np.random.Generator, inputs: Any, n: int, dim: int) -> np.ndarray:
    centres = inputs.spread * rng.standard_normal((inputs.components, dim))
    which = rng.integers(inputs.components, size=n)
    return centres[which] + inputs.scale * rng.standard_normal((n, dim))


def _lowdim_manifold(rng: np.random.Generator, inputs: Any, n: int, dim: int) -> np.ndarray:
    frequencies = rng.standard_normal((inputs.latent_dim, dim))
    phases = rng.uniform(0, 2 * np.pi, dim)
    latent = rng.standard_normal((n, inputs.latent_dim))
    on = inputs.scale * np.sin(latent @ frequencies + phases)
    return on + inputs.off_manifold * rng.standard_normal((n, dim))


def _heavy_tail(rng: np.random.Generator, inputs: Any, n: int, dim: int) -> np.ndarray:
    return inputs.scale * rng.standard_t(inputs.df, (n, dim))


def _uniform(rng: np.random.Generator, inputs: Any, n: int, dim: int) -> np.ndarray:
    return rng.uniform(inputs.low, inputs.high, (n, dim))


_INPUTS = {
    "gauss_iso": _gauss_iso,
    "gauss_aniso": _gauss_aniso,
    "mixture": _mixture,
    "lowdim_manifold": _lowdim_manifold,
    "heavy_tail": _heavy_tail,
    "uniform": _uniform,
}
