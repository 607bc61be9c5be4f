"""One run of SMC: its particles on their way from the tether to the posterior.

Each temperature is the highest whose weights keep half of the particles effective (Del Moral,
Doucet & Jasra 2012); particles are resampled and then moved by HMC, with their own covariance as
metric, until they have forgotten where they were (Buchholz, Chopin & Jacob 2021). This host loop
looks at the deadline between sweeps over all particles.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lambda_hat.conf.samplers import ReferenceConfig
from lambda_hat.references.particles import (
    Population,
    Programs,
    Weighing,
    build,
    compile_programs,
    shape_of,
)
from lambda_hat.target import Target

DECORRELATED = 0.2
"""Particles are moved until their losses and distances correlate less than this with the start."""
DECORRELATED_AT_LAST = 0.05
"""The same at the posterior, where what is not forgotten is bias."""
MAX_SWEEPS = 20
"""Moves of each particle after which the next temperature is taken all the same."""
MAX_SWEEPS_AT_LAST = 60
MEASURED_SWEEPS = 20
"""Moves at the posterior over which the estimate is averaged."""
TRAJECTORY = 1.5
"""Mean length of a trajectory in units of the particles' spread: a quarter turn of a Gaussian."""
FIRST_STEP_SIZE = 0.5
LADDER_POINTS = 5
"""Temperatures next to the posterior through which log Z is interpolated."""
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
"""Its multiples modulo 1 are spread evenly: they jitter the trajectories' lengths."""


class OutOfTime(Exception):
    """The next sweep would end after the deadline."""


@dataclass
class Clock:
    """Knows what the next sweep will take from what the last ones took.

    Attributes:
        deadline: a `time.monotonic()` value.
        gradient: seconds of one gradient of every particle; 0 where not yet known.
    """

    deadline: float
    gradient: float = 0.0

    def time(self, gradients: float, function: Callable, *args: Any) -> Any:
        """Calls a compiled function of known work.

        Raises:
            OutOfTime: if the call would, going by earlier ones, end after the deadline.
        """
        began = time.monotonic()
        if began + gradients * self.gradient >= self.deadline:
            raise OutOfTime
        value = jax.block_until_ready(function(*args))
        self.gradient = (time.monotonic() - began) / gradients
        return value


def compile_for(target: Target, config: ReferenceConfig) -> tuple[Programs, float]:
    """The programs of all runs on a target, and the seconds that compiling them took."""
    batch, dense = shape_of(
        target,
        num_particles=config.num_particles,
        dense_metric_max_dim=config.dense_metric_max_dim,
    )
    programs = build(target.form, config.num_particles, batch, dense)
    return compile_programs(programs, target, jnp.asarray(target.init_loss))


