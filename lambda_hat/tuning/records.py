"""What is kept of a study's ended trials: Optuna's attributes, table rows, metrics.json, draws."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from lambda_hat.store import Store, read_or_quarantine, write_json
from lambda_hat.tables.trials import trial_row
from lambda_hat.trial import (
    COMPLETE,
    PRUNED,
    RESULT_KEYS,
    ProblemItem,
    Reference,
    TrialResult,
    TrialSpec,
)
from lambda_hat.tuning.journal import Journal
from lambda_hat.tuning.objective import ERROR
from lambda_hat.tuning.settings import StudySettings

_STATUS = {
    TrialState.COMPLETE: COMPLETE,
    TrialState.PRUNED: PRUNED,
    TrialState.FAIL: "failed",
}
"""Of a trial that a user has ended, in the table."""
_SHOWN = ("status", "llc_hat", "se_hat", "error", "error_msg", "problem", "joint_trial")
"""Columns of the table that are user attributes of Optuna's trial as well."""


class Ended(NamedTuple):
    """A trial that has ended."""

    number: int
    spec: TrialSpec
    result: TrialResult
    """With the objective that Optuna was told; None where it was told a failure."""


class Kept(NamedTuple):
    """What the journal keeps of a trial that has ended."""

    record: dict[str, Any]
    """Its metrics.json, and the settings that were asked for."""
    attributes: dict[str, Any]
    """What tells a failed trial from a bad estimate where only Optuna is asked."""


@dataclass(frozen=True)
class Records:
    """The ended trials of one study, which its journal holds."""

    problem: ProblemItem
    method: str
    settings: StudySettings
    store: Store
    journal: Journal
    spec: Callable[[int, Mapping[str, Any]], TrialSpec]
    """Of a trial's number and hyperparameters."""
    reference: Reference
    warn: Callable[[str], None]
    """Told what was found damaged."""

    def ended(self) -> Iterator[Ended]:
        """Every trial that has ended, by number; each is made when it is its turn."""
        for trial, record in self.journal.ended():
            hyperparams = trial.params if record is None else record["hyperparams"]
            result = TrialResult.from_json(record["metrics"]) if record else _by_hand(trial)
            values = dict(zip(self.settings.objectives, trial.values or (), strict=False))
            told = replace(result, objective=values.get(ERROR), objectives=values)
            yield Ended(trial.number, self.spec(trial.number, hyperparams), told)

    def row(self, ended: Ended, front: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """The table's row; `front` holds those of the Pareto front."""
        pareto = any(row["trial_number"] == ended.number for row in front)
        return trial_row(
            ended.spec,
            ended.result,
            number=ended.number,
            label=self.problem.label,
            objective=ended.result.objective,
            reference=self.reference,
            pareto=None if len(self.settings.objectives) == 1 else pareto,
            max_seconds=self.settings.max_seconds,
            joint=bool(self.settings.joint),
        )

    def to_keep(self, ended: Ended) -> Kept:
        """What the journal is to keep of a trial."""
        row = self.row(ended)
        record = {"hyperparams": dict(ended.spec.hyperparams), "metrics": ended.result.to_json()}
        gradients = row["work"].get("full_gradients")
        return Kept(record, {**{name: row[name] for name in _SHOWN}, "full_gradients": gradients})

    def restore_metrics(self, ended: Ended) -> None:
        """Writes a trial's metrics.json anew if it is damaged, or was told but does not say so.

        An objective that it has stays: a study of another results folder may have told it last.
        """
        path, known = self._metrics(ended.spec), ended.result
        if not path.exists():
            return
        content = read_or_quarantine(path, RESULT_KEYS, self.warn)
        if content is None:
            write_json(path, known.to_json())
        elif content.get("objective") is None and known.objective is not None:
            stored = TrialResult.from_json(content)
            if stored.is_of(known.target):
                told = {"objective": known.objective, "objectives": known.objectives}
                self.write_metrics(ended.spec, replace(stored, **told))

    def write_metrics(self, spec: TrialSpec, result: TrialResult) -> None:
        """Puts the objective into metrics.json, where it need not survive a power cut.

        The journal has been synced with the same content, and a damaged file is written anew
        from there.
        """
        write_json(self._metrics(spec), result.to_json(), sync=False)

    def remove_traces(self, trial_ids: Iterable[str]) -> None:
        """Removes trials' draws: those of all would fill the disk."""
        for trial_id in trial_ids:
            self.store.trace(self.problem.pid, self.method, trial_id).unlink(missing_ok=True)

    def _metrics(self, spec: TrialSpec) -> Path:
        return self.store.metrics(spec.pid, self.method, spec.trial_id)


def _by_hand(trial: FrozenTrial) -> TrialResult:
    """What is known of a trial that a user has told, pruned or added: what Optuna was told."""
    took = trial.duration.total_seconds() if trial.duration else None
    return TrialResult(
        status=_STATUS[trial.state],
        hyperparams=trial.params,
        runtime_sec=took,
        error_msg="It was ended by hand: nothing is known of it but what Optuna was told.",
    )
