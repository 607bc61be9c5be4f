"""How large a program is, and how hard the compiler works on it.

Compiling takes as long as thousands of steps of a small problem. So its sizes are rounded up, for
the trials of a study to share one program: what one does not use is masked, at the cost of a part
of each step. Large problems pay with steps for nothing, and have a program of exactly their sizes.
"""

from __future__ import annotations

import functools

import jax

from lambda_hat.target import WHOLE, Target, num_rows

SHARED_UP_TO = 1_000
"""Parameters up to which trials share programs (`benchmarks/trial_overhead.py` measures both)."""


QUICK_UP_TO = 256
"""Parameters up to which the compiler is to be quick: it takes half its time, and steps, which are
so small that their number of operations decides, at most a sixth more. Beyond, fusion pays."""
QUICK = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}


def compiler_options(target: Target) -> dict[str, int | bool]:
    """What the compiler is told about programs of this target."""
    quick = target.d <= QUICK_UP_TO and jax.default_backend() == "cpu"
    return QUICK if quick and _knows_quick() else {}


@functools.cache
def _knows_quick() -> bool:
    """Whether this XLA has the options: their names come and go."""
    try:
        jax.jit(lambda x: x).lower(0.0).compile(compiler_options=QUICK)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def shares(target: Target, up_to: int = SHARED_UP_TO) -> bool:
    """Whether its trials share a program, as those of at most `up_to` parameters do."""
    return target.d <= up_to


def rounded_up(size: int, least: int) -> int:
    """`least`, or the first of its products with powers of 4 that holds `size`."""
    while least < size:
        least *= 4
    return least


def rows_of(target: Target, batch: int, *, least: int) -> int:
    """Rows that a program for a batch evaluates (see `draw_minibatch`)."""
    if not target.form.has_rows:
        return WHOLE
    n = num_rows(target.form, target.arrays)
    shared = rounded_up(batch, least)
    if shares(target) and target.arrays.statistics is None:
        return min(n, shared)
    return WHOLE if batch >= n else batch
