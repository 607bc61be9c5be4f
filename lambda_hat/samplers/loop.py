"""The one loop that runs every sampler.

It runs compiled chunks against a deadline, keeps a few scalars per draw, never its parameters,
and gives the same numbers however the steps fall into chunks.
"""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from lambda_hat.conf.samplers import SamplerConfig
from lambda_hat.samplers import program
from lambda_hat.samplers.base import Draw, Draws, Info, Method, Plan, Settings, Stage, State
from lambda_hat.samplers.shapes import compiler_options
from lambda_hat.target import Arrays, Target

CHUNK_SECONDS = 0.5
"""How long one compiled call should take: the deadline is looked at between calls."""
FORGET = 0.9
"""How much of the slowest call's time a draw is still thought to take after the next one: some
trajectories take ten times as long as others."""


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

    state: State
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
        method: Method,
        target: Target,
        config: SamplerConfig,
        *,
        key: PRNGKeyArray,
        resume: Callable[[State], Progress] | None = None,
    ):
        self.method, self.target, self.config = method, target, config
        self.plan: Plan = method.plan(config, target)
        programs = program.programs_of(method, target.form, method.structure_of(config, target))
        dtype = target.arrays.w_star.dtype
        self._settings = jax.tree.map(
            lambda x: jnp.asarray(x, dtype if isinstance(x, float) else jnp.int32),
            method.settings_of(config),
        )
        self._stopped = False
        init_key, self._key = jax.random.split(key)
        compiled_before = program.COMPILED.seconds
        given = (target.arrays, self._settings)
        get = functools.partial(program.COMPILED.get, options=compiler_options(target))
        init = get(programs.init, init_key, *given)
        began = time.monotonic()
        state = jax.block_until_ready(init(init_key, *given))
        initialised = time.monotonic() - began
        self.progress = Progress(state=state) if resume is None else resume(state)
        # All compiling is done here, so that the clock of `run` measures steps alone.
        self._advance_program = get(programs.advance, self._key, *given, state, *_counts(0, 0, 0))
        self._summary_program = get(programs.summary, *given, state)
        self.progress.seconds["compile"] += program.COMPILED.seconds - compiled_before
        self.progress.seconds["warmup"] += initialised

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
        self._warm_up(deadline, on_chunk, cut=cut_warmup)
        if self.progress.step >= plan.num_warmup and not self._stopped:
            steps = (wanted - self.progress.num_draws) * plan.thin
            self._advance(self.progress.step + steps, deadline, on_chunk, warmup=False)
        return self.progress

    def _warm_up(self, deadline: float, on_chunk: Callable | None, *, cut: bool) -> None:
        """Every stage of the warm-up; with `cut`, one that takes more than its share ends early."""
        plan, progress, now = self.plan, self.progress, time.monotonic()
        for end, share in (*plan.stages, Stage(plan.num_warmup, plan.warmup_share)):
            until = now + share * (deadline - now) if cut else deadline
            self._advance(end, until, on_chunk, warmup=True)
            if cut and progress.step < end and not self._stopped:
                progress.step, progress.warmup_cut = end, True

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
            stop = min((turn for turn in self.plan.turns if turn > progress.step), default=until)
            steps = min(stop, until) - progress.step
            stride = min(thin, steps) if warmup else thin
            count = max(1, min(steps // stride, _affordable(per_draw, left)))
            began = time.monotonic()
            counts = _counts(progress.step, count, stride)
            state, rows = self._advance_program(
                self._key, self.target.arrays, self._settings, progress.state, *counts
            )
            progress.state = jax.block_until_ready(state)
            took = time.monotonic() - began
            progress.seconds["warmup" if warmup else "sample"] += took
            progress.step += count * stride
            slowest = max(took / count, FORGET * per_draw)
            per_draw = 0.0 if progress.step in self.plan.turns else slowest
            (progress.warmup_rows if warmup else progress.rows).append(_fields(rows, count, stride))
            last = (progress.warmup_rows if warmup else progress.rows)[-1]
            progress.diverged = not np.isfinite(last["loss"]).all()
            self._stopped = progress.diverged or bool(on_chunk and on_chunk(progress))

    @property
    def settings(self) -> Settings:
        """The method's numeric settings, as its program takes them."""
        return self._settings

    def with_key(self, key: PRNGKeyArray) -> Runner:
        """The same with another key, for as many other chains, whose progress it is to be given."""
        other = copy.copy(self)
        _, other._key = jax.random.split(key)
        return other

    def advance(
        self,
        key: PRNGKeyArray,
        arrays: Arrays,
        state: State,
        count: int,
        settings: Settings | None = None,
    ) -> tuple[State, dict[str, np.ndarray]]:
        """Steps of other chains with the same program, after warm-up; progress stays as it is.

        Args:
            key: the only source of randomness of these steps.
            arrays: of a target of the same shape.
            state: where the chains stand.
            count: how many steps, at most `program.CHUNK_DRAWS`.
            settings: other ones than this run's, of the same structure.

        Returns:
            Where they stand then, and what was recorded of each step, name -> [count, chains].
        """
        counts = _counts(self.plan.num_warmup, count, 1)
        given = self._settings if settings is None else settings
        state, rows = self._advance_program(key, arrays, given, state, *counts)
        return state, _fields(rows, count, 1)

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


def _counts(*values: int) -> list[Array]:
    return [jnp.asarray(value, jnp.int32) for value in values]


def _affordable(per_draw: float, left: float) -> int:
    """Draws for the next chunk: a first look takes one, later chunks about `CHUNK_SECONDS`."""
    if per_draw <= 0:
        return 1
    return max(1, min(program.CHUNK_DRAWS, int(min(CHUNK_SECONDS, left / 2) / per_draw)))


def _fields(rows: tuple[Draw, Info], count: int, stride: int) -> dict[str, np.ndarray]:
    """Host copies, [count, chains]: rates are means over the steps of a draw, work is their sum."""
    draw, info = rows
    named = {**draw._asdict(), **info._asdict()}
    # Cut on the host: JAX would compile a program for each number of draws.
    host = {name: np.asarray(all_)[:count].astype(np.float64) for name, all_ in named.items()}
    host["acceptance"] /= stride
    host["divergence"] /= stride
    host["energy"] /= stride
    return host
