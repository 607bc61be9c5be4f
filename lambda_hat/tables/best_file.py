"""The YAML of the best settings of every study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lambda_hat.store import write_bytes
from lambda_hat.tables.best import Setting, Winner, chosen_jointly, is_joint, shortlists, winner_of


def write_best(
    path: Path, rows: Iterable[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Writes the best hyperparameters of each problem and method as YAML, if that is news.

    Args:
        path: The file.
        rows: The trials.
        runs: Runs without tuning, some of which may confirm settings of the studies.
    """
    content: dict[str, Any] = {}
    lists = shortlists(rows)
    chosen = chosen_jointly(lists, runs)
    for (pid, method), shortlist in lists.items():
        if (winner := winner_of(shortlist, runs, chosen=chosen.get(method))) is None:
            continue
        row = winner.best.row
        names = ("problem", "llc_ref", "se_ref", "ref_status")
        entry = content.setdefault(pid, {**{name: row[name] for name in names}, "methods": {}})
        entry["methods"][method] = _told(winner) | _front(shortlist.front)
    text = "# The best hyperparameters of each problem and method, written by parsl-optuna.\n"
    text += yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    if not (path.exists() and path.read_bytes() == text.encode()):
        write_bytes(path, text.encode())


def read_best(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What the file says of each (pid, method); nothing where there is no file yet.

    Raises:
        yaml.YAMLError: It was damaged.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return {}
    return {
        (pid, method): told
        for pid, entry in content.items()
        for method, told in entry["methods"].items()
    }


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


def _told(winner: Winner) -> dict[str, Any]:
    row, confirmed = winner.best.row, winner.best.confirmation
    names = ("status", "llc_hat", "se_hat", "error", "objective", "runtime_sec", "budget_sec")
    known = {name: row[name] for name in (*names, "trial_number", "trial_id")}
    diagnostics = row.get("diagnostics") or {}
    cost = {
        "rhat": diagnostics.get("rhat"),
        "ess_bulk": diagnostics.get("ess_bulk"),
        "full_gradients": (row.get("work") or {}).get("full_gradients"),
    }
    told = {"hyperparams": dict(row["hyperparams"]), **known, **cost}
    told |= {"joint": True} if is_joint(row) else {}
    told |= {"confirmed": confirmed.to_json()} if confirmed else {}
    told |= {"untuned": winner.untuned.to_json()} if winner.untuned else {}
    if winner.gain:
        gain = {"gain": winner.gain.gain, "margin": winner.gain.margin}
        told |= {"tuned_is": winner.gain.verdict, **gain}
    if winner.cheapest is not None:
        told |= {"cheapest": _told_cheap(winner.cheapest)}
    return told


def _told_cheap(cheapest: Setting) -> dict[str, Any]:
    row, cost = cheapest.row, cheapest.cost
    return {
        "hyperparams": dict(row["hyperparams"]),
        "trial_number": row["trial_number"],
        "confirmed": cheapest.confirmation is not None,
        "full_gradients": cost.full_gradients,
        "seconds": cost.seconds,
        "compile_sec": cost.compile_sec,
    }
