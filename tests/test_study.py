"""Reference -> Trials: what a study asks and tells, over instant trials in this process."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import signal
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from lambda_hat.conf.compose import compose_problem
from lambda_hat.conf.samplers import SGLDConfig
from lambda_hat.conf.search_space import read_search_space
from lambda_hat.entrypoints.parsl_optuna import FUNCTIONS
from lambda_hat.execution import (
    BlocksLost,
    DeadlineExceeded,
    DiskFault,
    InProcessPool,
    PoolLost,
    WorkerLost,
)
from lambda_hat.execution.event_loop import Outcome
from lambda_hat.store import Store, read_json, write_json
from lambda_hat.trial import ProblemItem, Reference, TrialResult, derive_seed
from lambda_hat.tuning.fingerprint import StudyChanged
from lambda_hat.tuning.journal import Journal
from lambda_hat.tuning.records import Records
from lambda_hat.tuning.reference_plan import ReferencePlan
from lambda_hat.tuning.results import Results
from lambda_hat.tuning.scheduler import Scheduler
from lambda_hat.tuning.search_samplers import RandomSettings, SearchSampler
from lambda_hat.tuning.settings import StudySettings
from lambda_hat.tuning.study import MAX_DEAD, Study

LLC = 4.5


def instant_reference(
    problem_spec: dict,
    out_ref_json: str,
    budget_sec: float,
    settings: dict | None = None,
    artifacts_dir: str | None = None,
) -> dict:
    ref = {"llc_ref": LLC, "se_ref": 0.05, "status": "ok", "reasons": [], "budget_sec": budget_sec}
    write_json(Path(out_ref_json), ref)
    return ref


def poor_reference(
    problem_spec: dict,
    out_ref_json: str,
    budget_sec: float,
    settings: dict | None = None,
    artifacts_dir: str | None = None,
) -> dict:
    reasons = ["`R-hat <= 1.01` must hold, but it is 1.4"]
    ref = {"llc_ref": LLC, "se_ref": 0.5, "status": "unreliable", "reasons": reasons}
    write_json(Path(out_ref_json), {**ref, "budget_sec": budget_sec})
    return read_json(Path(out_ref_json))


def instant_trial(
    problem_spec: dict,
    method_cfg: dict,
    ref_llc: float,
    out_metrics_json: str,
    budget_sec: float,
    seed: int,
    artifacts_dir: str,
) -> dict:
    """A method whose error is smallest where its first real setting is 0.01."""
    name, *_ = [key for key, value in method_cfg.items() if isinstance(value, float)]
    error = abs(math.log10(method_cfg[name]) + 2) + (seed % 100) / 1e4
    metrics = {
        "status": "complete",
        "llc_hat": ref_llc + error,
        "se_hat": 0.1,
        "hyperparams": {k: v for k, v in method_cfg.items() if k != "name"},
        "runtime_sec": 0.5,
        "diagnostics": {"ess": 100.0},
        "budget_exhausted": False,
        "error_msg": None,
    }
    write_json(Path(out_metrics_json), metrics)
    return metrics


def traced_trial(*args: Any, **kwargs: Any) -> dict:
    Path(args[3]).with_name("trace.nc").write_bytes(b"draws")
    return instant_trial(*args, **kwargs)


def diverging_trial(*args: Any, **kwargs: Any) -> dict:
    metrics = instant_trial(*args, **kwargs)
    return {**metrics, "status": "failed", "llc_hat": None, "error_msg": "The loss is NaN."}


def failing_one_in_three(*args: Any, **kwargs: Any) -> dict:
    return (diverging_trial if kwargs["seed"] % 3 == 0 else instant_trial)(*args, **kwargs)


def noticing_reference(*args: Any, **kwargs: Any) -> dict:
    return {**instant_reference(*args, **kwargs), "notices": ["A checkpoint was damaged."]}


def noticing_trial(*args: Any, **kwargs: Any) -> dict:
    return {**instant_trial(*args, **kwargs), "notices": ["The target was damaged."]}


def of_target(name: str, result: dict, out: str) -> dict:
    """The result, which now says what target it is of."""
    write_json(Path(out), {**result, "target": name})
    return read_json(Path(out))


def reference_of_t_1(*args: Any, **kwargs: Any) -> dict:
    return of_target("t_1", instant_reference(*args, **kwargs), args[1])


def reference_of_t_2(*args: Any, **kwargs: Any) -> dict:
    return of_target("t_2", instant_reference(*args, **kwargs), args[1])


def trial_of_t_1(*args: Any, **kwargs: Any) -> dict:
    return of_target("t_1", instant_trial(*args, **kwargs), args[3])


def trial_of_t_2(*args: Any, **kwargs: Any) -> dict:
    return of_target("t_2", instant_trial(*args, **kwargs), args[3])


class Silent:
    """An observer that keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def reference_started(self, problem: Any) -> None:
        self.told.append(("reference", problem.pid))

    def reference_ready(self, problem: Any, reference: Any, reused: bool) -> None: ...
    def problem_failed(self, problem: Any, reason: str) -> None: ...
    def study_began(self, study: Any) -> None: ...

    def trial_ended(self, study: Any, row: Any) -> None:
        self.told.append(("trial", row["trial_id"]))

    def programs_failed(self, study: Any, reason: str) -> None: ...
    def study_ended(self, study: Any) -> None: ...


