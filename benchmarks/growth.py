"""How the cost of a step grows with the rows n, the parameters d and the chains, for every method.

For `mclmc` and `hmc` it is the cost of a full-data gradient of every chain, in their transitions.

    NPROC=1 python benchmarks/growth.py [--method sgld ...] [--seconds 4]

Each case is a process of its own: a ReLU network at random weights (a step costs the same at any),
the method's default settings, SECONDS of steps after compilation, in CPU time, which other
work on the machine disturbs least. `exponent` is the slope between
this case and the one above it on logarithmic axes: 1 is linear, less is better, and what is well
above 1 where the mathematics is linear is a fault. `MiB` is the most memory that the process held,
less what it held once JAX was imported.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

NETWORKS = {
    45: (4, 4, 4, 1),
    967: (16, 23, 23, 1),
    9_921: (32, 62, 62, 62, 1),
    98_701: (64, 180, 180, 180, 120, 1),
    1_001_361: (64, 560, 560, 560, 560, 40, 1),
}
"""By about how many parameters each has; the exact number is in the table."""
SWEEPS = {
    "n": [(967, n, 4) for n in (100, 1_000, 10_000, 100_000, 1_000_000)],
    "d": [(d, 1_000, 4) for d in NETWORKS],
    "chains": [(967, 1_000, chains) for chains in (2, 4, 16, 64)],
}
METHODS = ("sgld", "vi", "mclmc", "hmc")
FULL_GRADIENTS = ("mclmc", "hmc")
"""Their transitions make as many gradients as warm-up finds good: what is timed is a gradient."""
LONGEST_SEC = 300
"""A case that takes longer, compilation included, is not measured, nor are the larger ones."""


def measure(method: str, d: int, n: int, chains: int, seconds: float) -> dict[str, float]:
    """One case, in this process: CPU seconds a step, parameters, MiB and seconds of compilation."""
    import jax
    import numpy as np

    from lambda_hat.conf.samplers import SAMPLERS
    from lambda_hat.problems.forms import NetworkForm
    from lambda_hat.samplers import load_method
    from lambda_hat.samplers.loop import Runner
    from lambda_hat.target import make_target

    jax.devices()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sizes, rng = NETWORKS[d], np.random.default_rng(0)
    form = NetworkForm(sizes, True, "relu", "mse")
    count = sum((a + 1) * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))
    data = {
        "x": rng.normal(size=(n, sizes[0])).astype(np.float32),
        "y": rng.normal(size=(n, sizes[-1])).astype(np.float32),
    }
    module = load_method(method)
    given = {} if method == "vi" else {"num_chains": chains}
    config = SAMPLERS[method](**given)
    with jax.enable_x64(module.DTYPE == "float64"):
        target = make_target(
            form,
            data,
            rng.normal(size=count) / sum(sizes) ** 0.5,
            nbeta=1.0,  # So that every step size is stable; a step costs the same at any.
            gamma=1.0,
            n=n,
            init_loss=0.0,
            dtype=module.DTYPE,
        )
        runner = Runner(module, target, config, key=jax.random.key(0))
        compiled, began = runner.progress.seconds["compile"], time.process_time()
        runner.run(deadline=time.monotonic() + seconds, cut_warmup=False)
        took = time.process_time() - began
        if runner.progress.diverged:
            raise RuntimeError("The run diverged and ended early: its time says nothing.")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "d": count,
        "step": took / counted(runner, chains, by_gradient=method in FULL_GRADIENTS),
        "MiB": (after - before) / 1024,
        "compile": compiled,
    }


def counted(runner: Any, chains: int, *, by_gradient: bool) -> float:
    """How many steps were made, or full-data gradients of each chain."""
    if not by_gradient:
        return max(runner.progress.step, 1)
    blocks = [*runner.progress.warmup_rows, *runner.progress.rows]
    return max(sum(float(block["work"].sum()) for block in blocks) / chains, 1.0)


def measured(method: str, d: int, n: int, chains: int, seconds: float) -> dict | None:
    """One case in a process of its own; None where it took too long or failed."""
    words = ["--case", json.dumps([method, d, n, chains, seconds])]
    try:
        done = subprocess.run(
            [sys.executable, __file__, *words], capture_output=True, text=True, timeout=LONGEST_SEC
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1], file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def rows(methods: list[str], seconds: float) -> Iterator[str]:
    """The table, row by row."""
    yield "| method | grows | n | d | chains | CPU ms | exponent | MiB | s to compile |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for method in methods:
        for swept, cases in SWEEPS.items():
            if method == "vi" and swept == "chains":
                continue  # It has none.
            last: tuple[float, float] | None = None
            for d, n, chains in cases:
                found = measured(method, d, n, chains, seconds)
                if found is None:
                    yield f"| {method} | {swept} | {n} | {d} | {chains} | not within the time |"
                    break
                size = {"n": n, "d": found["d"], "chains": chains}[swept]
                slope = ""
                if last is not None:
                    slope = f"{math.log(found['step'] / last[1]) / math.log(size / last[0]):.2f}"
                last = (size, found["step"])
                yield (
                    f"| {method} | {swept} | {n} | {found['d']} | {chains} | "
                    f"{1e3 * found['step']:.3g} | {slope} | {found['MiB']:.0f} | "
                    f"{found['compile']:.1f} |"
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(*args.case)))
    else:
        for row in rows(args.method or list(METHODS), args.seconds):
            print(row, flush=True)
