"""What a trial costs beside its steps: compiling, setting up, estimating.

    python benchmarks/trial_overhead.py [--trials 20]

Runs trials of each method's default search space on the demo's problem, each method in a process of
its own that begins with an empty compilation cache, and prints a table: wall time less warm-up and
sampling of the trials after the first, and the share of all seconds that compiling took.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import optuna

from lambda_hat.conf.search_space import SEARCH_SPACE, draw_params
from lambda_hat.runners.run_method import run_method_trial

DEMO = {"model": "small", "data": "small", "teacher": "_null", "seed": 0}
BUDGET = 30.0
"""Seconds for each trial, as in the demo."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.method:
        print(json.dumps(run(args.method, args.trials, args.folder)))
        return
    print("| method | first | median of the others | 95th percentile | compiling |")
    print("| --- | --- | --- | --- | --- |")
    compiling = total = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for method in SEARCH_SPACE:
            rows = in_own_process(method, args.trials, Path(folder))
            over = [row["runtime"] - row["steps"] for row in rows]
            spent = sum(row["compile"] for row in rows), sum(row["runtime"] for row in rows)
            compiling, total = compiling + spent[0], total + spent[1]
            print(
                f"| {method} | {over[0]:.2f} s | {np.median(over[1:]):.3f} s "
                f"| {np.quantile(over[1:], 0.95):.2f} s | {spent[0] / spent[1]:.0%} |",
                flush=True,
            )
    print(f"| all | | | | {compiling / total:.0%} |")


def in_own_process(method: str, trials: int, folder: Path) -> list[dict[str, float]]:
    """The trials of one method, by a worker on one core that has compiled nothing yet."""
    settings = {"NPROC": "1", "JAX_COMPILATION_CACHE_DIR": str(folder / f"cache_{method}")}
    command = [sys.executable, __file__, "--trials", str(trials), "--method", method]
    done = subprocess.run(
        [*command, "--folder", str(folder)],
        env={**os.environ, **settings},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def run(method: str, trials: int, folder: Path) -> list[dict[str, float]]:
    """Seconds of each trial: all of it, its steps, its compiling."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    out = folder / "metrics.json"
    # The target is trained and read once: that is the reference's time, not a trial's.
    prepare = {"name": "hmc", "steps": 50, "num_warmup": 20, "num_integration_steps": 1}
    run_method_trial(DEMO, prepare, None, str(out), artifacts_dir=str(folder))
    rows = []
    for _ in range(trials):
        params = draw_params(study.ask(), method)
        found = run_method_trial(
            DEMO, {"name": method, **params}, None, str(out), BUDGET, 0, str(folder)
        )
        spent = found["seconds"]
        steps = spent.get("warmup", 0.0) + spent.get("sample", 0.0)
        rows.append(
            {"runtime": found["runtime_sec"], "steps": steps, "compile": spent.get("compile", 0.0)}
        )
    return rows


if __name__ == "__main__":
    main()
