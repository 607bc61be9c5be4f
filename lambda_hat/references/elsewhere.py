"""Short chains from elsewhere: whether chains that begin around w* miss a part of the posterior.

Chains in one basin agree with each other, however much of the posterior lies in another. So short
chains run, with the steps and the metric of the chains that they are to check, from where draws of
the tether are annealed to (`lambda_hat.references.starts`). If all of them draw from one posterior,
their means scatter around its LLC as means of as many successive draws of the long chains do:
s, the root mean square of their distances from it in units of that error, is 1 up to chance (s^2 is
chi^2 over its degrees of freedom, 64). Chains in basins whose LLC is another add to it the
variance D of these LLCs, in units of an error that falls with the draws: s must be at most
`ELSEWHERE` after all of them.

It is looked at before, after a quarter and a half of the draws, and they end there if D is small
enough with `SURE` confidence for that gate to hold at the end: a posterior that would be refused
then with even odds is passed by at most one in twenty looks, one that lies farther off by fewer.
Otherwise the chains go on to the length that they would have had without. Nothing is refused before
that: particles that have not quite arrived look like basins, for a while.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray
from scipy.stats import chi2

from lambda_hat.references.annealing import OutOfTime
from lambda_hat.references.gates import ELSEWHERE
from lambda_hat.references.starts import Starts, anneal_starts, chains_at, num_chains
from lambda_hat.samplers.loop import Runner
from lambda_hat.samplers.program import CHUNK_DRAWS

NUM_STARTS = 64
"""A part of the posterior that has a twentieth of its mass is missed by one in 27 such samples."""
SHARE = 8
"""The short chains together have at most so many times fewer draws than the chains that they check,
or would have if these had not been precise enough before: what they see must not become less."""
LOOKS = (0.25, 0.5)
"""Shares of their draws after which they may end, besides all."""
SURE = 0.95
"""Confidence that the gate would hold after all draws, where they end before."""
BURN_IN = 4
"""So many times fewer draws of a short chain than count at a look are left out, at its start."""


@dataclass(frozen=True)
class Elsewhere:
    """What short chains from elsewhere found.

    Attributes:
        llc: mean of nbeta (L_n - L_n(w*)) of each of them.
        scatter: root mean square of their distances from the LLC that is checked, in units of
            what they should be.
        draws: of each, those that count.
        most_draws: how many they could have been.
        temperatures: how many there were on the way from the tether.
        work: full-data gradients, by what they went into: `starts`, `draws`.
    """

    llc: Float[np.ndarray, " chains"]
    scatter: float
    draws: int
    most_draws: int
    temperatures: int
    work: dict[str, float]


class Checked(NamedTuple):
    """The number that is checked, and the draws that it is from."""

    llc: float
    se: float
    excess: Float[np.ndarray, "draws chains"]
    """nbeta (L_n - L_n(w*)) of each."""

    def error(self, count: int) -> float:
        """What the mean of `count` successive draws is off this LLC by, root mean square.

        Means within the long chains lie nearer by the LLC's own error, as they are a part of it.
        """
        sums = np.cumsum(np.vstack([np.zeros(self.excess.shape[1]), self.excess]), axis=0)
        means = (sums[count:] - sums[:-count]) / count
        return math.sqrt(float(np.mean((means - self.llc) ** 2)) + 2.0 * self.se**2)


class ShortChains(Protocol):
    """Chains that start where `starts` says, and go on as far as they are asked to."""

    def starts(self) -> Starts:
        """Where they start.

        Raises:
            OutOfTime: if the deadline came first.
        """
        ...

    def draw(self, count: int) -> Float[np.ndarray, "draws chains"]:
        """The losses of their first `count` draws.

        Raises:
            OutOfTime: if the deadline came first.
        """
        ...

    @property
    def work(self) -> float:
        """Full-data gradients of their draws."""
        ...


def look_elsewhere(short: ShortChains, runner: Runner, llc: float, se: float) -> Elsewhere:
    """Runs short chains until they have seen enough.

    Args:
        short: the chains.
        runner: HMC's chains, at their end.
        llc: their estimate.
        se: its standard error.

    Raises:
        OutOfTime: if the short chains' deadline came first.
    """
    target, starts = runner.target, short.starts()
    excess = target.nbeta * (runner.draws().loss - target.init_loss)
    checked, most = Checked(llc, se, excess), most_draws(runner, len(starts.position))

    def look(count: int) -> Elsewhere:
        means = target.nbeta * (_losses(short, count).mean(axis=0) - target.init_loss)
        scatter = float(np.sqrt(np.mean((means - llc) ** 2))) / checked.error(count)
        work = {"starts": starts.work, "draws": short.work}
        return Elsewhere(means, scatter, count, most, starts.temperatures, work)

    for share in LOOKS:
        if would_hold(found := look(math.ceil(share * most)), checked):
            return found
    return look(most)


def _losses(short: ShortChains, count: int) -> Float[np.ndarray, "draws chains"]:
    """Of so many draws that follow the burn-in of a look."""
    burn_in = math.ceil(count / BURN_IN)
    return short.draw(burn_in + count)[burn_in:]


def would_hold(found: Elsewhere, checked: Checked) -> bool:
    """Whether the gate would surely hold after all draws, going by those that there are."""
    now, last = checked.error(found.draws) ** 2, checked.error(found.most_draws) ** 2
    chains = len(found.llc)
    highest = found.scatter**2 * chains / float(chi2.ppf(1.0 - SURE, chains))
    return last + (highest - 1.0) * now <= ELSEWHERE**2 * last


def most_draws(runner: Runner, starts: int) -> int:
    """Draws of each short chain that count, where they don't end before."""
    drawn = max(runner.progress.num_draws, runner.plan.num_draws)
    return math.ceil(drawn * num_chains(runner) / (SHARE * starts))


