"""Writes the results of all studies: the table, the best of each, and the pickled studies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from lambda_hat.store import Store
from lambda_hat.tables.best_file import write_best
from lambda_hat.tables.reading import readable_rows
from lambda_hat.tables.trials import same_rows, write_table
from lambda_hat.trial import ProblemItem
from lambda_hat.tuning.progress import StudyProgress

_Key = tuple[str, str]
"""A study: the problem's pid and the method."""


class TrialStudy(Protocol):
    """The part of a study that its results need."""

    problem: ProblemItem
    method: str
    progress: StudyProgress

    def rows(self) -> Iterable[Mapping[str, Any]]: ...
    def snapshot(self) -> None: ...


class Results(Iterable[Mapping[str, Any]]):
    """The results of a run on disk: the table, the best, and the snapshots of its studies.

    Rows of studies that an earlier run left in the table and that are not of this run stay.
    Iterating gives all rows: by study and by trial number. The studies are in the given order,
    whichever reference was ready first: the same rows are the same table. None is held in memory:
    each is read from where it is when it is its turn.

    Args:
        store: Where the files are.
        warn: Told when an earlier table is damaged.
        order: (pid, method) of the run's studies; any others follow as they are begun.
    """

    def __init__(
        self,
        store: Store,
        *,
        warn: Callable[[str], None],
        order: Sequence[tuple[str, str]] = (),
    ):
        self._store, self._warn = store, warn
        self._rank = {key: rank for rank, key in enumerate(order)}
        self._earlier = {_key(row) for row in readable_rows(store.trials_table, warn)}
        """The studies of the table that an earlier run left."""
        self._studies: dict[_Key, TrialStudy] = {}
        self._written: dict[_Key, int] | None = None
        """How many rows of each study the files hold; None before this run has written any."""

    def add(self, study: TrialStudy) -> None:
        """From now on the rows of this study are its own, not those of an earlier table."""
        self._studies[study.problem.pid, study.method] = study
        last = len(self._rank)
        by_rank = sorted(self._studies.items(), key=lambda item: self._rank.get(item[0], last))
        self._studies = dict(by_rank)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        others = self._earlier - self._studies.keys()
        if others:
            earlier = readable_rows(self._store.trials_table, self._warn)
            yield from (row for row in earlier if _key(row) in others)
        for study in self._studies.values():
            yield from study.rows()

    def write(self) -> None:
        """Writes the table and the best, and the snapshots of the studies that have changed.

        The table comes last: where it stands as it would be written, so do the others.
        """
        if self._stand():
            self.write_best()  # There may be new runs that confirm it.
            return
        written = self._written or {}
        for key, study in self._studies.items():
            if written.get(key) != study.progress.num_ended:
                study.snapshot()
        self.write_best()
        write_table(self._store.trials_table, self)
        self._written = self._lengths()

    def write_best(self) -> None:
        """Writes the best of each study, with what runs without tuning say of it, if it is news."""
        runs = list(readable_rows(self._store.llc_table, self._warn))
        write_best(self._store.best, self, runs)

    def _lengths(self) -> dict[_Key, int]:
        return {key: study.progress.num_ended for key, study in self._studies.items()}

    def _stand(self) -> bool:
        """Whether all files are as they would be written now."""
        snapshots = (self._store.snapshot(*key) for key in self._studies)
        files = (self._store.trials_table, self._store.best, *snapshots)
        if not all(file.exists() for file in files):
            return False
        if self._written is None:
            return same_rows(self, readable_rows(self._store.trials_table, self._warn))
        return self._written == self._lengths()


def _key(row: Mapping[str, Any]) -> _Key:
    return row["pid"], row["method"]
