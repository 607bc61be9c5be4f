"""Temperatures from the tether to the posterior: where the rungs are, and how many there must be.

The probability that a swap between neighbours is rejected adds up along the ladder to its barrier,
whatever the spacing. With all rejections equal, N rungs of a barrier B reject B / (N - 1) of
their swaps, and round trips cost least where that is about one half (Syed et al. 2022).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import erfinv

LEAST_RUNGS, MOST_RUNGS = 8, 24
NUM_ROUNDS = 5
"""Rounds of adaptation. Each is twice as long as the one before; the last moves no temperature."""
FIRST_GAIN = 0.5
SLOWER = 10.0
"""Iterations of a round after which the gain falls."""
POWER = 0.6
_LEAST_REJECTION = 1e-3
"""Keeps temperatures apart where nothing was rejected."""


class Rounds(NamedTuple):
    """When adaptation looks back, as numbers a program can take as arguments."""

    end: int
    """Iterations of adaptation."""
    closes: Int[np.ndarray, " rounds"]
    """Last iteration of each round."""


def rounds_of(num_warmup: int) -> Rounds:
    """Rounds that double, over `num_warmup` iterations."""
    parts = (2.0 ** np.arange(1, NUM_ROUNDS + 1) - 1) / (2.0**NUM_ROUNDS - 1)
    return Rounds(num_warmup, np.round(num_warmup * parts).astype(np.int32) - 1)


def gain(rounds: Rounds, i: Array) -> Array:
    """How far a log step size moves for one unit of acceptance, at iteration `i` of adaptation."""
    closes = jnp.asarray(rounds.closes)
    begun = jnp.max(jnp.where(closes < i, closes + 1, 0))
    return FIRST_GAIN / (1.0 + (i - begun) / SLOWER) ** POWER


def first_temperatures(coldest: float, count: int) -> tuple[float, ...]:
    """0, then from `coldest` to 1 by equal factors: even where the LLC is the same at all."""
    between = np.geomspace(coldest, 1.0, count - 1)
    return (0.0, *between.tolist())


def equal_rejection(
    temperatures: Float[Array, " rungs"], rejection: Float[Array, " pairs"], count: int
) -> Float[Array, " count"]:
    """`count` temperatures, between neighbours of which equally many swaps are rejected.

    The barrier up to a temperature, known at the old ones, is interpolated between them.
    """
    height = _height(temperatures, temperatures[1])
    barrier = jnp.concatenate(
        [jnp.zeros(1), jnp.cumsum(jnp.maximum(rejection, _LEAST_REJECTION))]
    ).astype(height.dtype)
    wanted = jnp.linspace(0.0, barrier[-1], count, dtype=height.dtype)
    moved = temperatures[1] * jnp.expm1(jnp.interp(wanted, barrier, height))
    return moved.at[0].set(0.0).at[-1].set(1.0)


MOST_REJECTION = 0.99
"""Of a pair, so that the barrier between them is a number."""


def barrier_of(rejection: Float[np.ndarray, " pairs"]) -> float:
    """The barrier of a ladder whose rungs may be far apart.

    A swap over a barrier b is rejected with probability b where b is small, and for normal losses
    with erf(sqrt(pi) b / 2), which stays below 1.
    """
    return float(np.sum(erfinv(np.minimum(rejection, MOST_REJECTION))) * 2.0 / math.sqrt(math.pi))


def num_rungs(barrier: float) -> int:
    """Rungs that reject about half of their swaps."""
    return min(max(math.ceil(2.0 * barrier) + 1, LEAST_RUNGS), MOST_RUNGS)


class Between(NamedTuple):
    """Where new temperatures lie between old ones."""

    lower: Int[Array, " rungs"]
    share: Float[Array, " rungs"]
    """Of the upper neighbour."""

    @classmethod
    def of(cls, old: Float[Array, " rungs"], new: Float[Array, " rungs"]) -> Between:
        """Of positive temperatures, both ascending."""
        x, y = _height(old, old[0]), _height(new, old[0])
        lower = jnp.clip(jnp.searchsorted(x, y, side="right") - 1, 0, len(old) - 2)
        share = (y - x[lower]) / jnp.maximum(x[lower + 1] - x[lower], jnp.finfo(x.dtype).tiny)
        return cls(lower, jnp.clip(share, 0.0, 1.0))

    def interpolate(self, values: Float[Array, "rungs ..."]) -> Float[Array, "rungs ..."]:
        """Values of the old temperatures at the new ones."""
        share = self.share.reshape(-1, *(1,) * (values.ndim - 1))
        return (1.0 - share) * values[self.lower] + share * values[self.lower + 1]


def _height(temperature: Array, unit: Array) -> Array:
    """A scale that is linear below `unit` and logarithmic above."""
    return jnp.log1p(temperature / unit)
