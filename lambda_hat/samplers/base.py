"""Target -> Draws: the protocol every sampler fills, and the one loop that runs them all.

A sampler is three pure functions. The loop belongs to this module: it runs compiled chunks
against a deadline, keeps scalars a draw and never the draws themselves, and gives the same
numbers however the steps fall into chunks, because step i always uses `fold_in(key, i)`.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lambda_hat.target import Arrays, Form, Target

CHUNK_DRAWS = 256
"""Most draws in one compiled call: the size of its output buffer."""
CHUNK_SECONDS = 0.5
"""How long one compiled call should take: the deadline is looked at between calls."""


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


class Programs(NamedTuple):
    """The compiled functions of one sampler on one shape of target."""

    init: Callable[..., Any]
    advance: Callable[..., Any]
    summary: Callable[..., Any]


@functools.lru_cache(maxsize=64)
def _functions(method: Any, form: Form, structure: Hashable) -> Programs:
    """Jitted functions of a method on a form; arrays and settings stay arguments."""
    sampler: Sampler = method.build(form, structure)

    def advance(
        key: PRNGKeyArray,
        arrays: Arrays,
        settings: Any,
        state: Any,
        start: Array,
        count: Array,
        thin: Array,
    ) -> tuple[Any, tuple[Draw, Info]]:
        step_key, draw_key = jax.random.split(key)

        def steps(state: Any, first: Array) -> tuple[Any, Info]:
            def one(t: Array, carry: tuple[Any, Info]) -> tuple[Any, Info]:
                state, total = carry
                i = first + t
                state, info = sampler.step(
                    jax.random.fold_in(step_key, i), arrays, settings, state, i
                )
                return state, jax.tree.map(jnp.add, total, info)

            shape = jax.eval_shape(
                lambda s: sampler.step(step_key, arrays, settings, s, first)[1], state
            )
            zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
            return jax.lax.fori_loop(0, thin, one, (state, zero))

        def record(j: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            state, buffer = carry
            state, info = steps(state, start + j * thin)
            last = start + (j + 1) * thin - 1
            draw = sampler.draw(jax.random.fold_in(draw_key, last), arrays, settings, state, last)
            row = (draw, info)
            return state, jax.tree.map(lambda b, x: b.at[j].set(x), buffer, row)

        def row_shape(state: Any) -> tuple[Draw, Info]:
            return (
                sampler.draw(draw_key, arrays, settings, state, start),
                sampler.step(step_key, arrays, settings, state, start)[1],
            )

        buffer = jax.tree.map(
            lambda x: jnp.zeros((CHUNK_DRAWS, *x.shape), x.dtype), jax.eval_shape(row_shape, state)
        )
        return jax.lax.fori_loop(0, count, record, (state, buffer))

    return Programs(jax.jit(sampler.init), jax.jit(advance), jax.jit(sampler.summary))


class Compiled:
    """Ahead-of-time compiled functions, one a shape, so that compiling is timed apart."""

    def __init__(self) -> None:
        self._cache: dict[Hashable, Callable[..., Any]] = {}
        self.seconds = 0.0

    def get(self, function: Any, *args: Any) -> Callable[..., Any]:
        leaves, tree = jax.tree.flatten(args)
        key = (function, tree, tuple((leaf.shape, leaf.dtype) for leaf in leaves))
        if key not in self._cache:
            began = time.monotonic()
            self._cache[key] = function.lower(*args).compile()
            self.seconds += time.monotonic() - began
        return self._cache[key]


_COMPILED = Compiled()


@dataclass
class Progress:
    """Where a run stands: all that continuing it needs.

    Attributes:
        state: the sampler's state (device arrays).
        step: index of the next step.
        rows: blocks of recorded fields, name -> [draws, chains], in order, after warm-up.
        warmup_rows: the same, during warm-up.
        seconds: wall time by what it went into.
        warmup_cut: whether the time budget ended warm-up early.
        diverged: whether a loss stopped being finite, which stops the run.
    """

    state: Any
    step: int = 0
    rows: list[dict[str, np.ndarray]] = field(default_factory=list)
    warmup_rows: list[dict[str, np.ndarray]] = field(default_factory=list)
    seconds: dict[str, float] = field(
        default_factory=lambda: {"compile": 0.0, "warmup": 0.0, "sample": 0.0}
    )
    warmup_cut: bool = False
    diverged: bool = False

    @property
    def num_draws(self) -> int:
        """Draws of each chain after warm-up."""
        return sum(len(block["loss"]) for block in self.rows)


class Runner:
    """Runs one method on one target; keeps its progress in `self.progress`.

    Args:
        method: a module of this package (see `Method`).
        target: what to sample.
        config: the method's settings.
        key: the run's only source of randomness.
        resume: rebuilds an earlier run's progress, given a state of the same structure.
    """

    def __init__(
        self,
        method: Any,
        target: Target,
        config: Any,
        *,
        key: PRNGKeyArray,
        resume: Callable[[Any], Progress] | None = None,
    ):
        self.method, self.target, self.config = method, target, config
        self.plan: Plan = method.plan(config)
        programs = _functions(method, target.form, method.structure(config))
        dtype = target.arrays.w_star.dtype
        self._settings = jax.tree.map(
            lambda x: jnp.asarray(x, dtype if isinstance(x, float) else jnp.int32),
            method.settings(config),
        )
        init_key, self._key = jax.random.split(key)
        compiled_before = _COMPILED.seconds
        given = (target.arrays, self._settings)
        state = _COMPILED.get(programs.init, init_key, *given)(init_key, *given)
        state = jax.block_until_ready(state)
        self.progress = Progress(state=state) if resume is None else resume(state)
        # All compiling is done here, so that the clock of `run` measures steps alone.
        counts = _counts(0, 0, 0)
        self._advance_program = _COMPILED.get(programs.advance, self._key, *given, state, *counts)
        self._summary_program = _COMPILED.get(programs.summary, *given, state)
        self.progress.seconds["compile"] += _COMPILED.seconds - compiled_before

    def run(
        self,
        *,
        deadline: float = math.inf,
        num_draws: int | None = None,
        on_chunk: Callable[[Progress], bool | None] | None = None,
        cut_warmup: bool = True,
    ) -> Progress:
        """Warm up, then draw until `num_draws` (default: the plan's) or the deadline.

        Args:
            deadline: a `time.monotonic()` value; no compiled call is begun that would, going
                by the last one's speed, end after it.
            num_draws: total draws of each chain to reach, earlier ones counted.
            on_chunk: called after each chunk; returning True stops the run.
            cut_warmup: whether a warm-up that takes more than its share of the time until the
                deadline ends early and is frozen as it is. If not, it goes on until the deadline.
        """
        plan, wanted = self.plan, self.plan.num_draws if num_draws is None else num_draws
        now = time.monotonic()
        cut = deadline
        if cut_warmup and deadline < math.inf:
            cut = now + plan.warmup_share * (deadline - now)
        if self.progress.step < plan.num_warmup:
            self._advance(plan.num_warmup, cut, on_chunk, warmup=True)
            if cut_warmup and self.progress.step < plan.num_warmup and not self._stopped:
                self.progress.step, self.progress.warmup_cut = plan.num_warmup, True
        if self.progress.step >= plan.num_warmup and not self._stopped:
            steps = (wanted - self.progress.num_draws) * plan.thin
            self._advance(self.progress.step + steps, deadline, on_chunk, warmup=False)
        return self.progress

    _stopped = False

    def _advance(
        self, until: int, deadline: float, on_chunk: Callable | None, *, warmup: bool
    ) -> None:
        """Run chunks up to step `until`; a chunk that would pass the deadline is not begun."""
        progress, thin = self.progress, self.plan.thin
        per_draw = 0.0
        while progress.step < until and not self._stopped:
            left = deadline - time.monotonic()
            if left <= 1.5 * per_draw:
                return
            steps = until - progress.step
            stride = min(thin, steps) if warmup else thin
            count = max(1, min(steps // stride, _affordable(per_draw, left)))
            began = time.monotonic()
            state, rows = self._advance_program(
                self._key,
                self.target.arrays,
                self._settings,
                progress.state,
                *_counts(progress.step, count, stride),
            )
            progress.state = jax.block_until_ready(state)
            took = time.monotonic() - began
            progress.seconds["warmup" if warmup else "sample"] += took
            per_draw = took / count
            progress.step += count * stride
            (progress.warmup_rows if warmup else progress.rows).append(_fields(rows, count, stride))
            last = (progress.warmup_rows if warmup else progress.rows)[-1]
            progress.diverged = not np.isfinite(last["loss"]).all()
            self._stopped = progress.diverged or bool(on_chunk and on_chunk(progress))

    def summary(self) -> dict[str, float]:
        """The sampler's own scalars at the end of the run."""
        values = self._summary_program(self.target.arrays, self._settings, self.progress.state)
        return {name: float(value) for name, value in values.items()}

    def draws(self) -> Draws:
        """What was drawn after warm-up."""
        blocks = self.progress.rows
        names = (*Draw._fields, *Info._fields)
        joined = {
            name: np.concatenate([block[name] for block in blocks]) if blocks else np.empty((0, 1))
            for name in names
        }
        every = [*self.progress.warmup_rows, *blocks]
        work = sum(float(block["work"].sum()) for block in every)
        recorded = sum(block["loss"].size for block in every)
        return Draws(
            **joined,
            loss_dtype=self.method.DTYPE,
            num_warmup=self.plan.num_warmup,
            thin=self.plan.thin,
            work_total=work + self.method.DRAW_WORK * recorded,
        )


@dataclass(frozen=True)
class Draws:
    """Scalars of every draw after warm-up, each array [draws, chains]."""

    loss: np.ndarray
    weight: np.ndarray
    distance: np.ndarray
    virial: np.ndarray
    acceptance: np.ndarray
    divergence: np.ndarray
    energy: np.ndarray
    work: np.ndarray
    loss_dtype: str
    num_warmup: int
    thin: int
    work_total: float
    """Full-data gradient equivalents of the whole run, warm-up and recorded losses included."""


def _counts(*values: int) -> list[Array]:
    return [jnp.asarray(value, jnp.int32) for value in values]


def _affordable(per_draw: float, left: float) -> int:
    """Draws for the next chunk: a first look takes one, later chunks about `CHUNK_SECONDS`."""
    if per_draw <= 0:
        return 1
    return max(1, min(CHUNK_DRAWS, int(min(CHUNK_SECONDS, left / 2) / per_draw)))


def _fields(rows: tuple[Draw, Info], count: int, stride: int) -> dict[str, np.ndarray]:
    """Host copies, [count, chains]: rates are means over the steps of a draw, work is their sum."""
    draw, info = rows
    named = {**draw._asdict(), **info._asdict()}
    host = {name: np.array(values[:count], np.float64) for name, values in named.items()}
    host["acceptance"] /= stride
    host["divergence"] /= stride
    host["energy"] /= stride
    return host