class FailingPool(InProcessPool):
    """A pool whose first trials of vi end with errors, in turn."""

    def __init__(self, *errors: Exception):
        super().__init__()
        self.errors = list(errors)

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future:
        if self.errors and function is not instant_reference and args[1]["name"] == "vi":
            future: Future = Future()
            future.set_exception(self.errors.pop(0))
            return future
        return super().submit(function, *args, **kwargs)


class UnevenPool(InProcessPool):
    """Trials end in an order that chance decides, as they do on a real pool."""

    def __init__(self, seed: int):
        super().__init__()
        self.chance = random.Random(seed)
        self.waiting: list[Callable[[], None]] = []
        self.ran: list[str] = []

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future:
        if function is instant_reference:
            return super().submit(function, *args, **kwargs)
        outer: Future = Future()
        self.waiting.append(lambda: self.run(outer, function, args, kwargs))
        self._executor.submit(self.end_one)
        return outer

    def end_one(self) -> None:
        time.sleep(0.002)  # The driver fills the pool meanwhile.
        self.waiting.pop(self.chance.randrange(len(self.waiting)))()

    def run(self, outer: Future, function: Any, args: Any, kwargs: Any) -> None:
        self.ran.append(Path(args[3]).parent.name)
        kwargs.pop("deadline_sec")
        outer.set_result(function(*args, **kwargs))


class Line:
    """A run of the line in one folder, again and again."""

    def __init__(self, folder: Path, *, seed: int = 0):
        self.store = Store.at(folder / "artifacts", folder / "results")
        spec = {"model": "small", "seed": seed}
        self.problem = ProblemItem(compose_problem(spec).pid, spec, "small/small")
        self.said: list[str] = []
        self.observer = Silent()
        self.studies: list[Study] = []

    def run(
        self,
        *,
        pool: Any = None,
        methods: tuple[str, ...] = ("vi", "sgld"),
        run_reference: Any = instant_reference,
        run_trial: Any = instant_trial,
        reference: ReferencePlan | None = None,
        space: Any = None,
        observer: Silent | None = None,
        **settings: Any,
    ) -> Outcome:
        settings = {"max_trials": 6, "batch_size": 2, "method_budget": 10.0, **settings}
        pool = pool or InProcessPool()
        self.observer = observer or Silent()
        self.studies = [
            Study(
                self.problem,
                method,
                StudySettings(**settings),
                read_search_space(space),
                self.store,
                functions=FUNCTIONS,
                warn=self.said.append,
            )
            for method in methods
        ]
        try:
            return Scheduler(
                self.studies,
                store=self.store,
                results=Results(self.store, warn=self.said.append),
                reference=reference or ReferencePlan(budget_sec=5.0),
                pool=pool,
                run_reference=run_reference,
                run_trial=run_trial,
                observer=self.observer,
                warn=self.said.append,
            ).run()
        finally:
            pool.close(cancel=True)

    @property
    def table(self) -> pd.DataFrame:
        return pd.read_parquet(self.store.trials_table)

    @property
    def ran(self) -> list[str]:
        return [what for kind, what in self.observer.told if kind == "trial"]


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


