"""Studies -> results folder: what is written, and when."""

from __future__ import annotations

from pathlib import Path

import pytest

from lambda_hat.store import Store
from lambda_hat.tables.reading import read_table
from lambda_hat.tables.trials import trial_row
from lambda_hat.trial import ProblemItem, Reference, TrialResult, TrialSpec
from lambda_hat.tuning.progress import StudyProgress
from lambda_hat.tuning.results import Results


class Study:
    """A study with trials that nobody ran."""

    def __init__(self, store: Store, pid: str, method: str = "sgld"):
        self.problem, self.method = ProblemItem(pid, {}, "small/small"), method
        self.progress = StudyProgress()
        self.ended: dict[int, dict] = {}
        self.snapshots = 0
        self._store = store

    def end(self, *numbers: int, llc: float = 4.0) -> Study:
        for number in numbers:
            spec = TrialSpec(self.problem.pid, {}, self.method, {"eta0": 0.1}, number, 10.0)
            result = TrialResult(status="complete", llc_hat=llc + number)
            self.ended[number] = trial_row(
                spec,
                result,
                number=number,
                label="small/small",
                objective=1.0,
                reference=Reference(4.5, 0.1, "ok"),
            )
            self.progress.take(self.ended[number])
        return self

    def rows(self) -> list[dict]:
        return [self.ended[number] for number in sorted(self.ended)]

    def snapshot(self) -> None:
        self.snapshots += 1
        path = self._store.snapshot(self.problem.pid, self.method)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.at(tmp_path / "artifacts", tmp_path / "results")


def results_of(store: Store, *studies: Study) -> Results:
    results = Results(store, warn=print)
    for study in studies:
        results.add(study)
    return results


def written(store: Store) -> list[tuple[str, int, float]]:
    return [(r["pid"], r["trial_number"], r["llc_hat"]) for r in read_table(store.trials_table)]


def stamp(store: Store) -> int:
    return store.trials_table.stat().st_ino


def test_the_order_in_which_references_end_is_not_that_of_the_table(store: Store) -> None:
    first, second = Study(store, "p_a").end(0), Study(store, "p_b").end(0)
    keys = [(study.problem.pid, study.method) for study in (first, second)]
    results = Results(store, warn=print, order=keys)
    for study in (second, first):
        results.add(study)
    results.write()
    assert [row[0] for row in written(store)] == ["p_a", "p_b"]


def test_rows_are_by_study_as_begun_and_by_number(store: Store) -> None:
    results_of(store, Study(store, "p_b").end(2, 0, 1), Study(store, "p_a").end(1, 0)).write()
    assert [row[:2] for row in written(store)] == [
        ("p_b", 0),
        ("p_b", 1),
        ("p_b", 2),
        ("p_a", 0),
        ("p_a", 1),
    ]


def test_earlier_rows_stay_until_their_study_is_taken_over(store: Store) -> None:
    results_of(store, Study(store, "p_a").end(0), Study(store, "p_b").end(0, 1)).write()
    results = results_of(store, Study(store, "p_c").end(0))
    results.write()
    assert [row[0] for row in written(store)] == ["p_a", "p_b", "p_b", "p_c"]
    results.add(Study(store, "p_b").end(0, llc=7.0))
    results.write()
    assert written(store) == [("p_a", 0, 4.0), ("p_c", 0, 4.0), ("p_b", 0, 7.0)]


def test_earlier_rows_are_read_again_at_each_write(store: Store) -> None:
    results_of(store, Study(store, "p_a").end(0), Study(store, "p_b").end(0)).write()
    study = Study(store, "p_a").end(0)
    results = results_of(store, study)
    for number in (1, 2, 3):
        study.end(number)
        results.write()
    assert [row[:2] for row in written(store)] == [("p_b", 0), *(("p_a", k) for k in range(4))]


def test_a_table_that_is_damaged_meanwhile_costs_only_the_rows_of_others(store: Store) -> None:
    results_of(store, Study(store, "p_a").end(0), Study(store, "p_b").end(0)).write()
    study, said = Study(store, "p_a").end(0), []
    results = Results(store, warn=said.append)
    results.add(study)
    store.trials_table.write_bytes(b"PAR1 and no more")
    study.end(1)
    results.write()
    assert [row[:2] for row in written(store)] == [("p_a", 0), ("p_a", 1)]
    assert len(said) == 1 and "damaged" in said[0] and "kept as" in said[0]


def test_nothing_is_written_where_all_stands(store: Store) -> None:
    results_of(store, Study(store, "p_a").end(0)).write()
    first, again = stamp(store), Study(store, "p_a").end(0)
    results_of(store, again).write()
    assert stamp(store) == first and again.snapshots == 0


def test_a_study_is_written_when_it_has_changed(store: Store) -> None:
    changing, done = Study(store, "p_a").end(0), Study(store, "p_b").end(0)
    results = results_of(store, changing, done)
    results.write()
    first = stamp(store)
    results.write()
    assert stamp(store) == first
    changing.end(1)
    results.write()
    assert len(written(store)) == 3
    assert (changing.snapshots, done.snapshots) == (2, 1)


def test_a_file_that_was_removed_is_written_again(store: Store) -> None:
    results = results_of(store, Study(store, "p_a").end(0))
    results.write()
    store.best.unlink()
    results.write()
    assert store.best.exists()
