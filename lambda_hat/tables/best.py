"""Which trial of a study is the best, and the YAML of the best settings of every study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from lambda_hat.store import write_bytes
from lambda_hat.tables.confirmation import confirm
from lambda_hat.trial import ESTIMATED, NOISY, finite

Study = tuple[str, str]
"""(pid, method)."""
Row = Any
"""A row of the table of trials: a mapping, or a row of a pandas DataFrame."""


def is_better(row: Row, best: Row | None) -> bool:
    """Whether a trial takes the place of the best one so far: the one decision of what is best.

    A trial can be the best if it gave an estimate, in no more than the seconds that it may take;
    a noisy one only as long as none is complete.
    The smallest objective wins, and the first of several that are equal.
    """
    objective = finite(row["objective"])
    if row["status"] not in ESTIMATED or finite(row["error"]) is None or objective is None:
        return False
    if row.get("within_max_seconds") in (False,):  # It may be NumPy's.
        return False
    return best is None or _rank(row) < _rank(best)


def _rank(row: Row) -> tuple[bool, float]:
    return row["status"] == NOISY, row["objective"]


def best_of(rows: Iterable[Row]) -> Row | None:
    """The best of the trials of one study; None if none of them can be."""
    best = None
    for row in rows:
        best = row if is_better(row, best) else best
    return best


def best_rows(rows: Iterable[Row]) -> tuple[dict[Study, Row], dict[Study, list[Row]]]:
    """The best trial of each study, and its Pareto front where it has several objectives."""
    best: dict[Study, Row] = {}
    fronts: dict[Study, list[Row]] = {}
    for row in rows:
        study = (row["pid"], row["method"])
        if is_better(row, best.get(study)):
            best[study] = row
        if row.get("pareto"):
            fronts.setdefault(study, []).append(row)
    return best, fronts


def write_best(
    path: Path, rows: Iterable[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Writes the best hyperparameters of each problem and method as YAML, if that is news.

    Args:
        path: The file.
        rows: The trials.
        runs: Runs without tuning, some of which may confirm a best trial.
    """
    content: dict[str, Any] = {}
    best, fronts = best_rows(rows)
    for (pid, method), row in best.items():
        names = ("problem", "llc_ref", "se_ref", "ref_status")
        entry = content.setdefault(pid, {**{name: row[name] for name in names}, "methods": {}})
        entry["methods"][method] = _best(row, runs) | _front(fronts.get((pid, method), []))
    text = "# The best hyperparameters of each problem and method, written by parsl-optuna.\n"
    text += yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    if not (path.exists() and path.read_bytes() == text.encode()):
        write_bytes(path, text.encode())


def _front(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The Pareto front, from the smallest error to the smallest cost; nothing for one objective."""
    if not rows:
        return {}
    ranked = sorted(rows, key=lambda row: row["objective"])
    names = ("llc_hat", "se_hat", "error", "runtime_sec", "trial_number", "trial_id")
    points = []
    for row in ranked:
        # A table has a column for what other studies minimise, too.
        told = {name: value for name, value in row["objectives"].items() if value is not None}
        settings = {"objectives": told, "hyperparams": dict(row["hyperparams"])}
        points.append(settings | {name: row[name] for name in names})
    return {"pareto": points}


def _best(row: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = ("status", "llc_hat", "se_hat", "error", "objective", "runtime_sec")
    known = {name: row[name] for name in (*names, "trial_number", "trial_id")}
    diagnostics, work = row.get("diagnostics") or {}, row.get("work") or {}
    cost = {
        "rhat": diagnostics.get("rhat"),
        "ess_bulk": diagnostics.get("ess_bulk"),
        "full_gradients": work.get("full_gradients"),
    }
    best = {"hyperparams": dict(row["hyperparams"]), **known, **cost}
    confirmation = confirm(row, runs)
    return best | ({"confirmed": asdict(confirmation)} if confirmation else {})
