"""How a run stands, read from its files alone: while it goes on, after its end, or after a kill."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from lambda_hat.store import BrokenFile, Store, read_json, write_json
from lambda_hat.tables.best import best_of
from lambda_hat.tables.best_file import read_best
from lambda_hat.trial import REFERENCE_KEYS, Reference
from lambda_hat.tuning.optuna_internals import plain_storage

RUNNING = "running"
_BY_STATE = {TrialState.RUNNING: RUNNING, TrialState.FAIL: "failed", TrialState.PRUNED: "pruned"}


@dataclass(frozen=True)
class Planned:
    """What a command set out to do: the content of run.json."""

    problems: Mapping[str, str]
    """Labels, by pid."""
    methods: Sequence[str]
    max_trials: int
    artifacts: str
    """The artifacts folder."""

    @classmethod
    def read(cls, store: Store) -> Planned | None:
        """That of the last command with this results folder, if it can be read."""
        if not (content := read_if_whole(store.planned)):
            return None
        names = ("problems", "methods", "max_trials", "artifacts")
        return cls(**{name: content[name] for name in names})

    def write(self, store: Store) -> None:
        """Writes it, unless it stands there already."""
        if self != Planned.read(store):
            write_json(store.planned, vars(self))


@dataclass(frozen=True)
class StudyStanding:
    """How one study stands."""

    pid: str
    method: str
    label: str
    counts: Counter[str]
    """Trials by status; `running` are those that were asked and have not ended."""
    best: Mapping[str, Any] | None
    """What is known of the best trial so far."""
    changed: float | None
    """When its journal was written last, in seconds since 1970; None if there is none."""
    max_trials: int | None
    """What the last command set out to do; None where it had no such study."""
    confirmed: Mapping[str, Any] | None = None
    """What the best settings gave with other seeds, once they have been run; see `Confirmation`."""

    @property
    def num_ended(self) -> int:
        return sum(self.counts.values()) - self.counts.get(RUNNING, 0)


@dataclass(frozen=True)
class ReferenceStanding:
    """How the reference of one problem stands."""

    stored: Reference | None
    """What ref.json holds."""
    partial: Mapping[str, Any]
    """What ref.json.partial says of the engine that runs, or ran when it was killed."""


def reference_of(store: Store, pid: str) -> ReferenceStanding:
    """How the reference of a problem stands."""
    stored = read_if_whole(store.reference(pid), REFERENCE_KEYS)
    partial = read_if_whole(store.partial_reference(pid))
    return ReferenceStanding(Reference.from_json(stored) if stored else None, partial)


def studies_of(store: Store, planned: Planned | None) -> list[StudyStanding]:
    """All studies that are planned, in their order, and then those of earlier commands."""
    confirmed = _confirmed(store)
    found = {
        (one.pid, one.method): replace(one, confirmed=confirmed.get((one.pid, one.method)))
        for one in map(_standing, store.journals())
        if one
    }
    if planned is None:
        return list(found.values())
    standings = []
    for pid, label in planned.problems.items():
        for method in planned.methods:
            known = found.pop((pid, method), None) or StudyStanding(
                pid, method, label, Counter(), None, None, None
            )
            standings.append(replace(known, label=label, max_trials=planned.max_trials))
    return [*standings, *found.values()]


def _confirmed(store: Store) -> dict[tuple[str, str], Mapping[str, Any]]:
    """What fresh runs of each study's best settings came to, by pid and method."""
    try:
        best = read_best(store.best)
    except yaml.YAMLError:
        return {}  # The next run writes it again.
    found = {study: told.get("confirmed") for study, told in best.items()}
    return {study: runs for study, runs in found.items() if runs and runs["llc_hat"] is not None}


def read_if_whole(path: Path, required: Sequence[str] = ()) -> dict[str, Any]:
    """A JSON file's mapping; an empty one where it is missing or damaged."""
    try:
        return read_json(path, required)
    except (FileNotFoundError, BrokenFile):
        return {}


def _standing(journal: Path) -> StudyStanding | None:
    """None where there is nothing that can be read yet."""
    try:
        storage = plain_storage(journal)
        name = optuna.get_all_study_names(storage)[0]
        trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    except (ValueError, LookupError):
        return None  # It is about to be begun, or is damaged: the next run mends it.
    pid, _, method = name.partition(":")
    rows = [_row(trial) for trial in trials if trial.state != TrialState.WAITING]
    labels = [row["problem"] for row in rows if row["problem"]]
    return StudyStanding(
        pid=pid,
        method=method,
        label=labels[0] if labels else pid,
        counts=Counter(row["status"] for row in rows),
        best=best_of(rows),
        changed=journal.stat().st_mtime,
        max_trials=None,
    )


def _row(trial: FrozenTrial) -> dict[str, Any]:
    """What Optuna itself is shown of a trial, as a row of the table has it."""
    known = ("llc_hat", "se_hat", "error", "problem", "joint_trial")
    status = trial.user_attrs.get("status", "complete")
    return {
        **{name: trial.user_attrs.get(name) for name in known},
        "hyperparams": trial.params,
        "llc_ref": None,
        "status": _BY_STATE.get(trial.state, status),
        "objective": trial.values[0] if trial.values else None,
        "trial_number": trial.number,
    }
