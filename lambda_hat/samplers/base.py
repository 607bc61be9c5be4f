"""The interface that every sampler fills, and what comes out of a run.

A sampler is pure functions of keys, arrays, settings and state. The loop that runs them is not its
own (see `lambda_hat.samplers.loop`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lambda_hat.target import Arrays, Form, Target


class Draw(NamedTuple):
    """What is kept of one draw, one value per chain."""

    loss: Float[Array, " chains"]
    """L_n(w) on all data."""
    weight: Float[Array, " chains"]
    """Weight of the draw in averages (1, or the step size of a decaying scheme)."""
    distance: Float[Array, " chains"]
    """|w - w*|^2."""
    virial: Float[Array, " chains"]
    """(w - w*) . grad U, whose exact mean is d; NaN where no full gradient is at hand."""
    log_ratio: Float[Array, " chains"]
    """log p - log q, up to a constant, of a draw of an approximation q that is to be weighed by it;
    NaN for any other."""


class Info(NamedTuple):
    """What only diagnostics need of one step, one value per chain."""

    acceptance: Float[Array, " chains"]
    """Probability of acceptance; NaN for a method that accepts everything."""
    divergence: Float[Array, " chains"]
    """1 where the step diverged."""
    energy: Float[Array, " chains"]
    """Total energy at the start of a Hamiltonian trajectory; NaN for other methods."""
    work: Float[Array, " chains"]
    """Full-data gradients of the step; a fraction for a minibatch."""


@dataclass(frozen=True)
class Draws:
    """Every `Draw` and `Info` of a run after warm-up, each array [draws, chains].

    Of the steps between two draws, `acceptance`, `divergence` and `energy` are means, `work` is
    the sum.
    """

    loss: np.ndarray
    weight: np.ndarray
    distance: np.ndarray
    virial: np.ndarray
    log_ratio: np.ndarray
    acceptance: np.ndarray
    divergence: np.ndarray
    energy: np.ndarray
    work: np.ndarray
    loss_dtype: str
    """Precision in which the losses were computed."""
    num_warmup: int
    thin: int
    """Steps between draws."""
    work_total: float
    """Full-data gradient equivalents of the whole run, warm-up and recorded losses included."""


class Stage(NamedTuple):
    """A part of a run that may be cut, for what comes after it to have its time."""

    end: int
    """The step that comes after it."""
    share: float
    """Of the time budget, that of the stages before it counted."""


class Plan(NamedTuple):
    """How long to run."""

    num_warmup: int
    """Steps of adaptation, or of the fit for VI. Draws come after."""
    num_draws: int
    """Draws of each chain after warm-up."""
    thin: int
    """Steps between draws."""
    warmup_share: float = 0.5
    """Share of the time budget after which a warm-up that has not ended is cut."""
    stages: tuple[Stage, ...] = ()
    """Of the warm-up, those that have a share of their own, in order."""
    turns: tuple[int, ...] = ()
    """Steps from which on a step takes another time: what the ones before took says nothing."""


State = Any
"""A method's own `State`: a pytree of arrays with a leading axis of chains where it has one."""
Structure = Any
"""A method's own `Structure`: the settings that shape its program, hashable."""
Settings = Any
"""A method's own `Settings`: the numeric ones, passed as traced arguments."""


class Sampler(NamedTuple):
    """One method on one form: pure functions of keys, arrays, settings and state."""

    init: Callable[[PRNGKeyArray, Arrays, Settings], State]
    """(key, arrays, settings) -> State, of all chains."""
    step: Callable[[PRNGKeyArray, Arrays, Settings, State, Array], tuple[State, Info]]
    """(key, arrays, settings, state, i) -> (State, Info). Warm-up is `i < num_warmup`."""
    draw: Callable[[PRNGKeyArray, Arrays, Settings, State, Array], Draw]
    """(key, arrays, settings, state, i) -> Draw."""
    summary: Callable[[Arrays, Settings, State], dict[str, Array]]
    """(arrays, settings, state) -> scalars worth a look at the end of a run."""


class Method(Protocol):
    """What a module of this package gives: one sampling method.

    Each takes its own `Config`, `Structure` and `Settings`, which is why they are `Any` here.
    """

    Config: Any
    """Its settings, a class of `lambda_hat.conf.samplers`."""

    @property
    def DTYPE(self) -> str:
        """Precision in which the method is to be used, "float32" or "float64"."""
        ...

    @property
    def DRAW_WORK(self) -> float:
        """Full-data gradient equivalents of one recorded draw (a loss is a third of a gradient)."""
        ...

    @property
    def TRIM_TRANSIENT(self) -> bool:
        """Whether to search the trace for a transient beyond the planned warm-up."""
        ...

    def plan(self, config: Any, target: Target) -> Plan:
        """How long `config` asks to run on this target."""
        ...

    def structure_of(self, config: Any, target: Target) -> Hashable:
        """What shapes the program on this target: each distinct value is compiled anew."""
        ...

    def settings_of(self, config: Any) -> Settings:
        """Numeric settings, passed as traced arguments: a pytree of numbers."""
        ...

    def refusal(self, target: Target, config: Any) -> str | None:
        """Why this target cannot be sampled with `config`, or None."""
        ...

    def build(self, form: Form, structure: Structure) -> Sampler:
        """The sampler of one form and structure."""
        ...
