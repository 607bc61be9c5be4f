"""Pruning: what a running trial tells, who stops it, and what is left of it."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from test_study import LLC, Line, instant_trial

from lambda_hat.conf.checks import ConfigError
from lambda_hat.entrypoints.plans import read_study_plan
from lambda_hat.report.failures import failures_table
from lambda_hat.report.findings import findings, read_trials
from lambda_hat.runners.run_method import run_method_trial
from lambda_hat.store import write_json
from lambda_hat.store.reports import NUM_STEPS, Report, TrialReports
from lambda_hat.tuning import pruners
from lambda_hat.tuning.pruners import PRUNERS, build_pruner

FOLDERS = "artifacts/runs/p/sgld/r"


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


def reporting_trial(*args: Any, study: str | None = None, **kwargs: Any) -> dict:
    """A trial that reports its error ten times, and waits for the verdict where it is bad."""
    out = Path(args[3])
    whole = instant_trial(*args, **kwargs)
    out.unlink()
    error = whole["llc_hat"] - args[2]
    if study is not None:
        reports = TrialReports(out.parent, study)
        reports.begin()
        for step in range(1, NUM_STEPS + 1):
            reports.add([Report(step, LLC + error, error, step / 10)])
            until = time.monotonic() + (0.8 if error > 1 and step == 3 else 0.0)
            while (at := reports.pruned_at()) is None and time.monotonic() < until:
                time.sleep(0.02)
            if at is not None:
                cut = {"status": "pruned", "llc_hat": None, "se_hat": None, "runtime_sec": 0.1}
                write_json(out, {**whole, **cut, "error_msg": f"Stopped at {at}."})
                return json.loads(out.read_text())
    write_json(out, whole)
    return whole


ASKED: dict[str, Any] = {"methods": ("vi",), "batch_size": 1, "run_trial": reporting_trial}


def trials_of(line: Line) -> list[optuna.trial.FrozenTrial]:
    path = line.store.journal(line.problem.pid, "vi")
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(storage=storage, study_name=line.studies[0].name).trials


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """A line with a study that has pruned some of its trials."""
    line = Line(tmp_path_factory.mktemp("pruned"))
    line.run(max_trials=16, pruner="median", **ASKED)
    return line


def test_a_pruned_trial_is_a_row_with_what_it_cost(pruned: Line) -> None:
    table = pruned.table
    gone = table[table.status == "pruned"]
    assert 0 < len(gone) < 12 and len(table) == 16
    assert gone.llc_hat.isna().all() and gone.error.isna().all()
    assert (gone.runtime_sec == 0.1).all() and gone.error_msg.str.startswith("Stopped at").all()
    progress = pruned.studies[0].progress
    assert (progress.num_pruned, progress.num_failed) == (len(gone), 0)
    assert progress.best is not None and progress.best["status"] == "complete"


def test_optuna_knows_pruned_trials_with_their_reports(pruned: Line) -> None:
    rows = pruned.table.set_index("trial_number")
    for trial in trials_of(pruned):
        gone = rows.status[trial.number] == "pruned"
        assert trial.state == (TrialState.PRUNED if gone else TrialState.COMPLETE)
        assert trial.user_attrs["status"] == rows.status[trial.number]
        steps = sorted(trial.intermediate_values)
        assert steps == list(range(1, len(steps) + 1)) and (gone or len(steps) == NUM_STEPS)
        if gone:
            assert trial.value == rows.objective[trial.number]


def test_pruned_trials_are_kept_by_a_second_run(pruned: Line) -> None:
    before = pruned.table
    pruned.run(max_trials=16, pruner="median", **ASKED)
    assert pruned.ran == [] and list(pruned.table.trial_id) == list(before.trial_id)
    assert list(pruned.table.status) == list(before.status)
    assert list(pruned.table.objective) == list(before.objective)


def test_the_report_tells_pruned_trials_from_failed_ones(pruned: Line) -> None:
    trials = read_trials(pruned.store.trials_table)
    assert failures_table(trials) is None and findings(trials)[0].failed == 0


def test_a_study_without_a_pruner_runs_in_full_what_another_has_pruned(tmp_path: Path) -> None:
    line = Line(tmp_path)
    line.run(max_trials=16, pruner="median", **ASKED)
    gone = line.table[line.table.status == "pruned"]
    assert len(gone)
    other = Line(tmp_path)
    other.store = type(line.store).at(line.store.artifacts, tmp_path / "other")
    other.run(max_trials=16, search=line.studies[0].settings.search, **ASKED)
    assert (other.table.status == "complete").all()


def test_a_trial_that_was_pruned_while_its_driver_was_dead_is_told_so(line: Line) -> None:
    line.run(max_trials=8, pruner="median", **ASKED)
    study = line.studies[0]
    asked = study.ask()
    task = study.task(asked)
    reports = TrialReports(
        line.store.trial_folder(line.problem.pid, "vi", asked.spec.trial_id), task.study or ""
    )
    asked.spec.write_manifest(line.store, study=task.study)
    reports.add([Report(1, 9.0, 4.5, 0.1), Report(2, 8.0, 3.5, 0.2)])
    reports.prune(2)
    kept = asked.spec.failure("Stopped.", llc_ref=LLC, runtime_sec=0.2).to_json()
    write_json(reports.folder / "metrics.json", {**kept, "status": "pruned"})
    line.run(max_trials=9, pruner="median", **ASKED)
    row = line.table.set_index("trial_number").loc[asked.number]
    assert (row.status, row.objective, row.runtime_sec) == ("pruned", 3.5, 0.2)


def test_reports_survive_a_torn_line_and_begin_anew(tmp_path: Path) -> None:
    reports = TrialReports(tmp_path, "s_1")
    assert reports.read() == [] and reports.pruned_at() is None
    some = [Report(1, 5.0, 0.5, 0.1), Report(2, 4.0, 0.5, 0.2)]
    reports.add(some)
    with (tmp_path / "reports.jsonl").open("a") as file:
        file.write('{"step": 3, "ll')
    assert reports.read() == some
    reports.prune(2)
    assert reports.pruned_at() == 2 and TrialReports(tmp_path, "s_2").pruned_at() is None
    reports.begin()
    assert reports.read() == [] and reports.pruned_at() == 2  # A verdict stands.


@pytest.mark.parametrize("name", PRUNERS)
def test_every_pruner_judges_and_none_prunes_the_best(name: str) -> None:
    study = optuna.create_study(pruner=build_pruner(name), study_name="s")
    ended: dict[int, bool] = {}
    for number in range(40):
        level, trial, stopped = (number * 7) % 20, study.ask(), False
        for step in range(1, NUM_STEPS + 1):
            trial.report(level + 0.1 * step, step)
            stopped = stopped or trial.should_prune()
        ended[level] = ended.get(level, False) or stopped
        study.tell(trial, None if stopped else level, TrialState.PRUNED if stopped else None)
    assert not ended[0] and any(ended.values()) == (name != pruners.NONE)


# A real trial.

QUADRATIC = {
    "model": "quadratic",
    "overrides": {"model": {"curvature": [1.0, 2.0, 0.5]}, "data": {"n": 1000}},
}


def run_sgld(folder: Path, *, study: str | None, **settings: Any) -> dict:
    out = folder / FOLDERS / "metrics.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    method = {"name": "sgld", "eta0": 1e-3, "steps": 20_000, **settings}
    return run_method_trial(QUADRATIC, method, 1.4, str(out), budget_sec=120, seed=1, study=study)


def test_a_trial_reports_each_tenth_and_its_result_is_the_same(tmp_path: Path) -> None:
    silent = run_sgld(tmp_path / "a", study=None)
    told = run_sgld(tmp_path / "b", study="s_1")
    assert told["llc_hat"] == silent["llc_hat"] and told["status"] == silent["status"]
    reports = TrialReports(tmp_path / "b" / FOLDERS, "s_1").read()
    assert [report.step for report in reports] == list(range(1, NUM_STEPS + 1))
    assert all(report.error == abs(report.llc_hat - 1.4) for report in reports)
    assert abs(reports[-1].llc_hat - told["llc_hat"]) < 5 * told["se_hat"]
    assert not (tmp_path / "a" / FOLDERS / "reports.jsonl").exists()


def test_a_trial_stops_where_its_study_says_so(tmp_path: Path) -> None:
    folder = tmp_path / FOLDERS
    folder.mkdir(parents=True)
    TrialReports(folder, "s_1").prune(3)
    told = run_sgld(tmp_path, study="s_1", steps=200_000)
    assert told["status"] == "pruned" and "at 3 tenths of its run" in told["error_msg"]
    assert told["work"]["full_gradients"] > 0 and told["llc_hat"] is None
    whole = run_sgld(tmp_path, study="s_2")
    assert whole["status"] != "pruned"


def test_a_chain_that_has_left_the_basin_for_good_stops_at_once(tmp_path: Path) -> None:
    """A step just below the limit of stability: finite losses, and none from the posterior."""
    stiff = {"model": "quadratic", "overrides": {"model": {"curvature": [4.0]}, "data": {"n": 100}}}
    eta0, steps = 0.99 * 4 / (4.05 * 100 / math.log(100)), 200_000
    method = {"name": "sgld", "eta0": eta0, "gamma": 0.0, "batch": 100, "steps": steps}
    told = run_method_trial(stiff, method, 0.5, str(tmp_path / "metrics.json"), seed=1)
    assert told["status"] == "failed" and "left it" in told["error_msg"], told
    whole = told["hyperparams"]["num_chains"] * steps
    assert told["work"]["full_gradients"] < 0.4 * whole  # Of which warm-up is a quarter.


# The config.


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("pruner: medan", "Did you mean 'median'?"),
        ("pruner: median, objectives: [error, runtime_sec]", "`pruner` must be none where"),
    ],
)
def test_what_cannot_be_is_a_sentence(tmp_path: Path, section: str, said: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        f"problems: [{{model: small}}]\nmethods: [vi]\noptuna: {{{section}}}\n"
        f"artifacts_dir: {tmp_path}/a\nresults_dir: {tmp_path}/r\n"
    )
    with pytest.raises(ConfigError) as refused:
        read_study_plan(path, [], {})
    assert len(refused.value.faults) == 1 and said in refused.value.faults[0]


def test_a_study_does_not_go_on_with_another_pruner(line: Line) -> None:
    line.run(methods=("vi",), max_trials=2)
    line.run(methods=("vi",), max_trials=2, pruner="median")
    assert "optuna.pruner was None and is now median" in line.studies[0].changes()