def num_starts(group: int) -> int:
    """How many short chains there are: `NUM_STARTS`, in groups of so many."""
    return group * math.ceil(NUM_STARTS / group)


class InOneProcess:
    """Short chains by the compiled program of the chains that they check, a group at a time.

    Args:
        runner: HMC's chains, which stay as they are.
        target_accept: acceptance of moves on the way from the tether.
        key: the only source of randomness.
        deadline: a `time.monotonic()` value.
    """

    def __init__(self, runner: Runner, *, target_accept: float, key: PRNGKeyArray, deadline: float):
        self._runner, self._deadline = runner, deadline
        self._anneal_key, self._key = jax.random.split(key)
        self._target_accept = target_accept
        self._states: list[Any] = []
        self._rows: list[dict[str, np.ndarray]] = []
        self._calls = 0

    def starts(self) -> Starts:
        """See `ShortChains`."""
        runner, group = self._runner, num_chains(self._runner)
        starts = anneal_starts(
            runner,
            count=num_starts(group),
            target_accept=self._target_accept,
            key=self._anneal_key,
            deadline=self._deadline,
        )
        adaptation = runner.progress.state.adaptation
        self._states = [
            chains_at(runner, runner.target.arrays, place, adaptation)
            for place in np.split(starts.position, len(starts.position) // group)
        ]
        return starts

    def draw(self, count: int) -> Float[np.ndarray, "draws chains"]:
        """See `ShortChains`."""
        while (left := count - sum(len(row["loss"]) for row in self._rows)) > 0:
            self._rows.append(self._advance(min(left, CHUNK_DRAWS)))
        return np.concatenate([row["loss"] for row in self._rows])

    @property
    def work(self) -> float:
        """See `ShortChains`."""
        return sum(float(row["work"].sum()) for row in self._rows)

    def _advance(self, count: int) -> dict[str, np.ndarray]:
        """All groups `count` draws on; what was recorded, [count, chains]."""
        recorded = []
        for group, state in enumerate(self._states):
            if time.monotonic() >= self._deadline:
                raise OutOfTime
            self._calls += 1
            key = jax.random.fold_in(self._key, self._calls)
            arrays = self._runner.target.arrays
            self._states[group], row = self._runner.advance(key, arrays, state, count)
            recorded.append(row)
        return {name: np.hstack([row[name] for row in recorded]) for name in recorded[0]}