def test_a_run_leaves_every_trial_in_the_table_and_the_best_in_yaml(line: Line) -> None:
    outcome = line.run()
    assert outcome == Outcome()
    table = line.table
    assert table.groupby("method").trial_number.apply(sorted).to_dict() == {
        "vi": list(range(6)),
        "sgld": list(range(6)),
    }
    assert table.trial_id.is_unique
    best = yaml.safe_load(line.store.best.read_text())[line.problem.pid]["methods"]
    for method, rows in table.groupby("method"):
        assert best[method]["objective"] == rows.objective.min()
        assert (
            best[method]["hyperparams"].items() <= rows.hyperparams[rows.objective.idxmin()].items()
        )
    for row in table.itertuples():
        folder = line.store.trial_folder(row.pid, row.method, row.trial_id)
        assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "metrics.json"]


def test_a_study_keeps_the_draws_of_its_best_trials_alone(line: Line) -> None:
    for max_trials in (6, 9):
        line.run(run_trial=traced_trial, max_trials=max_trials)
        found = {
            (s.method, row["trial_id"]) for s in line.studies for row in s.progress.shortlist.rows
        }
        kept = {path.parts[-3:-1] for path in line.store.artifacts.rglob("trace.nc")}
        assert kept == found and 6 <= len(kept) <= 8


def test_draws_that_another_folder_may_want_are_kept(line: Line, tmp_path: Path) -> None:
    line.run(run_trial=traced_trial)
    other = Line(tmp_path)
    other.store = Store.at(line.store.artifacts, tmp_path / "others")
    kept = sorted(line.store.artifacts.rglob("trace.nc"))
    other.run(run_trial=traced_trial, objective="relative")
    assert other.ran and set(kept) <= set(line.store.artifacts.rglob("trace.nc"))


def test_a_second_run_does_nothing_again(line: Line) -> None:
    line.run()
    before = line.table
    line.run(run_trial=diverging_trial, run_reference=poor_reference)
    assert line.observer.told == []
    pd.testing.assert_frame_equal(before, line.table)


def test_raising_max_trials_continues(line: Line) -> None:
    line.run(max_trials=4)
    first = line.table
    line.run(max_trials=7)
    merged = line.table.merge(first, on="trial_id", suffixes=("", "_first"))
    assert len(line.table) == 14 and len(merged) == 8
    assert (merged.objective == merged.objective_first).all()


def test_a_resumed_study_proposes_what_an_uninterrupted_one_would_have(tmp_path: Path) -> None:
    whole, parts = Line(tmp_path / "whole"), Line(tmp_path / "parts")
    whole.run(max_trials=16, batch_size=1)
    for end in (5, 11, 16):
        parts.run(max_trials=end, batch_size=1)
    assert list(whole.table.trial_id) == list(parts.table.trial_id)


def test_trials_that_a_killed_run_left_running_are_run_again_as_they_were(line: Line) -> None:
    line.run(methods=("vi",), max_trials=3)
    study = line.studies[0]
    left = [study.ask(), study.ask()]
    del study
    line.run(methods=("vi",), max_trials=6)
    rows = line.table.set_index("trial_number")
    assert list(rows.index) == list(range(6))
    for asked in left:
        row = rows.loc[asked.number]
        assert row.trial_id == asked.spec.trial_id
        assert row.seed == asked.spec.seed == derive_seed("trial", 0, row.pid, "vi", asked.number)


def test_a_trial_that_was_only_half_asked_is_asked_to_its_end(line: Line) -> None:
    line.run(methods=("vi",), max_trials=4, batch_size=1)
    journal = line.store.journal(line.problem.pid, "vi")
    lines = journal.read_bytes().splitlines(keepends=True)
    created = max(k for k, entry in enumerate(lines) if json.loads(entry)["op_code"] == 4)
    journal.write_bytes(b"".join(lines[: created + 3]))  # It has its first two parameters.
    whole = line.table
    line.run(methods=("vi",), max_trials=4, batch_size=1)
    assert list(line.table.trial_number) == [0, 1, 2, 3]
    assert list(line.table.params_lr) == list(whole.params_lr)
    assert list(line.table.trial_id[:3]) == list(whole.trial_id[:3])


