"""One study's trials on disk: its Optuna storage, the source of truth for resuming.

A journal has one writer, which holds the results folder. What a killed writer left half done
is made whole on opening: a damaged tail is cut off and kept beside, a stale lock is removed.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FixedTrial, FrozenTrial, Trial, TrialState, create_trial

from lambda_hat.conf.checks import ConfigError
from lambda_hat.store import replacing, write_bytes
from lambda_hat.tuning.optuna_internals import (
    LOCK_SUFFIX,
    JournalFile,
    Replay,
    add_unchecked,
    begin_enqueued,
    open_trial,
)
from lambda_hat.tuning.pruners import NONE, build_pruner
from lambda_hat.tuning.search_samplers import Proposers

_FINGERPRINT = "fingerprint"
_RECORD = "record"
_GUESS = "guess"


class Journal:
    """The trials of one study, on disk.

    Args:
        path: The journal file; made if missing.
        name: The study's name.
        warn: Told what was damaged and what was done about it.
        proposers: Make what is asked for.
        num_objectives: Values that a trial is told, each to be small.
        pruner: What stops trials early.

    Raises:
        ConfigError: A user made the journal, under another name or with other directions.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        *,
        warn: Callable[[str], None],
        proposers: Proposers | None = None,
        num_objectives: int = 1,
        pruner: str = NONE,
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_damaged_tail(path, warn)
        Path(f"{path}{LOCK_SUFFIX}").unlink(
            missing_ok=True
        )  # Its holder is dead: we hold the folder.
        self._file = JournalFile(path, record=_RECORD)
        self.name = name
        storage = JournalStorage(self._file)
        directions = [StudyDirection.MINIMIZE] * num_objectives
        # Creating a study that exists would still write, and a run with nothing to do must not.
        if there := [study.study_name for study in storage.get_all_studies()]:
            _check_name(path, name, there)
            self._study = optuna.load_study(storage=storage, study_name=name)
            if self.fingerprint is None:
                _check_directions(path, self._study.directions, directions)
        else:
            self._study = optuna.create_study(
                storage=storage, study_name=name, directions=directions
            )
        self._proposers = proposers or Proposers()
        self._study.pruner = build_pruner(pruner)

    @property
    def fingerprint(self) -> dict[str, Any] | None:
        """What the study's scores depend on, as it was when the study began."""
        return self._study.user_attrs.get(_FINGERPRINT)

    def stamp(self, fingerprint: dict[str, Any]) -> None:
        self._study.set_user_attr(_FINGERPRINT, fingerprint)
        self._file.sync()

    def trials(self) -> list[FrozenTrial]:
        """All trials, by number; they belong to Optuna and are not to be changed."""
        return self._study.get_trials(deepcopy=False)

    def ended(self) -> Iterator[tuple[FrozenTrial, dict[str, Any] | None]]:
        """The trials that have ended, by number, each with the record it was told with.

        Records are read from the file one by one. Trials that another program ended, such as the
        dashboard or a user's script, have none and are no runs of ours.
        """
        for trial in self.trials():
            if trial.state.is_finished():
                ours = _RECORD in trial.user_attrs
                yield trial, json.loads(self._record(trial)) if ours else None

    def _record(self, trial: FrozenTrial) -> str:
        return self._file.record_of(trial.user_attrs)

    def ask(self, seed: int) -> Trial:
        """Begins a new trial; `seed` decides the proposal, given the trials told so far."""
        self._reseed(seed)
        return self._study.ask()

    def enqueue(self, params: Mapping[str, Any], *, name: str) -> None:
        """Has a trial with these parameters asked next, once for each name."""
        self._study.enqueue_trial(dict(params), user_attrs={_GUESS: name})

    def enqueued(self) -> set[str]:
        """The names of what was ever enqueued by `enqueue`."""
        return {trial.user_attrs[_GUESS] for trial in self.trials() if _GUESS in trial.user_attrs}

    def claim(self, waiting: FrozenTrial, seed: int) -> Trial:
        """Begins a trial that was enqueued."""
        begin_enqueued(self._study, waiting)
        return self.reopen(waiting, seed)

    def restore(self, fixed: FixedTrial, seed: int, *, name: str | None = None) -> Trial:
        """Begins a new trial that has the parameters of `fixed`, in place of a proposal.

        With a name it counts as what was enqueued under it.
        """
        running = create_trial(
            state=TrialState.RUNNING,
            params=fixed.params,
            distributions=fixed.distributions,
            user_attrs={} if name is None else {_GUESS: name},
        )
        self._study.add_trial(running)
        return self.reopen(self.trials()[-1], seed)

    def reopen(self, frozen: FrozenTrial, seed: int) -> Trial:
        """A trial that a killed run left behind, to be asked on from where it was.

        Parameters it already has stay, and missing ones are drawn: no trial number goes unused.
        """
        self._reseed(seed)
        return open_trial(self._study, frozen)

    def tell(
        self,
        trial: Trial,
        values: Sequence[float],
        record: dict[str, Any],
        shown: Mapping[str, Any],
    ) -> None:
        """Ends a trial with its score, and keeps its record.

        Args:
            trial: The trial.
            values: Its score, and its costs where the study has several objectives.
            record: What it is known by later.
            shown: What Optuna's own tools show of it, each an attribute; None is left out.
        """
        self._keep(trial, record, shown)
        self._study.tell(trial, values)
        self._file.sync()

    def report(self, trial: Trial, error: float, step: int) -> bool:
        """Keeps how a trial stands at a step, once; returns whether this is news."""
        if step in self._frozen(trial).intermediate_values:
            return False
        trial.report(error, step)
        return True

    def is_done_with(self, trial: Trial) -> bool:
        """Whether the pruner stops the trial for what it has reported last."""
        return trial.should_prune()

    def prune(self, trial: Trial, record: dict[str, Any], shown: Mapping[str, Any]) -> None:
        """Ends a trial that was stopped; Optuna scores it by its last report."""
        self._keep(trial, record, shown)
        self._study.tell(trial, state=TrialState.PRUNED)
        self._file.sync()

    def last_report(self, trial: Trial) -> float | None:
        """What the trial has reported last."""
        frozen = self._frozen(trial)
        last = frozen.last_step
        return None if last is None else frozen.intermediate_values[last]

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self.trials()[trial.number]

    def lose(self, trial: Trial, record: dict[str, Any], shown: Mapping[str, Any]) -> None:
        """Ends a trial that nobody could run: the sampler shall learn nothing from it."""
        self._keep(trial, record, shown)
        self._study.tell(trial, state=TrialState.FAIL)
        self._file.sync()

    def _keep(self, trial: Trial, record: dict[str, Any], shown: Mapping[str, Any]) -> None:
        for name, value in shown.items():
            if value is not None:
                trial.set_user_attr(name, value)
        # As text: Optuna copies attributes deeply at each tell.
        trial.set_user_attr(_RECORD, json.dumps(record, separators=(",", ":")))

    def snapshot(self, path: Path) -> None:
        """Pickles the study with its finished trials, free of this storage, for users."""
        study = optuna.create_study(study_name=self.name, directions=self._study.directions)
        for trial in self.trials():
            if trial.state.is_finished():
                add_unchecked(study, self._whole(trial))
        for key, value in self._study.user_attrs.items():
            study.set_user_attr(key, value)
        write_bytes(path, pickle.dumps(study))

    def _whole(self, trial: FrozenTrial) -> FrozenTrial:
        """The trial with its record itself."""
        if _RECORD not in trial.user_attrs:
            return trial
        whole = copy(trial)
        whole.user_attrs = {**trial.user_attrs, _RECORD: self._record(trial)}
        return whole

    def _reseed(self, seed: int) -> None:
        self._study.sampler = self._proposers.of(seed)


