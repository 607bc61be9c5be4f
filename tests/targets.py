"""Targets with known answers, for the tests of samplers and estimates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lambda_hat.target import Target, make_target


@dataclass(frozen=True)
class SquareSum:
    """L(w) = 1/2 sum h_i w_i^2, with h as data."""

    has_rows: bool = False

    def losses(self, w: Array, data: Any) -> Array:
        return 0.5 * jnp.sum(data * w**2)[None]


@dataclass(frozen=True)
class Monomial:
    """L(w) = prod w_i^(2 k_i)."""

    powers: tuple[int, ...]
    has_rows: bool = False

    def losses(self, w: Array, data: Any) -> Array:
        return jnp.prod(w ** (2 * np.asarray(self.powers)))[None]


@dataclass(frozen=True)
class NoisySquares:
    """Rows l_i(w) = 1/2 |w - x_i|^2 - 1/2 |x_i|^2, whose mean is 1/2 |w|^2 when x is centred."""

    has_rows: bool = True

    def losses(self, w: Array, data: Any) -> Array:
        return 0.5 * jnp.sum(w**2 - 2 * w * data, axis=-1)


def square_sum(h: tuple[float, ...], *, n: int, gamma: float, dtype: str) -> Target:
    return make_target(
        SquareSum(),
        np.asarray(h),
        np.zeros(len(h)),
        nbeta=n / np.log(n),
        gamma=gamma,
        n=n,
        init_loss=0.0,
        dtype=dtype,
    )


def monomial(powers: tuple[int, ...], *, n: int, gamma: float, dtype: str) -> Target:
    return make_target(
        Monomial(powers),
        np.zeros(1),
        np.zeros(len(powers)),
        nbeta=n / np.log(n),
        gamma=gamma,
        n=n,
        init_loss=0.0,
        dtype=dtype,
    )


def noisy_squares(d: int, *, n: int, gamma: float, dtype: str, scale: float = 1.0) -> Target:
    rows = np.random.default_rng(0).normal(size=(n, d)) * scale
    return make_target(
        NoisySquares(),
        rows - rows.mean(axis=0),
        np.zeros(d),
        nbeta=n / np.log(n),
        gamma=gamma,
        n=n,
        init_loss=0.0,
        dtype=dtype,
    )


def square_sum_llc(h: tuple[float, ...], *, n: int, gamma: float) -> float:
    """sum 1/2 nbeta h / (nbeta h + gamma)."""
    nbeta = n / np.log(n)
    return float(sum(0.5 * nbeta * x / (nbeta * x + gamma) for x in h))
