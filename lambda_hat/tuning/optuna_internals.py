"""What is used of Optuna beyond its documentation, all in one place.

tests/test_internals.py asks Optuna for each of these names, and pyproject.toml bounds its version.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import CmaEsSampler, QMCSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.storages.journal._storage import JournalStorageReplayResult
from optuna.trial import FrozenTrial, Trial, TrialState

optuna.logging.set_verbosity(optuna.logging.WARNING)

ENTRY_KEYS = frozenset({"op_code", "worker_id"})
"""What each line of a journal has: a step of the storage, with its kind and its writer."""
LOCK_SUFFIX = ".lock"
"""Optuna's lock on a journal is a file of this name beside it."""


def open_trial(study: optuna.Study, frozen: FrozenTrial) -> Trial:
    """A trial that is not finished, to be asked on from where it was."""
    return Trial(study, frozen._trial_id)


def begin_enqueued(study: optuna.Study, waiting: FrozenTrial) -> None:
    """Has a trial that was enqueued run: this one, where Optuna's `ask` would take any."""
    study._storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING)


def add_unchecked(study: optuna.Study, trial: FrozenTrial) -> None:
    """Adds a finished trial; `add_trial` refuses what was enqueued out of its range."""
    study._storage.create_new_trial(study._study_id, template_trial=trial)


class ReplayedCmaEs(CmaEsSampler):
    """CMA-ES that tells its optimizer all trials again for each proposal.

    Optuna's own keeps a pickle of the optimizer in the journal: reading a journal would run
    whatever somebody has put there. A few hundred trials are told again within milliseconds.
    """

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> None:
        self._completed = completed_trials

    def _init_optimizer(self, trans: Any, direction: Any) -> Any:
        optimizer: Any = super()._init_optimizer(trans, direction)
        size = optimizer.population_size
        while len(told := self._solutions(optimizer.generation)) >= size:
            optimizer.tell([(trans.transform(t.params), t.value) for t in told[:size]])
        return optimizer

    def _solutions(self, generation: int) -> list[FrozenTrial]:
        return self._get_solution_trials(self._completed, generation)


class NumberedQMC(QMCSampler):
    """Takes the point of a trial's own number, where Optuna counts what it has given out.

    So a trial that is asked again after an interruption does not move those that follow.
    """

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        self._number = trial.number
        return super().sample_relative(study, trial, search_space)

    def _find_sample_id(
        self, study: optuna.Study, search_space: dict[str, BaseDistribution]
    ) -> int:
        return self._number


def plain_storage(journal: Path) -> JournalStorage:
    """A journal as Optuna alone opens it, its records and all."""
    lock = JournalFileOpenLock(str(journal))
    return JournalStorage(JournalFileBackend(str(journal), lock_obj=lock))


def is_entry(line: bytes) -> bool:
    """Whether a line of a journal is whole and one that Optuna wrote."""
    try:
        log = json.loads(line)
    except ValueError:
        return False
    return line.endswith(b"\n") and isinstance(log, dict) and log.keys() >= ENTRY_KEYS


class Replay:
    """Has Optuna read a journal line by line, to find the first that it would stumble over.

    A line can be whole JSON and damaged all the same, with one letter of a key changed.
    """

    def __init__(self) -> None:
        self._read = JournalStorageReplayResult("replay-")

    def takes(self, line: bytes) -> bool:
        """Whether the next line is one that Optuna wrote, and can be read after those before it."""
        if not is_entry(line):
            return False
        try:
            self._read.apply_logs([json.loads(line)])
        except Exception:  # Whatever a damaged line causes, in code that expects none.
            return False
        return True


class JournalFile(JournalFileBackend):
    """Optuna's journal file, synced when a trial has ended and not at each of its settings.

    Every line is with the system at once, so that a killed process loses none; a power cut may
    take a trial that was only asked for.

    Optuna holds in memory what it reads here, for good. Of one user attribute of each trial, its
    record, it is told only where in the file it begins, so that a study in memory does not grow by
    what its trials have left.

    Args:
        path: The file; made if missing.
        record: The name of that attribute.
    """

    def __init__(self, path: Path, *, record: str):
        self._path, self._one_writer = path, JournalFileOpenLock(str(path))
        self._record = record
        self._lines_read, self._bytes_read = 0, 0
        super().__init__(str(path), lock_obj=self._one_writer)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The lines from a number on; a last one that is still being written comes next time."""
        if log_number_from < self._lines_read:
            self._lines_read, self._bytes_read = 0, 0
        with self._path.open("rb") as file:
            file.seek(self._bytes_read)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                begin, log = self._bytes_read, json.loads(line)
                self._lines_read += 1
                self._bytes_read += len(line)
                if self._lines_read > log_number_from:
                    yield self._without_record(log, begin)

    def _without_record(self, log: dict[str, Any], begin: int) -> dict[str, Any]:
        is_record = "trial_id" in log and self._record in log.get("user_attr", ())
        return {**log, "user_attr": {self._record: begin}} if is_record else log

    def record_of(self, attributes: Mapping[str, Any]) -> str:
        """The record of a trial with these user attributes, read from the file."""
        with self._path.open("rb") as file:
            file.seek(attributes[self._record])
            return json.loads(file.readline())["user_attr"][self._record]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._one_writer.acquire()
        try:
            with self._path.open("ab") as file:
                file.write(lines.encode())
        finally:
            self._one_writer.release()

    def sync(self) -> None:
        """Waits until all lines would survive a power cut."""
        with self._path.open("rb") as file:
            os.fsync(file.fileno())