def test_a_finished_trial_that_was_not_told_is_told_and_not_run(line: Line) -> None:
    line.run(methods=("vi",), max_trials=3)
    asked = line.studies[0].ask()
    spec = asked.spec
    path = line.store.metrics(spec.pid, "vi", spec.trial_id)
    instant_trial(dict(spec.problem), spec.method_cfg, LLC, str(path), 10.0, spec.seed, "")
    line.run(methods=("vi",), max_trials=4, run_trial=diverging_trial)
    assert list(line.table.status) == ["complete"] * 4


@pytest.mark.parametrize(
    "damage", [b'{"op_code": 5, "tr', b"\x00\x00\x00", b"rubbish\n{}\n", b"{}\n", b"[1]\n3\n"]
)
def test_a_damaged_journal_tail_is_cut_off_and_kept(line: Line, damage: bytes) -> None:
    line.run()
    before = line.table
    journal = line.store.journal(line.problem.pid, "vi")
    with journal.open("ab") as file:
        file.write(damage)
    line.run()
    assert "damaged end" in line.said[0] and len(line.said) == 1
    assert journal.with_name(f"{journal.name}.broken-1").read_bytes() == damage
    pd.testing.assert_frame_equal(before, line.table)


@pytest.mark.parametrize("whole_lines", [True, False])
def test_trials_that_a_journal_has_lost_are_taken_up_from_their_files(
    line: Line, whole_lines: bool
) -> None:
    line.run(methods=("vi",), max_trials=30, batch_size=8, pool=UnevenPool(0))
    before = line.table
    journal = line.store.journal(line.problem.pid, "vi")
    lines = journal.read_bytes().splitlines(keepends=True)
    kept = b"".join(lines[: len(lines) // 2])
    journal.write_bytes(kept if whole_lines else kept[:-5])
    again = UnevenPool(1)
    line.run(methods=("vi",), max_trials=30, batch_size=8, pool=again)
    columns = ["trial_number", "trial_id", "llc_hat", "objective"]
    pd.testing.assert_frame_equal(before[columns], line.table[columns])
    assert again.ran == []


def test_trials_of_another_study_in_shared_artifacts_are_not_taken_up(tmp_path: Path) -> None:
    first, second = Line(tmp_path / "first"), Line(tmp_path / "second")
    second.store = Store.at(first.store.artifacts, second.store.results)
    first.run(methods=("vi",), max_trials=14)
    pool = UnevenPool(0)
    space = {"vi": {"lr": {"low": 2e-4, "high": 3e-3, "log": True}}}
    second.run(methods=("vi",), max_trials=14, space=space, pool=pool)
    assert not set(first.table.trial_id) & set(second.table.trial_id)
    assert sorted(pool.ran) == sorted(second.table.trial_id)


def test_a_lost_journal_is_rebuilt_from_the_trials_own_files(line: Line) -> None:
    line.run(methods=("vi",), batch_size=1)
    before = line.table
    line.store.journal(line.problem.pid, "vi").unlink()
    line.run(methods=("vi",), batch_size=1, run_trial=diverging_trial)
    pd.testing.assert_frame_equal(before, line.table)


def metrics_of(line: Line) -> dict[str, dict]:
    paths = line.store.artifacts.rglob("metrics.json")
    return {path.parent.name: read_json(path) for path in paths}


def told_objectives(line: Line) -> dict[str, float]:
    return dict(zip(line.table.trial_id, line.table.objective, strict=True))


def test_metrics_hold_what_optuna_was_told(line: Line) -> None:
    line.run(run_trial=failing_one_in_three)  # A failure is told as a penalty.
    metrics = metrics_of(line)
    assert {one["status"] for one in metrics.values()} == {"complete", "failed"}
    assert told_objectives(line) == {name: one["objective"] for name, one in metrics.items()}


def test_a_driver_that_dies_before_metrics_have_their_objective_writes_it_when_it_goes_on(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Records, "write_metrics", die)
        line.run()
    journal = line.studies[0]._journal
    (told,) = [
        line.studies[0]._proposals.spec(t.number, r["hyperparams"]) for t, r in journal.ended()
    ]
    assert "objective" not in metrics_of(line)[told.trial_id]
    line.run()
    assert told_objectives(line) == {
        name: one["objective"] for name, one in metrics_of(line).items()
    }
    assert told.trial_id in told_objectives(line) and line.table.trial_id.is_unique


def test_where_two_studies_share_a_trial_the_last_one_told_is_in_its_metrics(
    line: Line, tmp_path: Path
) -> None:
    line.run(max_trials=1)
    first = metrics_of(line)
    other = Line(tmp_path / "other")
    other.store = Store.at(line.store.artifacts, other.store.results)
    other.run(max_trials=1, huber_delta=0.1)
    second = metrics_of(line)
    assert first.keys() == second.keys() and first != second
    line.run(max_trials=1)  # It has nothing to do, and writes nothing.
    assert metrics_of(line) == second


def test_damaged_metrics_of_a_told_trial_are_set_aside_and_restored(line: Line) -> None:
    line.run(methods=("vi",))
    row = line.table.iloc[2]
    path = line.store.metrics(row.pid, row.method, row.trial_id)
    whole = read_json(path)
    path.write_text(path.read_text().replace("0.1", "0.7", 1))
    line.run(methods=("vi",))
    assert "checksum" in line.said[0]
    assert read_json(path) == whole
    assert len(list(path.parent.glob("metrics.json.broken-*"))) == 1
    assert line.ran == []


def test_damaged_metrics_of_an_untold_trial_are_set_aside_and_computed_again(line: Line) -> None:
    line.run(methods=("vi",), max_trials=2)
    spec = line.studies[0].ask().spec
    path = line.store.metrics(spec.pid, "vi", spec.trial_id)
    path.parent.mkdir(parents=True)
    path.write_text('{"status": "compl')
    line.run(methods=("vi",), max_trials=3)
    assert line.ran == [spec.trial_id]
    assert read_json(path)["status"] == "complete"


def test_a_damaged_reference_is_set_aside_and_computed_again(line: Line) -> None:
    line.run()
    path = line.store.reference(line.problem.pid)
    path.write_bytes(path.read_bytes()[:20])
    line.run()
    assert line.observer.told == [("reference", line.problem.pid)]
    assert read_json(path)["llc_ref"] == LLC


def test_a_failed_trial_is_told_a_finite_penalty_and_stays_in_the_table(line: Line) -> None:
    outcome = line.run(methods=("vi",), run_trial=diverging_trial)
    table = line.table
    assert list(table.status) == ["failed"] * 6
    assert list(table.error_msg) == ["The loss is NaN."] * 6
    assert (table.objective == LLC).all() and table.llc_hat.isna().all()
    assert outcome.failures == (
        f"Study {line.problem.pid}:vi has no result: all 6 trials failed, the last one because "
        "The loss is NaN.",
    )


def test_what_a_worker_noticed_is_said(line: Line) -> None:
    line.run(
        methods=("vi",), max_trials=1, run_reference=noticing_reference, run_trial=noticing_trial
    )
    assert line.said == ["A checkpoint was damaged.", "The target was damaged."]


def test_a_full_disk_on_a_node_ends_the_run_and_loses_no_trial(line: Line) -> None:
    outcome = line.run(pool=FailingPool(DiskFault("The disk is full.")), methods=("vi",))
    assert outcome.failures == ("The disk is full.",) and outcome.cut_short
    assert line.run(methods=("vi",)).failures == ()
    assert list(line.table.status) == ["complete"] * 6


def test_a_penalty_is_no_less_than_the_worst_score(line: Line) -> None:
    study = Study(
        line.problem,
        "vi",
        StudySettings(method_budget=10.0),
        read_search_space(None),
        line.store,
        functions=FUNCTIONS,
        warn=line.said.append,
    )
    study.begin(Reference(LLC, 0.05, "ok"))
    result = TrialResult(status="complete", llc_hat=LLC + 50)
    study.tell(study.ask(), result)
    row = study.tell(study.ask(), result.failed("It diverged."))
    assert row["objective"] == 50.0


def test_a_study_searches_steps_that_its_problem_allows_and_goes_on_with_them(line: Line) -> None:
    def study() -> Study:
        return Study(
            line.problem,
            "sgld",
            StudySettings(method_budget=10.0),
            {},
            line.store,
            functions=FUNCTIONS,
            warn=line.said.append,
        )

    first = study()
    first.begin(Reference(LLC, 0.05, "ok", stiffness=1234.0))
    for _ in range(20):
        asked = first.ask()
        default = asked.spec.hyperparams["eta0"] == SGLDConfig.eta0
        assert default or asked.spec.hyperparams["eta0"] <= 8.1e-4
    again = study()
    assert again.changes() == []
    again.begin(Reference(LLC, 0.05, "ok"))
    assert again.changes() == []


def test_a_trial_ended_at_its_deadline_fails_with_its_reason(line: Line) -> None:
    line.run(methods=("vi",), pool=FailingPool(DeadlineExceeded(71.0, "in compile")))
    row = line.table.iloc[0]
    reason = "The task was ended at its deadline of 71 s."
    assert (row.status, row.error_msg, row.objective) == ("failed", reason, LLC)
    metrics = read_json(line.store.metrics(row.pid, "vi", row.trial_id))
    assert (metrics["status"], metrics["traceback"]) == ("failed", "in compile")
    assert len(line.table) == 6


def test_a_trial_that_kills_its_workers_is_scored_worst_and_not_run_again(line: Line) -> None:
    outcome = line.run(methods=("vi",), pool=FailingPool(WorkerLost("It died.")))
    row = line.table.iloc[0]
    assert outcome.failures == () and len(line.table) == 6
    assert (row.status, row.error_msg, row.objective) == ("failed", "It died.", LLC)
    assert not row.budget_exhausted
    metrics = read_json(line.store.metrics(row.pid, "vi", row.trial_id))
    assert metrics["status"] == "failed" and metrics["worker_died"]
    line.store.journal(row.pid, "vi").unlink()
    line.run(methods=("vi",), max_trials=1)
    assert line.table.error_msg[0] == "It died."


def test_a_lost_trial_is_asked_afresh_and_teaches_nothing(line: Line) -> None:
    outcome = line.run(methods=("vi",), pool=FailingPool(BlocksLost("It died.")))
    table = line.table
    assert outcome.failures == ()
    assert (table.status == "complete").sum() == 6 and len(table) == 7
    lost = table[table.status == "failed"].iloc[0]
    assert lost.error_msg == "It died." and math.isnan(lost.objective)


@pytest.mark.parametrize("death", [WorkerLost, BlocksLost])
def test_a_study_that_loses_all_its_workers_gives_up_and_others_go_on(
    line: Line, death: type[Exception]
) -> None:
    pool = FailingPool(*[death("It died.")] * MAX_DEAD)
    outcome = line.run(pool=pool, batch_size=1, max_trials=14)
    assert [study.given_up for study in line.studies] == [True, False]
    assert len(outcome.failures) == 1 and "It died." in outcome.failures[0]
    assert (line.table[line.table.method == "sgld"].status == "complete").sum() == 14
    assert line.run(batch_size=1, max_trials=14).failures == ()
    scored = line.table[(line.table.method == "vi") & line.table.objective.notna()]
    assert len(scored) == 14


def test_a_lost_pool_ends_the_run_and_loses_no_trial(line: Line) -> None:
    outcome = line.run(pool=FailingPool(PoolLost("The interchange is gone.")), methods=("vi",))
    assert outcome.failures == ("The interchange is gone.",)
    assert line.run(methods=("vi",)).failures == ()
    assert list(line.table.status) == ["complete"] * 6


def test_an_unreliable_reference_is_not_tuned_against(line: Line) -> None:
    outcome = line.run(run_reference=poor_reference)
    assert len(line.table) == 0
    assert "R-hat <= 1.01" in outcome.failures[0] and "--hmc-budget" in outcome.failures[0]
    line.run(run_reference=poor_reference)
    assert line.observer.told == [], "the same budget would give the same reference"
    line.run(reference=ReferencePlan(budget_sec=50.0))
    assert line.observer.told[0] == ("reference", line.problem.pid)
    assert len(line.table) == 12


def test_an_accepted_unreliable_reference_stays_visible(line: Line) -> None:
    plan = ReferencePlan(budget_sec=5.0, accept_unreliable=True)
    assert line.run(run_reference=poor_reference, reference=plan).failures == ()
    assert set(line.table.ref_status) == {"unreliable"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "optuna.seed was 0 and is now 1"),
        ({"huber_delta": 0.5}, "optuna.huber_delta was None and is now 0.5"),
        ({"objective": "rmse"}, "optuna.objective was None and is now rmse"),
        ({"method_budget": 20.0}, "optuna.method_budget was 10.0 and is now 20.0"),
        ({"space": {"vi": {"lr": {"high": 0.01}}}}, "search_space.lr.high was 0.1 and is now 0.01"),
    ],
)
def test_a_changed_study_is_told_what_changed(line: Line, change: dict, said: str) -> None:
    line.run(methods=("vi",))
    settings = {"method_budget": 10.0, **change}
    space = read_search_space(settings.pop("space", None))
    study = Study(
        line.problem,
        "vi",
        StudySettings(**settings),
        space,
        line.store,
        functions=FUNCTIONS,
        warn=line.said.append,
    )
    assert said in study.changes()


