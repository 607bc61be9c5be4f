"""Cheap trials on problems whose LLC is known exactly: what the benchmarks of searches run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lambda_hat.conf.compose import compose_problem
from lambda_hat.conf.search_space import read_ranges, read_search_space
from lambda_hat.intervals import error_of_mean
from lambda_hat.problems import load_or_build
from lambda_hat.problems.families import llc_exact
from lambda_hat.runners import trial_run
from lambda_hat.runners.run_method import run_method_trial
from lambda_hat.trial import ESTIMATED, Reference, derive_seed

PROBLEMS: dict[str, dict[str, Any]] = {
    "quadratic": {"model": "quadratic", "overrides": {"data": {"n": 1000}}},
    "linear regression": {"model": "linear", "overrides": {"data": {"n": 1000}}},
    "w1² w2²": {"model": "normal_crossing", "overrides": {"data": {"n": 1000}}},
    "deep linear 3-3-1, rank 0": {"model": "deep_linear", "overrides": {"data": {"n": 1000}}},
}
GIVEN = {
    "sgld": {"steps": {"low": 2000, "high": 20_000}, "batch": {"choices": [64]}},
    "mclmc": {"steps": {"low": 200, "high": 1000}},
    "vi": {"steps": {"low": 500, "high": 3000}, "M": {"choices": [2]}, "r": {"choices": [1]}}
    | {"batch_size": {"choices": [64]}, "correction": {"choices": ["none"]}},
}
"""Ranges that make runs short, with one program for each method. VI is not corrected, which would
take ten times as long."""
RANGES = read_ranges(GIVEN)
SPACE = read_search_space(GIVEN)


@dataclass(frozen=True)
class Bench:
    """One method on one problem whose LLC is known."""

    problem: Mapping[str, Any]
    method: str
    truth: float
    reference: Reference
    """The truth, as a study is given it."""
    folder: Path

    def run(self, settings: Mapping[str, Any], *seed: object) -> dict[str, Any]:
        """One trial's metrics."""
        number = derive_seed(self.method, *seed)
        out = self.folder / "metrics.json"
        cfg = {"name": self.method, **settings}
        folder = str(self.folder / "artifacts")
        return run_method_trial(
            self.problem, cfg, self.truth, str(out), seed=number, artifacts_dir=folder
        )

    def relative(self, metrics: Mapping[str, Any]) -> float:
        """Error of a run relative to the truth; that of answering 0 without an estimate."""
        if metrics["status"] not in ESTIMATED:
            return -1.0
        return metrics["llc_hat"] / self.truth - 1.0

    def off(self, settings: Mapping[str, Any], seeds: int, name: str) -> float:
        """Root mean square error of runs with other seeds, relative to the truth."""
        errors = [self.relative(self.run(settings, name, number)) for number in range(seeds)]
        return math.sqrt(float(np.mean(np.square(errors))))


def benches(folder: Path) -> Iterator[tuple[str, Bench]]:
    """Each method on each problem, by the problem's name; no trial keeps its draws."""
    trial_run.write_trace = lambda *args: None  # Most of such a trial's time, and nothing reads it.
    for name, spec in PROBLEMS.items():
        problem = load_or_build(compose_problem(spec), folder / "artifacts")
        truth = llc_exact(problem)
        assert truth is not None, name
        reference = Reference(truth, 0.0, "ok", target=problem.target_id)
        for method in SPACE:
            yield name, Bench(spec, method, truth, reference, folder)


def interval(values: Sequence[float]) -> str:
    """Mean and half of its 95 % interval (Student's t), in percent."""
    return f"{100 * np.mean(values):.1f} ± {100 * 1.96 * error_of_mean(values):.1f}"
