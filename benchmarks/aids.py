"""What a surrogate and a metric of narrow directions do for HMC on large problems.

    python benchmarks/aids.py FOLDER [--seconds 30] [--problems small/base medium/base]

Four chains on each problem, warmed up by 300 transitions and drawing for so many seconds: as they
were, with the surrogate that a reference has, with narrow directions, and with both. Effective
draws are of the loss; a gradient is over all data.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax

from lambda_hat.conf import compose_problem
from lambda_hat.conf.samplers import HMCConfig, ReferenceConfig
from lambda_hat.diagnostics import ess
from lambda_hat.problems import Problem, load_or_build
from lambda_hat.references.aids import aided, metric_rank, surrogate_rows
from lambda_hat.samplers import hmc
from lambda_hat.samplers.loop import Runner

WARMUP = 300
COLUMNS = ("problem", "d", "HMC", "LLC", "step", "ESS/s", "ESS/1000 gradients", "ESS/s, ratio")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--problems", nargs="*", default=["small/base", "medium/base"])
    args = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for name in args.problems:
        model, data = name.split("/")
        config = compose_problem({"model": model, "data": data, "seed": 42})
        rows_of(name, load_or_build(config, args.folder), args.seconds)


def rows_of(name: str, problem: Problem, seconds: float) -> None:
    """Prints a row for each way that the problem can have."""
    with jax.enable_x64(True):
        plain = problem.target(hmc.DTYPE)
        up_to = ReferenceConfig().dense_metric_max_dim
        rows = {"surrogate_rows": surrogate_rows(plain, up_to)}
        rank = {"metric_rank": metric_rank(plain, up_to)}
        ways: dict[str, dict[str, int]] = {"plain": {}, f"{rows['surrogate_rows']} rows": rows}
        if rank["metric_rank"]:
            directions = f"{rank['metric_rank']} directions"
            ways |= {directions: rank, f"{rows['surrogate_rows']} rows, {directions}": rows | rank}
        base = None
        for way, tuning in ways.items():
            cells, rate = measured(problem, tuning, seconds)
            base = base or rate
            print(f"| {name} | {plain.d} | {way} | {cells} | {rate / base:.1f} |", flush=True)


def measured(problem: Problem, tuning: dict[str, Any], seconds: float) -> tuple[str, float]:
    """Cells of the table, and effective draws a second."""
    target, _ = aided(problem, hmc.DTYPE, tuning)
    config = HMCConfig(num_warmup=WARMUP, steps=10**6)
    runner = Runner(hmc, target, config, key=jax.random.key(1))
    runner.run(num_draws=0)
    progress = runner.progress
    while progress.seconds["sample"] < seconds:
        runner.run(num_draws=progress.num_draws + 20)
    draws = runner.draws()
    excess = target.nbeta * (draws.loss - target.init_loss)
    effective = ess(excess, "bulk")
    rate, per_gradient = effective / progress.seconds["sample"], effective / draws.work.sum()
    error = float(excess.std()) / effective**0.5
    step = runner.summary()["step_size"]
    cells = (
        f"{excess.mean():.2f} ± {error:.2f} | {step:.3f} | {rate:.3g} | {1e3 * per_gradient:.3g}"
    )
    return cells, rate


if __name__ == "__main__":
    main()