def test_a_study_refuses_another_reference_and_keeps_its_own_for_one_that_agrees(
    line: Line,
) -> None:
    line.run(methods=("vi",))
    settings = StudySettings(method_budget=10.0)
    study = Study(
        line.problem,
        "vi",
        settings,
        read_search_space(None),
        line.store,
        functions=FUNCTIONS,
        warn=line.said.append,
    )
    with pytest.raises(StudyChanged, match=r"was 4.5 \(se 0.05\) and is now 7"):
        study.begin(Reference(7.0, 0.05, "ok"))
    study.begin(Reference(4.55, 0.05, "ok"))
    assert study.reference.llc_ref == LLC and "which agree" in line.said[-1]


def test_a_study_is_of_one_target_also_where_their_references_agree(line: Line) -> None:
    line.run(methods=("vi",), run_reference=reference_of_t_1)
    first = line.table
    line.store.reference(line.problem.pid).unlink()
    outcome = line.run(methods=("vi",), max_trials=9, run_reference=reference_of_t_2)
    assert len(outcome.failures) == 1 and line.ran == []
    assert "its target was t_1 and is now t_2" in outcome.failures[0]
    assert "give another --results-dir" in outcome.failures[0]
    pd.testing.assert_frame_equal(first, line.table)


def test_a_study_begun_before_targets_had_names_goes_on(line: Line) -> None:
    line.run(methods=("vi",), max_trials=4, run_reference=reference_of_t_1)
    journal = line.store.journal(line.problem.pid, "vi")
    lines = journal.read_text()
    assert lines.count('"target":"t_1",') == 1
    journal.write_text(lines.replace('"target":"t_1",', ""))
    assert line.run(methods=("vi",), run_reference=reference_of_t_1) == Outcome()
    assert len(line.table) == 6