class Run:
    """One independent run: from the tether to the posterior."""

    def __init__(
        self, programs: Programs, target: Target, config: ReferenceConfig, key: Any, clock: Clock
    ):
        self._programs, self._target, self._config = programs, target, config
        self._clock, self._key, self._calls = clock, key, 0
        self._init_loss = jnp.asarray(target.init_loss)
        self._step_size = FIRST_STEP_SIZE
        self._sweeps, self._gradients = 0, 0.0
        self._ladder: list[tuple[float, float]] = []
        self._stuck = 0.0

    def result(self) -> dict[str, float | None]:
        """What the run measured, as plain numbers.

        Raises:
            OutOfTime: if the deadline came first.
        """
        arrays = self._target.arrays
        population = self._clock.time(
            1 / 3, self._programs.start, self._next_key(), arrays, self._init_loss
        )
        self._gradients += 1 / 3
        log_z = 0.0
        while True:
            before = float(population.temperature)
            population, weighing = self._programs.temper(self._next_key(), arrays, population)
            rises = float(population.temperature) > before
            if not (rises and math.isfinite(float(weighing.log_z))):
                raise FloatingPointError(
                    f"The temperature must rise from {before:.3g} to 1, but no particle has a "
                    "finite loss there. Raise posterior.gamma."
                )
            log_z += float(weighing.log_z)
            self._ladder.append((float(population.temperature), log_z))
            population, leftover = self._decorrelate(population, weighing)
            self._stuck = max(self._stuck, leftover)
            if float(population.temperature) >= 1.0:
                return self._measure(population, weighing, log_z)

    def _decorrelate(self, population: Population, weighing: Weighing) -> tuple[Population, float]:
        """Moves particles until they forgot their start; what correlation is left."""
        start, leftover = population, 1.0
        last = float(population.temperature) >= 1.0
        below = DECORRELATED_AT_LAST if last else DECORRELATED
        for _ in range(MAX_SWEEPS_AT_LAST if last else MAX_SWEEPS):
            population, _ = self._sweep(population, weighing, adapt=True)
            leftover = max(
                abs(correlation(start.excess, population.excess)),
                abs(correlation(start.distance, population.distance)),
            )
            if leftover < below:
                break
        return population, leftover

    def _measure(
        self, population: Population, weighing: Weighing, log_z: float
    ) -> dict[str, float | None]:
        """Averages over sweeps at the posterior, with the step size as it is now."""
        measured = []
        for _ in range(MEASURED_SWEEPS):
            population, moved = self._sweep(population, weighing, adapt=False)
            measured.append([float(value) for value in moved])
        acceptance, divergence, virial, excess, variance, below = np.mean(measured, axis=0)
        return {
            "llc": float(self._target.nbeta * excess),
            "variance": float(self._target.nbeta**2 * variance),
            "virial": float(virial) / self._target.d,
            "acceptance": float(acceptance),
            "divergence": float(divergence),
            "below": float(below),
            "log_z": log_z,
            "llc_from_log_z": _slope_at_end(self._ladder),
            "temperatures": float(len(self._ladder)),
            "sweeps": float(self._sweeps),
            "leftover": self._stuck,
            "unique_ancestors": float(weighing.unique),
            "step_size": self._step_size,
            "work": self._gradients * self._config.num_particles,
        }

    def _sweep(
        self, population: Population, weighing: Weighing, *, adapt: bool
    ) -> tuple[Population, Any]:
        """One HMC transition of every particle; the step size follows their acceptance."""
        self._sweeps += 1
        jitter = 2.0 * ((self._sweeps * GOLDEN) % 1.0)
        length = math.ceil(jitter * TRAJECTORY / self._step_size)
        length = max(1, min(length, 2 * self._config.num_integration_steps))
        self._gradients += length + 1
        population, moved = self._clock.time(
            length + 1,
            self._programs.sweep,
            self._next_key(),
            self._target.arrays,
            self._init_loss,
            population,
            weighing.covariance,
            jnp.asarray(self._step_size),
            jnp.asarray(length, jnp.int32),
        )
        if adapt:
            self._step_size *= math.exp(float(moved.acceptance) - self._config.target_accept)
        return population, moved

    def _next_key(self) -> Any:
        self._calls += 1
        return jax.random.fold_in(self._key, self._calls)


def correlation(x: Any, y: Any) -> float:
    """Between the particles' values before and after; 1 where one of them does not vary."""
    x, y = np.asarray(x) - np.mean(x), np.asarray(y) - np.mean(y)
    scale = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum()) / scale if math.isfinite(scale) and scale > 0 else 1.0


def _slope_at_end(ladder: list[tuple[float, float]]) -> float | None:
    """llc = -d log Z / d log nbeta at the posterior, through the last temperatures."""
    points = ladder[-LADDER_POINTS:]
    if len(points) < 2:
        return None
    log_t, log_z = np.log([t for t, _ in points]), np.array([z for _, z in points])
    polynomial = np.polynomial.Polynomial.fit(log_t, log_z, min(3, len(points) - 1))
    return -float(polynomial.deriv()(0.0))
