"""What a full-data gradient costs: all rows at once, or in the blocks of `target.mean_loss`.

    NPROC=1 python benchmarks/gradients.py

Microseconds a gradient of one chain, the best of many calls, on one core of an AMD EPYC (1 MiB L2)
whose neighbour was busy; n 20 000, ReLU networks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lambda_hat.problem.forms import NetworkForm
from lambda_hat.target import mean_loss

CASES = (
    ((4, 4, 4, 1), "float64", (1, 4, 32, 64)),
    ((16, 23, 23, 1), "float64", (4, 32)),
    ((32, 62, 62, 62, 1), "float64", (4,)),
    ((32, 62, 62, 62, 1), "float32", (4,)),
)
SECONDS = 1.0
"""How long each is repeated."""


def at_once(form: Any, data: Any, w: jax.Array) -> jax.Array:
    """The mean loss as one expression over all rows."""
    return jnp.mean(form.losses(w, data))


def seconds(loss: Callable, form: Any, data: Any, w: jax.Array) -> float:
    """The least time of one gradient of every chain."""
    program = jax.jit(lambda w, data: jax.vmap(jax.grad(lambda w: loss(form, data, w)))(w))
    jax.block_until_ready(program(w, data))
    best, end = float("inf"), time.monotonic() + SECONDS
    while time.monotonic() < end:
        began = time.perf_counter()
        jax.block_until_ready(program(w, data))
        best = min(best, time.perf_counter() - began)
    return best


def measured(n: int = 20_000) -> Iterator[str]:
    """One row of the table after the other."""
    yield "| d | dtype | chains | n | all rows at once | in blocks |"
    yield "| --- | --- | --- | --- | --- | --- |"
    rng = np.random.default_rng(0)
    for sizes, dtype, chains in CASES:
        form = NetworkForm(sizes, True, "relu", "mse")
        d = sum((a + 1) * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))
        shapes = {"x": (n, sizes[0]), "y": (n, sizes[-1])}
        data = {name: jnp.asarray(rng.normal(size=s), dtype) for name, s in shapes.items()}
        for count in chains:
            w = jnp.asarray(0.3 * rng.normal(size=(count, d)), dtype)
            took = [seconds(loss, form, data, w) / count * 1e6 for loss in (at_once, mean_loss)]
            yield f"| {d} | {dtype} | {count} | {n} | {took[0]:.0f} | {took[1]:.0f} |"


if __name__ == "__main__":
    with jax.enable_x64(True):
        for line in measured():
            print(line, flush=True)
        for line in list(measured(100))[2:]:
            print(line, flush=True)