def test_results_of_another_target_are_not_told(line: Line) -> None:
    line.run(methods=("vi",), batch_size=1, run_reference=reference_of_t_1, run_trial=trial_of_t_2)
    assert line.studies[0].given_up and line.studies[0].progress.best is None
    table = line.table
    assert len(table) == MAX_DEAD and set(table.status) == {"failed"}
    assert "it is of the target t_2" in table.error_msg[0]
    line.store = Store.at(line.store.artifacts, line.store.results.parent / "fresh")
    line.run(methods=("vi",), run_reference=reference_of_t_1, run_trial=trial_of_t_1)
    assert set(line.table.trial_id) & set(table.trial_id)  # What t_2 gave lies under their names.
    assert set(line.table.target) == {"t_1"} and set(line.table.status) == {"complete"}


def test_a_reference_is_computed_again_where_its_target_is_gone(line: Line) -> None:
    line.run(methods=("vi",), run_reference=reference_of_t_1)
    line.run(methods=("vi",), run_reference=reference_of_t_1)
    assert line.observer.told == [("reference", line.problem.pid)]  # No target.json says t_1.


def test_a_converged_study_stops(line: Line) -> None:
    line.run(methods=("vi",), max_trials=100, batch_size=1, patience=5)
    assert 5 < len(line.table) < 100
    assert line.studies[0].stopped is not None and "converged" in line.studies[0].stopped
    line.run(methods=("vi",), max_trials=100, batch_size=1, patience=5)
    assert line.ran == []


