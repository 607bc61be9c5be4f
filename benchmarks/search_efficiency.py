"""How fast a search finds good settings: random, TPE, Gaussian process, and the shipped default.

    NPROC=1 python benchmarks/search_efficiency.py FOLDER [--seeds 10] [--minutes 60]
    python benchmarks/search_efficiency.py FOLDER --table

tunes each method on each problem whose LLC is known exactly, with each search and seed, one trial
after the other. The best trial after 10, 25, 50 and 100 of them, as a study names it, runs again
with other seeds, and it is the error of those runs that counts. A line for each study goes to
FOLDER/studies.jsonl, so that a run goes on where it was stopped. The table has a row for each
search: the geometric mean of its errors over methods and problems, and how many times larger they
are than the default's with the same seeds, with a 95 % interval over seeds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from known_problems import RANGES, Bench, benches

from lambda_hat.conf.compose import compose_problem
from lambda_hat.entrypoints.parsl_optuna import FUNCTIONS
from lambda_hat.intervals import error_of_mean
from lambda_hat.store import Store
from lambda_hat.tables.confirmation import settings_of
from lambda_hat.trial import ProblemItem, TrialResult
from lambda_hat.tuning.search_samplers import (
    GPSettings,
    RandomSettings,
    SearchSampler,
    TPESettings,
)
from lambda_hat.tuning.settings import StudySettings
from lambda_hat.tuning.study import Study

AFTER = (10, 25, 50, 100)
"""Trials after which the best is looked at."""
FRESH = 8
"""Other seeds that it runs with."""
LEAST = 1e-3
"""Relative errors below are the runs' own noise."""
DEFAULT = "default"
SEARCHES: Mapping[str, Mapping[str, Any]] = {
    DEFAULT: {},
    "random": {"search": SearchSampler("random", RandomSettings()), "enqueue_defaults": False},
    "TPE as Optuna has it": {
        "search": SearchSampler("tpe", TPESettings(multivariate=False, constant_liar=False)),
        "enqueue_defaults": False,
    },
    "GP": {"search": SearchSampler("gp", GPSettings()), "enqueue_defaults": False},
}
"""By name: what differs from the default, which tries a method's defaults first."""


def tune(bench: Bench, search: str, seed: int) -> dict[int, float]:
    """Relative error of the best settings under other seeds, by number of trials."""
    results = bench.folder / "results"
    shutil.rmtree(results, ignore_errors=True)
    spec = dict(bench.problem)
    study = Study(
        ProblemItem(compose_problem(spec).pid, spec, str(spec["model"])),
        bench.method,
        StudySettings(AFTER[-1], 1, seed=seed, objective="rmse", **SEARCHES[search]),
        RANGES,
        Store.at(bench.folder / "artifacts", results),
        functions=FUNCTIONS,
        warn=print,
    )
    study.begin(bench.reference)
    off: dict[str, float] = {}
    found = {}
    for count in range(1, AFTER[-1] + 1):
        asked = study.ask()
        metrics = bench.run(asked.spec.hyperparams, asked.spec.seed)
        study.tell(asked, TrialResult.from_json(metrics))
        if count in AFTER:
            best = study.progress.best
            if best is None:
                found[count] = 1.0
                continue
            name = best["trial_id"]
            if name not in off:
                off[name] = bench.off(settings_of(best), FRESH, f"fresh {search} {seed} {name}")
            found[count] = off[name]
    shutil.rmtree(bench.folder / "artifacts" / "runs", ignore_errors=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=math.inf, help="no study begins later")
    parser.add_argument("--only", nargs="*", choices=SEARCHES, default=list(SEARCHES))
    parser.add_argument("--table", action="store_true", help="only print what there is")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    rows = args.folder / "studies.jsonl"
    if not args.table:
        run(args.folder, rows, args.seeds, args.only, time.monotonic() + 60 * args.minutes)
    print_table([json.loads(line) for line in rows.read_text().splitlines()])


def run(folder: Path, rows: Path, seeds: int, only: Sequence[str], end: float) -> None:
    """Runs the studies that `rows` does not have, seed by seed."""
    known = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    done = {(row["seed"], row["problem"], row["method"], row["search"]) for row in known}
    searches = [s for s in only if s != "GP" or importlib.util.find_spec("torch")]
    every = list(benches(folder))
    for seed in range(seeds):
        for name, bench in every:
            for search in searches:
                if (seed, name, bench.method, search) in done or time.monotonic() > end:
                    continue
                began = time.monotonic()
                errors = tune(bench, search, seed)
                row = {"seed": seed, "problem": name, "method": bench.method, "search": search}
                row |= {"errors": errors, "seconds": time.monotonic() - began}
                with rows.open("a") as file:
                    print(json.dumps(row), file=file)
                print(row, flush=True)


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Of the seeds that a search and the default have for every method and problem."""
    logs: dict[tuple[int, str], dict[tuple[str, str], list[float]]] = {}
    for row in rows:
        errors = [math.log(max(row["errors"][str(count)], LEAST)) for count in AFTER]
        place = logs.setdefault((row["seed"], row["search"]), {})
        place[row["problem"], row["method"]] = errors
    pairs = sorted({pair for place in logs.values() for pair in place})
    means = {
        place: np.mean([found[pair] for pair in pairs], axis=0)
        for place, found in logs.items()
        if len(found) == len(pairs)
    }
    print(f"{len(pairs)} pairs of method and problem\n")
    print(f"| search | seeds | {' | '.join(f'{count} trials' for count in AFTER)} |")
    print(f"| --- | --- {'| --- ' * len(AFTER)}|")
    for search in SEARCHES:
        seeds = [s for s, name in means if name == search and (s, DEFAULT) in means]
        if seeds:
            own = np.array([means[seed, search] for seed in seeds])
            base = np.array([means[seed, DEFAULT] for seed in seeds])
            cells = [_cell(own[:, k], base[:, k], search) for k in range(len(AFTER))]
            print(f"| {search} | {len(seeds)} | {' | '.join(cells)} |")


def _cell(own: np.ndarray, base: np.ndarray, search: str) -> str:
    """A search's error, and its ratio to the default's with a 95 % interval; logs by seed."""
    cell = f"{100 * math.exp(own.mean()):.1f} %"
    if search == DEFAULT:
        return cell
    middle, half = (own - base).mean(), 1.96 * error_of_mean(own - base)
    ends = [math.exp(middle + sign * half) for sign in (0, -1, 1)]
    return cell + " (x {:.2f}, {:.2f} to {:.2f})".format(*ends)


if __name__ == "__main__":
    main()
