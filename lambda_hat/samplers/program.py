"""A sampler's pure functions as compiled programs that make many draws per call.

Step i always uses `fold_in(key, i)`, so that the draws are the same however the steps fall into
calls. Arrays and settings are arguments: one program serves every trial of a shape.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from lambda_hat.samplers.base import Draw, Info, Method, Sampler, Settings, State
from lambda_hat.target import Arrays, Form

CHUNK_DRAWS = 256
"""Most draws in one compiled call: the size of its output buffer."""


class Programs(NamedTuple):
    """The compiled functions of one sampler on one shape of target."""

    init: Callable[..., Any]
    advance: Callable[..., Any]
    summary: Callable[..., Any]


@functools.lru_cache(maxsize=64)
def programs_of(method: Method, form: Form, structure: Hashable) -> Programs:
    """Jitted functions of a method on a form; arrays and settings stay arguments."""
    sampler: Sampler = method.build(form, structure)

    def advance(
        key: PRNGKeyArray,
        arrays: Arrays,
        settings: Settings,
        state: State,
        start: Array,
        count: Array,
        thin: Array,
    ) -> tuple[State, tuple[Draw, Info]]:
        step_key, draw_key = jax.random.split(key)

        def steps(state: State, first: Array) -> tuple[State, Info]:
            def one(t: Array, carry: tuple[State, Info]) -> tuple[State, Info]:
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

        def record(j: Array, carry: tuple[State, Any]) -> tuple[State, Any]:
            state, buffer = carry
            state, info = steps(state, start + j * thin)
            last = start + (j + 1) * thin - 1
            draw = sampler.draw(jax.random.fold_in(draw_key, last), arrays, settings, state, last)
            row = (draw, info)
            return state, jax.tree.map(lambda b, x: b.at[j].set(x), buffer, row)

        def row_shape(state: State) -> tuple[Draw, Info]:
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
    """Ahead-of-time compiled functions, one per shape, so that compiling is timed apart."""

    def __init__(self) -> None:
        self._cache: dict[Hashable, Callable[..., Any]] = {}
        self.seconds = 0.0

    def get(
        self, function: Any, *args: Any, options: Mapping[str, Any] | None = None
    ) -> Callable[..., Any]:
        """The function compiled for arguments of these shapes, `options` being the compiler's."""
        leaves, tree = jax.tree.flatten(args)
        key = (function, tree, tuple((leaf.shape, leaf.dtype) for leaf in leaves))
        if key not in self._cache:
            began = time.monotonic()
            self._cache[key] = function.lower(*args).compile(dict(options or {}))
            self.seconds += time.monotonic() - began
        return self._cache[key]

    def forget(self) -> bool:
        """Drops every program, here and in JAX; whether there was one."""
        if not self._cache:
            return False
        self._cache.clear()
        jax.clear_caches()
        return True


COMPILED = Compiled()
"""Every program that this process has compiled ahead of time."""