def _check_name(path: Path, name: str, there: Sequence[str]) -> None:
    if name not in there:
        raise ConfigError(
            [
                f"{path} must hold a study named {name!r}, but holds {', '.join(map(repr, there))}."
                " Move the file away, or make the study under that name."
            ]
        )


def _check_directions(
    path: Path, there: Sequence[StudyDirection], wanted: Sequence[StudyDirection]
) -> None:
    if list(there) != list(wanted):
        asked = ", ".join(one.name.lower() for one in wanted)
        found = ", ".join(one.name.lower() for one in there)
        raise ConfigError(
            [
                f"The study in {path} must have the directions {asked} (one for each objective), "
                f"but has {found}. Move the file away, or make the study with these directions."
            ]
        )


def _cut_damaged_tail(path: Path, warn: Callable[[str], None]) -> None:
    """Keeps the whole lines before the first damaged one; the rest goes to a file beside."""
    if not path.exists():
        return
    good, replay = 0, Replay()
    with path.open("rb") as lines:
        for line in lines:
            if not replay.takes(line):
                break
            good += len(line)
    if good == path.stat().st_size:
        return
    content = path.read_bytes()
    count = sum(1 for _ in path.parent.glob(f"{path.name}.broken-*"))
    kept = path.with_name(f"{path.name}.broken-{count + 1}")
    write_bytes(kept, content[good:])
    with replacing(path) as temporary:
        temporary.write_bytes(content[:good])
    warn(
        f"{path} has a damaged end ({len(content) - good} bytes, kept as {kept.name}). "
        "The trials before it stand, and those it held are taken up from their own files."
    )
