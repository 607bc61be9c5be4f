"""What a full-data gradient costs: all rows at once, or in the blocks of `target.mean_loss`.

    NPROC=1 python benchmarks/gradients.py

Microseconds a gradient of one chain, the best of many calls; ReLU networks, one core of an AMD EPYC
(1 MiB L2) on a machine with a load of 2 to 5 on its two cores:

| d | dtype | chains | n | all rows at once | in blocks |
| --- | --- | --- | --- | --- | --- |
| 45 | float64 | 1 | 20000 | 391 | 452 |
| 45 | float64 | 4 | 20000 | 327 | 270 |
| 45 | float64 | 32 | 20000 | 2037 | 258 |
| 45 | float64 | 64 | 20000 | 2539 | 258 |
| 967 | float64 | 4 | 20000 | 15981 | 2904 |
| 967 | float64 | 32 | 20000 | 20779 | 4734 |
| 9921 | float64 | 4 | 20000 | 122607 | 29274 |
| 9921 | float32 | 4 | 20000 | 51070 | 12809 |

With a load of 21, when little of the shared cache is left, 64 chains of d 45 took 14 245 and 540,
and 4 chains of d 9921 348 192 and 158 430. At n = 100 there is one block, and both are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lambda_hat.problems.forms import NetworkForm
from lambda_hat.target import mean_loss

CASES = (
    ((4, 4, 4, 1), "float64", (1, 4, 32, 64)),
    ((16, 23, 23, 1), "float64", (4, 32)),
    ((32, 62, 62, 62, 1), "float64", (4,)),
    ((32, 62, 62, 62, 1), "float32", (4,)),
)
SECONDS = 4.0
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
