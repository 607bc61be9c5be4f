"""Short chains from elsewhere: whether chains that begin around w* miss a part of the posterior.

Chains in one basin agree with each other, however much of the posterior lies in another. Draws of
the tether know nothing of basins: they are annealed to the posterior as SMC's particles are, by
the compiled program of the chains that they are to check, and from where they come to rest short
chains run with those chains' steps and metric. If all of them draw from one posterior, the means
of the short ones scatter around its LLC by an error that the long ones know.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import blackjax.mcmc.hmc as blackjax_hmc
import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from scipy.optimize import root_scalar

from lambda_hat.references.annealing import DECORRELATED, FIRST_STEP_SIZE, OutOfTime, correlation
from lambda_hat.references.particles import TARGET_ESS, weighted_covariance
from lambda_hat.samplers import hmc, warmup
from lambda_hat.samplers.loop import Runner
from lambda_hat.samplers.program import CHUNK_DRAWS
from lambda_hat.target import Arrays, Form, logdensity

NUM_STARTS = 64
"""A part of the posterior that has a twentieth of its mass is missed by one in 27 such samples."""
SHARE = 8
"""The short chains together have so many times fewer draws than the chains that they check, or
would have if these had not been precise enough before: what they see must not become less."""
BURN_IN = 4
"""One in so many draws of a short chain is left out."""
MOST_MOVES = 10
"""Moves of each particle after which the next temperature is taken all the same."""


@dataclass(frozen=True)
class Elsewhere:
    """What short chains from elsewhere found.

    Attributes:
        llc: mean of nbeta (L_n - L_n(w*)) of each of them.
        draws: of each, those that count.
        temperatures: how many there were on the way from the tether.
        work: full-data gradients.
    """

    llc: Float[np.ndarray, " chains"]
    draws: int
    temperatures: int
    work: float

    def scatter(self, llc: float, se: float, num_draws: int) -> float:
        """Root mean square of their distances from an LLC, in units of what they should be.

        Args:
            llc: the estimate of the chains that are checked.
            se: its standard error.
            num_draws: how many draws it is from, whose error falls as one over their root.
        """
        error = se * math.sqrt(1.0 + num_draws / self.draws)
        return float(np.sqrt(np.mean((self.llc - llc) ** 2))) / error


def look_elsewhere(
    runner: Runner, *, target_accept: float, key: PRNGKeyArray, deadline: float
) -> Elsewhere:
    """Runs short chains from where draws of the tether are annealed to.

    Args:
        runner: HMC's chains, at their end, which stay as they are.
        target_accept: acceptance of moves on the way.
        key: the only source of randomness.
        deadline: a `time.monotonic()` value.

    Raises:
        OutOfTime: if the deadline came first.
    """
    return _Search(runner, target_accept, key, deadline).result()


class _Particles(NamedTuple):
    position: Float[np.ndarray, "particles d"]
    loss: Float[np.ndarray, " particles"]
    distance: Float[np.ndarray, " particles"]
    """|w - w*|^2."""


class _Search:
    """Particles on their way from the tether to the posterior, and on from there."""

    def __init__(self, runner: Runner, target_accept: float, key: PRNGKeyArray, deadline: float):
        self._runner, self._deadline = runner, deadline
        self._arrays, self._nbeta = runner.target.arrays, float(runner.target.arrays.nbeta)
        tether_key, self._key, host_key = jax.random.split(key, 3)
        self._random = np.random.default_rng(np.asarray(jax.random.key_data(host_key)).tolist())
        self._chains, self._calls, self._work = len(runner.progress.rows[0]["loss"][0]), 0, 0.0
        self._adaptation = runner.progress.state.adaptation
        self._step_size, self._target_accept = FIRST_STEP_SIZE, target_accept
        self._start = _start(runner.target.form)
        count = self._chains * math.ceil(NUM_STARTS / self._chains)
        normal = np.asarray(jax.random.normal(tether_key, (count, runner.target.d)))
        shift = normal / math.sqrt(float(self._arrays.gamma))
        self._particles = self._measured(np.asarray(self._arrays.w_star) + shift)

    def result(self) -> Elsewhere:
        temperature, temperatures = 0.0, 0
        while temperature < 1.0:
            higher, weights = self._next(temperature)
            dense = self._adaptation.metric.inverse_mass_matrix.ndim == 2
            effective = 1.0 / np.sum(weights**2)
            metric = weighted_covariance(self._particles.position, weights, effective, dense)
            self._particles = self._resampled(weights)
            self._decorrelate(higher, metric)
            temperature, temperatures = higher, temperatures + 1
        found, draws = self._short_chains()
        return Elsewhere(found, draws, temperatures, self._work)

    def _next(self, temperature: float) -> tuple[float, Float[np.ndarray, " particles"]]:
        """The highest temperature that keeps `TARGET_ESS` of the particles, and their weights."""
        excess = self._nbeta * (self._particles.loss - self._runner.target.init_loss)
        excess = np.where(np.isfinite(excess), excess, np.inf)
        excess = excess - excess.min()

        def weights(step: float) -> np.ndarray:
            raw = np.exp(-step * excess)
            return raw / raw.sum()

        def surplus(step: float) -> float:
            return 1.0 / float(np.sum(weights(step) ** 2) * len(excess)) - TARGET_ESS

        left = 1.0 - temperature
        if surplus(left) >= 0.0:
            return 1.0, weights(left)
        step = root_scalar(surplus, bracket=(0.0, left)).root
        return temperature + step, weights(step)

    def _resampled(self, weights: Float[np.ndarray, " particles"]) -> _Particles:
        """Equally weighted particles, by systematic resampling."""
        count = len(weights)
        points = (self._random.random() + np.arange(count)) / count
        chosen = np.minimum(np.searchsorted(np.cumsum(weights), points), count - 1)
        return _Particles(*(values[chosen] for values in self._particles))

    def _decorrelate(self, temperature: float, metric: Array) -> None:
        """Moves particles until they have forgotten where they were."""
        begun = self._particles
        for _ in range(MOST_MOVES):
            frozen = warmup.frozen(self._adaptation, self._step_size, metric)
            rows = self._move(temperature, frozen, 1)
            self._step_size *= math.exp(float(np.mean(rows["acceptance"])) - self._target_accept)
            now = self._particles
            left = (correlation(begun.loss, now.loss), correlation(begun.distance, now.distance))
            if max(map(abs, left)) < DECORRELATED:
                return

    def _short_chains(self) -> tuple[Float[np.ndarray, " chains"], int]:
        """Means over chains with the checked chains' own steps and metric; draws that count."""
        drawn = max(self._runner.progress.num_draws, self._runner.plan.num_draws)
        checked = drawn * self._chains
        count = math.ceil(checked / (SHARE * len(self._particles.loss)))
        burn_in = math.ceil(count / BURN_IN)
        losses = self._move(1.0, self._adaptation, burn_in + count)["loss"][burn_in:]
        return self._nbeta * (losses.mean(axis=0) - self._runner.target.init_loss), count

    def _move(self, temperature: float, adaptation: Any, count: int) -> dict[str, np.ndarray]:
        """Every particle `count` transitions on; what was recorded, [count, particles]."""
        arrays = self._arrays._replace(nbeta=temperature * self._arrays.nbeta)
        places, recorded = [], []
        for place in self._in_groups(self._particles.position):
            state = hmc.State.of(self._start(arrays, place), adaptation)
            rows = []
            for done in range(0, count, CHUNK_DRAWS):
                self._in_time()
                self._calls += 1
                key = jax.random.fold_in(self._key, self._calls)
                chunk = min(CHUNK_DRAWS, count - done)
                state, fields = self._runner.advance(key, arrays, state, chunk)
                rows.append(fields)
            places.append(np.asarray(state.chains.position))
            recorded.append({name: np.concatenate([r[name] for r in rows]) for name in rows[0]})
        joined = {n: np.concatenate([r[n] for r in recorded], axis=1) for n in recorded[0]}
        self._work += float(joined["work"].sum()) + len(self._particles.loss)
        last = joined["loss"][-1], joined["distance"][-1]
        self._particles = _Particles(np.concatenate(places), *last)
        return joined

    def _measured(self, position: Float[np.ndarray, "particles d"]) -> _Particles:
        """Particles at these places."""
        places = [self._start(self._arrays, place) for place in self._in_groups(position)]
        draws = [hmc.hamiltonian_draw(self._arrays, place) for place in places]
        loss, distance = (np.concatenate([getattr(d, n) for d in draws]) for n in _MEASURED)
        self._work += len(position)
        return _Particles(position, loss, distance)

    def _in_groups(self, position: Float[np.ndarray, "particles d"]) -> list[np.ndarray]:
        return np.split(position, len(position) // self._chains)

    def _in_time(self) -> None:
        if time.monotonic() >= self._deadline:
            raise OutOfTime


_MEASURED = ("loss", "distance")


@functools.lru_cache(maxsize=16)
def _start(form: Form) -> Callable[[Arrays, np.ndarray], blackjax_hmc.HMCState]:
    """Chains at given places, on targets of one form."""

    def start(arrays: Arrays, position: Array) -> blackjax_hmc.HMCState:
        density = functools.partial(logdensity, form, arrays)
        return jax.vmap(lambda w: blackjax_hmc.init(w, density))(position)

    return jax.jit(start)