def test_rows_of_other_studies_in_the_folder_stay(line: Line, tmp_path: Path) -> None:
    line.run(methods=("vi",))
    other = Line(tmp_path, seed=1)
    other.run(methods=("sgld",))
    assert len(other.table) == 12
    assert set(yaml.safe_load(line.store.best.read_text())) == {line.problem.pid, other.problem.pid}


def test_the_pickled_study_stands_alone(line: Line) -> None:
    line.run(methods=("vi",))
    snapshot = line.store.snapshot(line.problem.pid, "vi").read_bytes()
    line.store.journal(line.problem.pid, "vi").unlink()
    study = pickle.loads(snapshot)
    assert len(study.trials) == 6
    assert study.best_value == line.table.objective.min()


def test_the_pickled_study_holds_what_its_trials_were_told_with(line: Line) -> None:
    line.run(methods=("vi",))
    study = pickle.loads(line.store.snapshot(line.problem.pid, "vi").read_bytes())
    for trial, row in zip(study.trials, line.studies[0].rows(), strict=True):
        record = json.loads(trial.user_attrs["record"])
        assert record["metrics"]["llc_hat"] == row["llc_hat"] and row["llc_hat"] > LLC
        assert record["hyperparams"] == row["hyperparams"] == trial.params


def wordy_trial(*args: Any, **kwargs: Any) -> dict:
    return {**instant_trial(*args, **kwargs), "diagnostics": {"note": "." * 100_000}}


