"""Target -> Draws: the protocol every sampler fills.

A sampler is pure functions of keys, arrays, settings and state. The loop that runs them is not its
own (see `lambda_hat.samplers.loop`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, Protocol

from jaxtyping import Array, Float, PRNGKeyArray

from lambda_hat.target import Arrays, Form, Target


class Draw(NamedTuple):
    """What is kept of one draw, a value a chain."""

    loss: Float[Array, " chains"]
    """L_n(w) on all data."""
    weight: Float[Array, " chains"]
    """Weight of the draw in averages (1, or the step size of a decaying scheme)."""
    distance: Float[Array, " chains"]
    """|w - w*|^2."""
    virial: Float[Array, " chains"]
    """(w - w*) . grad U, whose exact mean is d; NaN where no full gradient is at hand."""


class Info(NamedTuple):
    """What only diagnostics need of one step, a value a chain."""

    acceptance: Float[Array, " chains"]
    """Probability of acceptance; NaN for a method that accepts everything."""
    divergence: Float[Array, " chains"]
    """1 where the step diverged."""
    energy: Float[Array, " chains"]
    """Total energy at the start of a Hamiltonian trajectory; NaN for other methods."""
    work: Float[Array, " chains"]
    """Full-data gradients of the step; a fraction for a minibatch."""


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


class Sampler(NamedTuple):
    """One method on one form: pure functions of keys, arrays, settings and state."""

    init: Callable[[PRNGKeyArray, Arrays, Any], Any]
    """(key, arrays, settings) -> State, of all chains."""
    step: Callable[[PRNGKeyArray, Arrays, Any, Any, Array], tuple[Any, Info]]
    """(key, arrays, settings, state, i) -> (State, Info). Warm-up is `i < num_warmup`."""
    draw: Callable[[PRNGKeyArray, Arrays, Any, Any, Array], Draw]
    """(key, arrays, settings, state, i) -> Draw."""
    summary: Callable[[Arrays, Any, Any], dict[str, Array]]
    """(arrays, settings, state) -> scalars worth a look at the end of a run."""


class Method(Protocol):
    """What a module of this package gives, besides its `Config`."""

    DTYPE: str
    DRAW_WORK: float
    """Full-data gradient equivalents of one recorded draw (a loss is a third of a gradient)."""

    def plan(self, config: Any) -> Plan:
        """How long `config` asks to run."""
        ...

    def structure(self, config: Any) -> Hashable:
        """What of `config` shapes the program; everything else is traced."""
        ...

    def settings(self, config: Any) -> Any:
        """The traced rest of `config`, a pytree of numbers."""
        ...

    def build(self, form: Form, structure: Any) -> Sampler:
        """The sampler of one form and structure."""
        ...

    def refusal(self, target: Target, config: Any) -> str | None:
        """Why this target cannot be sampled with `config`, or None."""
        ...
