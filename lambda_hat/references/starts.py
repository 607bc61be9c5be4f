"""Where chains from elsewhere start: at draws of the tether that are annealed to the posterior.

Draws of the tether know nothing of basins. They are tempered and resampled as SMC's particles are
(`lambda_hat.references.annealing`), so that basins hold about as many of them as they weigh, and
moved by the compiled program of the chains that they are to check. A move is a short
trajectory, however small the steps are; where particles still remember at the end
of a temperature's moves where they were, the next ones are twice as long.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import blackjax.mcmc.hmc as blackjax_hmc
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from scipy.optimize import root_scalar

from lambda_hat.references.annealing import DECORRELATED, FIRST_STEP_SIZE, OutOfTime, correlation
from lambda_hat.references.particles import TARGET_ESS, weighted_covariance
from lambda_hat.samplers import hmc, warmup
from lambda_hat.samplers.loop import Runner
from lambda_hat.samplers.metric import coordinates
from lambda_hat.target import Arrays, Form, logdensity

ON_THE_WAY = 0.5
"""Particles are moved until their losses and distances correlate less than this with those before;
at the posterior less than `DECORRELATED`. What they remember on the way is forgotten there."""
TRAJECTORY = 1.0
"""Mean length of a trajectory in units of the particles' spread. Lengths are uniform up to twice
that: |w - w*|^2 of a Gaussian is forgotten at the least cost in gradients by 0.8 to 1.1."""
MOST_MOVES = 10
"""Moves of each particle after which the next temperature is taken all the same."""


class Starts(NamedTuple):
    """Equally weighted places."""

    position: Float[np.ndarray, "starts d"]
    temperatures: int
    """On the way from the tether."""
    work: float
    """Full-data gradients."""


def anneal_starts(
    runner: Runner, *, count: int, target_accept: float, key: PRNGKeyArray, deadline: float
) -> Starts:
    """Draws of the tether, annealed to the posterior.

    Args:
        runner: HMC's chains after their warm-up, which stay as they are.
        count: how many starts, a multiple of the number of chains.
        target_accept: acceptance of moves on the way.
        key: the only source of randomness.
        deadline: a `time.monotonic()` value.

    Raises:
        OutOfTime: if the deadline came first.
    """
    return _Annealing(runner, count, target_accept, key, deadline).result()


class Measured(NamedTuple):
    """Particles and what is known of them."""

    position: Float[np.ndarray, "particles d"]
    loss: Float[np.ndarray, " particles"]
    distance: Float[np.ndarray, " particles"]
    """|w - w*|^2."""


class _Annealing:
    """Particles on their way from the tether to the posterior."""

    def __init__(
        self, runner: Runner, count: int, target_accept: float, key: PRNGKeyArray, deadline: float
    ):
        self._runner, self._deadline = runner, deadline
        self._arrays, self._target_accept = runner.target.arrays, target_accept
        tether_key, self._key, host_key = jax.random.split(key, 3)
        self._random = np.random.default_rng(np.asarray(jax.random.key_data(host_key)).tolist())
        self._adaptation, self._calls, self._work = runner.progress.state.adaptation, 0, 0.0
        self._step_size, self._trajectory = FIRST_STEP_SIZE, TRAJECTORY
        normal = np.asarray(jax.random.normal(tether_key, (count, runner.target.d)))
        shift = normal / math.sqrt(float(self._arrays.gamma))
        self._particles = self._measured(np.asarray(self._arrays.w_star) + shift)

    def result(self) -> Starts:
        temperature, temperatures = 0.0, 0
        while temperature < 1.0:
            higher, weights = self._next(temperature)
            dense = self._adaptation.metric.inverse_mass_matrix.ndim == 2
            effective = 1.0 / np.sum(weights**2)
            place = coordinates(self._arrays, jnp.asarray(self._particles.position))
            metric = weighted_covariance(place, weights, effective, dense)
            self._particles = self._resampled(weights)
            self._decorrelate(higher, metric, DECORRELATED if higher >= 1.0 else ON_THE_WAY)
            temperature, temperatures = higher, temperatures + 1
        return Starts(self._particles.position, temperatures, self._work)

    def _next(self, temperature: float) -> tuple[float, Float[np.ndarray, " particles"]]:
        """The highest temperature that keeps `TARGET_ESS` of the particles, and their weights."""
        excess = float(self._arrays.nbeta) * (self._particles.loss - self._runner.target.init_loss)
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

    def _resampled(self, weights: Float[np.ndarray, " particles"]) -> Measured:
        """Equally weighted particles, by systematic resampling in the order of their distances.

        Basins lie at distances of their own, and so keep as many particles as they weigh, to one
        or two: of 60 runs on two basins none lost the second one, out of order two did.
        """
        count, order = len(weights), np.argsort(self._particles.distance)
        points = (self._random.random() + np.arange(count)) / count
        chosen = order[np.minimum(np.searchsorted(np.cumsum(weights[order]), points), count - 1)]
        return Measured(*(values[chosen] for values in self._particles))

    def _decorrelate(self, temperature: float, metric: Array, below: float) -> None:
        """Moves particles until they have forgotten where they were."""
        begun = self._particles
        for _ in range(MOST_MOVES):
            acceptance = self._move(temperature, metric)
            self._step_size *= math.exp(acceptance - self._target_accept)
            now = self._particles
            left = (correlation(begun.loss, now.loss), correlation(begun.distance, now.distance))
            if max(map(abs, left)) < below:
                return
        self._trajectory *= 2.0

    def _move(self, temperature: float, metric: Array) -> float:
        """Every particle one transition on; their mean acceptance."""
        arrays = self._arrays._replace(nbeta=temperature * self._arrays.nbeta)
        adaptation = warmup.frozen(self._adaptation, self._step_size, metric)
        most = int(self._runner.settings.num_integration_steps)
        length = max(1, min(math.ceil(self._trajectory / self._step_size), most))
        settings = self._runner.settings._replace(num_integration_steps=jnp.int32(length))
        moved = []
        for place in self._in_groups(self._particles.position):
            if time.monotonic() >= self._deadline:
                raise OutOfTime
            self._calls += 1
            key = jax.random.fold_in(self._key, self._calls)
            state = chains_at(self._runner, arrays, place, adaptation)
            state, row = self._runner.advance(key, arrays, state, 1, settings)
            moved.append((np.asarray(state.chains.position), row))
        rows = {name: np.concatenate([row[name][0] for _, row in moved]) for name in moved[0][1]}
        self._work += float(rows["work"].sum()) + len(rows["work"])
        position = np.concatenate([place for place, _ in moved])
        self._particles = Measured(position, rows["loss"], rows["distance"])
        return float(np.mean(rows["acceptance"]))

    def _measured(self, position: Float[np.ndarray, "particles d"]) -> Measured:
        """Particles at these places."""
        arrays = self._arrays
        states = [
            chains_at(self._runner, arrays, place, self._adaptation)
            for place in self._in_groups(position)
        ]
        draws = [hmc.hamiltonian_draw(arrays, state.chains) for state in states]
        loss, distance = (np.concatenate([getattr(d, n) for d in draws]) for n in _MEASURED)
        self._work += len(position)
        return Measured(position, loss, distance)

    def _in_groups(self, position: Float[np.ndarray, "particles d"]) -> list[np.ndarray]:
        return np.split(position, len(position) // num_chains(self._runner))


_MEASURED = ("loss", "distance")


def num_chains(runner: Runner) -> int:
    """Chains that its program moves together."""
    return len(runner.progress.state.chains.position)


def chains_at(
    runner: Runner, arrays: Arrays, position: Float[np.ndarray, "chains d"], adaptation: Any
) -> hmc.State:
    """HMC's state with chains at given places, on a target of the runner's form."""
    return hmc.State.of(_start(runner.target.form)(arrays, position), adaptation)


@functools.lru_cache(maxsize=16)
def _start(form: Form) -> Callable[[Arrays, np.ndarray], blackjax_hmc.HMCState]:
    """Chains at given places, on targets of one form."""

    def start(arrays: Arrays, position: Array) -> blackjax_hmc.HMCState:
        density = functools.partial(logdensity, form, arrays)
        return jax.vmap(lambda w: blackjax_hmc.init(w, density))(position)

    return jax.jit(start)