class Keeping(Silent):
    """An observer that keeps the rows."""

    def trial_ended(self, study: Any, row: Any) -> None:
        self.told.append(("row", row))


def trial_number(row: dict) -> int:
    return row["trial_number"]


def test_rows_that_are_read_again_are_those_that_were_told(line: Line) -> None:
    observer = Keeping()
    line.run(methods=("vi",), observer=observer, pool=FailingPool(BlocksLost("gone")))
    told = sorted((row for kind, row in observer.told if kind == "row"), key=trial_number)
    assert told[0]["objective"] is None and told[-1]["objective"] > 0
    assert list(line.studies[0].rows()) == told and len(told) == 7
    line.run(methods=("vi",), pool=FailingPool())
    assert line.ran == [] and list(line.studies[0].rows()) == told


def test_what_trials_leave_is_not_held_in_memory(line: Line) -> None:
    # By chance: the arrays that TPE has just used are not what trials leave.
    asked: dict[str, Any] = {"methods": ("vi",), "run_trial": wordy_trial}
    asked["search"] = SearchSampler("random", RandomSettings())
    line.run(max_trials=2, **asked)  # What is imported, is.
    tracemalloc.start()
    try:
        line.run(max_trials=42, **asked)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    last = line.studies[0].progress.last
    assert last is not None and len(last["diagnostics"]["note"]) == 100_000
    left = line.store.journal(line.problem.pid, "vi").stat().st_size
    assert left > 42 * 100_000 and held < left / 4  # The shortlist, the last, and Optuna's own.


def test_a_line_that_another_program_is_writing_is_read_when_it_is_whole(line: Line) -> None:
    line.run(methods=("vi",), max_trials=2)
    path = line.store.journal(line.problem.pid, "vi")
    journal = Journal(path, line.studies[0].name, warn=print)
    note = {"op_code": 2, "worker_id": "dashboard", "study_id": 0, "user_attr": {"note": "mine"}}
    text = json.dumps(note) + "\n"
    with path.open("a") as file:
        file.write(text[:30])
        file.flush()
        assert "note" not in journal._study.user_attrs and len(journal.trials()) == 2
        file.write(text[30:])
    assert journal._study.user_attrs["note"] == "mine"
    assert len(list(journal.ended())) == 2


def test_a_signal_ends_the_run_between_two_trials_and_it_resumes(line: Line) -> None:
    class Interrupting(InProcessPool):
        count = 0

        def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future:
            self.count += 1
            if self.count == 6:
                threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start()
                return Future()  # It would never end.
            return super().submit(function, *args, **kwargs)

    outcome = line.run(pool=Interrupting())
    assert outcome.interrupted and 0 < len(line.table) < 12
    assert line.run() == Outcome()
    assert line.table.groupby("method").trial_number.apply(sorted).tolist() == [list(range(6))] * 2
