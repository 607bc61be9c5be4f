"""How the winner of each problem does on every other one, from runs without tuning."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lambda_hat.intervals import error_of_mean
from lambda_hat.tables.confirmation import is_run_of
from lambda_hat.trial import ESTIMATED, finite
from lambda_hat.trial_gates import SIGMAS


@dataclass(frozen=True)
class Tuned:
    """The best settings of one study, whole."""

    method: str
    pid: str
    problem: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Transfer:
    """What settings that were tuned on one problem give on one problem.

    Attributes:
        num_runs: Number of runs, failed ones counted.
        num_failed: Number of runs without an estimate.
        error: Mean of (llc_hat - llc_ref) / |llc_ref| over the others; None if there are none, or
            if there is no reference.
        margin: Half width of its 95 % interval: Student's t over the runs, with the reference's
            own error.
    """

    num_runs: int
    num_failed: int
    error: float | None
    margin: float | None


@dataclass(frozen=True)
class Transfers:
    """A matrix: one row per winner, one column per problem that any of them ran on."""

    problems: tuple[str, ...]
    rows: tuple[tuple[Tuned, tuple[Transfer | None, ...]], ...]
    """None where a winner did not run."""


def transfers(winners: Iterable[Tuned], runs: Sequence[Mapping[str, Any]]) -> Transfers | None:
    """Finds the runs of each winner on each problem.

    Args:
        winners: The best settings of the studies.
        runs: Rows of `llc_runs.parquet`; those with the settings of a winner count.

    Returns:
        None unless a winner ran on another problem than its own.
    """
    found = [(winner, _by_problem(winner, runs)) for winner in _each_once(winners)]
    if not any(pid != winner.pid for winner, by_pid in found for pid in by_pid):
        return None
    alike = [run for _, by_pid in found for group in by_pid.values() for run in group]
    labels = {run["pid"]: str(run["problem"]) for run in alike}
    rows = tuple(
        (winner, tuple(_transfer(by_pid[pid]) if pid in by_pid else None for pid in labels))
        for winner, by_pid in found
    )
    return Transfers(tuple(labels.values()), rows)


def _each_once(winners: Iterable[Tuned]) -> list[Tuned]:
    """Settings that are the best on several problems, as joint ones are, with the names of all."""
    found: list[Tuned] = []
    for one in winners:
        same = [o for o in found if (o.method, o.settings) == (one.method, one.settings)]
        if same:
            named = f"{same[0].problem}, {one.problem}"
            found[found.index(same[0])] = replace(same[0], problem=named)
        else:
            found.append(one)
    return found


def _by_problem(winner: Tuned, runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for run in runs:
        if run["method"] == winner.method and is_run_of(winner.settings, run):
            found.setdefault(run["pid"], []).append(run)
    return found


def _transfer(runs: Sequence[Mapping[str, Any]]) -> Transfer:
    estimated = [run for run in runs if run["status"] in ESTIMATED]
    counts = len(runs), len(runs) - len(estimated)
    known = [run for run in estimated if run["llc_ref"] is not None]
    if not known:
        return Transfer(*counts, None, None)
    errors = [(run["llc_hat"] - run["llc_ref"]) / (abs(run["llc_ref"]) or 1.0) for run in known]
    of_ref = (finite(known[0]["se_ref"]) or 0.0) / (abs(known[0]["llc_ref"]) or 1.0)
    margin = SIGMAS * math.hypot(error_of_mean(errors), of_ref)
    return Transfer(*counts, statistics.fmean(errors), margin)
