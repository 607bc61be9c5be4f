"""Several objectives: what a study is told, its Pareto front, and what is picked from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import yaml
from instant import use_instant_runners
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from test_study import LLC, Line, diverging_trial, instant_trial

from lambda_hat.conf.checks import ConfigError
from lambda_hat.entrypoints import parsl_optuna
from lambda_hat.entrypoints.plans import read_study_plan
from lambda_hat.report.figures import draw_all
from lambda_hat.report.findings import read_trials
from lambda_hat.store import write_json
from lambda_hat.tables.front import dominates, joined
from lambda_hat.tuning.search_samplers import KINDS, SearchSampler

BOTH = ("error", "runtime_sec")


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


def costly_trial(*args: Any, **kwargs: Any) -> dict:
    """The nearer to the reference, the longer it takes."""
    metrics = instant_trial(*args, **kwargs)
    error = metrics["llc_hat"] - args[2]
    metrics |= {"runtime_sec": 1 / (0.1 + error), "work": {"full_gradients": 100 / (0.1 + error)}}
    write_json(Path(args[3]), metrics)
    return metrics


def mixed_trial(*args: Any, **kwargs: Any) -> dict:
    failing = kwargs["seed"] % 3 == 0
    metrics = (diverging_trial if failing else costly_trial)(*args, **kwargs)
    return {**metrics, "runtime_sec": 1e-3} if failing else metrics


def front_of(points: list[tuple[float, float]]) -> list[int]:
    """The front by the definition."""
    return [
        number
        for number, one in enumerate(points)
        if not any(
            all(a <= b for a, b in zip(other, one, strict=True)) and other != one
            for other in points
        )
    ]


def row(number: int, point: tuple[float, float], status: str = "complete") -> dict[str, Any]:
    told = dict(zip(BOTH, point, strict=True))
    return {"trial_number": number, "status": status, "objectives": told}


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_that_of_the_definition_in_any_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [(float(a), float(b)) for a, b in rng.integers(0, 8, (40, 2))]
    front: tuple[Any, ...] = ()
    for number in rng.permutation(40):
        front = joined(front, row(int(number), points[number]))
    assert sorted(one["trial_number"] for one in front) == front_of(points)
    assert not any(dominates(one, other) for one in front for other in front)


def test_a_noisy_trial_is_on_the_front_only_while_none_is_complete() -> None:
    front = joined((), row(0, (1.0, 1.0), "noisy"))
    assert [one["trial_number"] for one in front] == [0]
    front = joined(front, row(1, (5.0, 5.0)))
    front = joined(front, row(2, (0.0, 0.0), "noisy"))
    front = joined(front, row(3, (0.0, 0.0), "failed"))
    assert [one["trial_number"] for one in front] == [1]


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii", "random", "qmc"])
def test_a_study_of_two_objectives_finds_its_front(line: Line, sampler: str) -> None:
    given = {"population_size": 4} if sampler == "nsgaii" else {}
    search = SearchSampler(sampler, KINDS[sampler].settings(**given))
    asked: dict[str, Any] = {"methods": ("vi",), "run_trial": costly_trial, "search": search}
    line.run(max_trials=7, objectives=BOTH, **asked)
    line.run(max_trials=12, objectives=BOTH, **asked)
    table = line.table
    points = [(told["error"], told["runtime_sec"]) for told in table.objectives]
    assert list(table.index[table.pareto.astype(bool)]) == front_of(points)
    assert (table.objective == [point[0] for point in points]).all()
    assert (table.runtime_sec == [point[1] for point in points]).all()
    best = yaml.safe_load(line.store.best.read_text())[line.problem.pid]["methods"]["vi"]
    assert {one["trial_number"] for one in best["pareto"]} == set(front_of(points))
    journal = JournalStorage(JournalFileBackend(str(line.store.journal(line.problem.pid, "vi"))))
    study = optuna.load_study(storage=journal, study_name=line.studies[0].name)
    assert {trial.number for trial in study.best_trials} == set(front_of(points))


def test_a_failed_trial_is_worst_in_every_objective(line: Line) -> None:
    line.run(methods=("vi",), max_trials=12, objectives=BOTH, run_trial=mixed_trial)
    table = line.table
    failed = table[table.status == "failed"]
    assert len(failed) and not table.pareto[failed.index].any()
    for number, told in zip(failed.trial_number, failed.objectives, strict=True):
        before = [o["runtime_sec"] for o in table.objectives[:number]]
        assert told["runtime_sec"] >= max(before, default=0.0) - 1e-9


def test_three_objectives_and_a_resumed_run_change_nothing(line: Line) -> None:
    names = ("error", "full_gradients", "se_hat")
    asked: dict[str, Any] = {"methods": ("sgld",), "run_trial": costly_trial, "objectives": names}
    line.run(**asked)
    first = line.table
    line.run(**asked)
    assert line.ran == []
    pd.testing.assert_frame_equal(first, line.table)
    assert all(set(told) == set(names) for told in first.objectives)


def test_metrics_and_the_pickled_study_have_all_objectives(line: Line) -> None:
    line.run(methods=("vi",), objectives=BOTH, run_trial=costly_trial)
    for path in line.store.artifacts.glob("runs/*/*/*/metrics.json"):
        metrics = json.loads(path.read_text())
        assert list(metrics["objectives"]) == sorted(BOTH)
        assert metrics["objective"] == metrics["objectives"]["error"]


def test_one_objective_has_no_front(line: Line) -> None:
    line.run(methods=("vi",))
    table = line.table
    assert table.pareto.isna().all() and table.within_max_seconds.isna().all()
    assert [told["error"] for told in table.objectives] == list(table.objective)


def test_the_best_is_within_the_seconds_that_are_given(line: Line) -> None:
    asked: dict[str, Any] = {"methods": ("vi",), "max_trials": 12, "run_trial": costly_trial}
    line.run(objectives=BOTH, **asked)
    table = line.table
    limit = float(table.runtime_sec.median())
    line.run(objectives=BOTH, max_seconds=limit, **asked)
    assert line.ran == []
    within = table[table.runtime_sec <= limit]
    best = yaml.safe_load(line.store.best.read_text())[line.problem.pid]["methods"]["vi"]
    picked = table.set_index("trial_number").loc[best["trial_number"]]
    assert picked.error == within.error.min() and picked.pareto
    again = read_trials(line.store.trials_table)
    titles = [drawing.title for drawing in draw_all(again)]
    assert "Pareto front" in titles


def test_where_nothing_is_fast_enough_it_is_said(line: Line) -> None:
    line.run(methods=("vi",), run_trial=costly_trial)
    outcome = line.run(methods=("vi",), run_trial=costly_trial, max_seconds=1e-6)
    assert "has no trial with an estimate within 1e-06 s" in outcome.failures[0]


def test_a_study_does_not_go_on_with_other_objectives(line: Line) -> None:
    line.run(methods=("vi",))
    line.run(methods=("vi",), objectives=BOTH)
    assert line.ran == []
    assert any("objectives was None" in change for change in line.studies[0].changes())


def write_config(folder: Path, **optuna_section: Any) -> Path:
    raw = {
        "problems": [{"model": "small"}],
        "methods": ["vi"],
        "optuna": {"max_trials": 6, "batch_size": 2, **optuna_section},
        "artifacts_dir": str(folder / "a"),
        "results_dir": str(folder / "r"),
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"objectives": ["error", "seconds"]}, "`objectives` must be one of error, full_gradients"),
        ({"objectives": ["runtime_sec", "error"]}, "must begin with error"),
        ({"objectives": ["error", "error"]}, "name each once"),
        ({"objectives": []}, "must begin with error"),
        ({"objectives": list(BOTH), "sampler": "cmaes"}, "must be one for the sampler cmaes"),
        ({"max_seconds": 0}, "`max_seconds > 0` must hold"),
    ],
)
def test_what_cannot_be_is_a_sentence(tmp_path: Path, section: dict, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_study_plan(write_config(tmp_path, **section), [], {})
    assert len(refused.value.faults) == 1 and said in refused.value.faults[0]


def test_the_command_shows_the_front_and_picks_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_instant_runners(monkeypatch)
    config = write_config(tmp_path, objectives=list(BOTH))
    assert parsl_optuna.main(["--config", str(config), "--local", "--max-seconds", "30"]) == 0
    said = capsys.readouterr().out
    assert "Pareto front of vi" in said and "objectives" in said and "within 30 s" in said
    assert "Pareto front" in (tmp_path / "r" / "report.html").read_text()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"study_name": "mine"}, "but holds 'mine'"),
        ({"direction": "maximize"}, "must have the directions minimize"),
        ({"directions": ["minimize", "minimize"]}, "but has minimize, minimize"),
    ],
)
def test_a_journal_made_by_hand_that_cannot_be_gone_on_with_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    made: dict,
    said: str,
) -> None:
    use_instant_runners(monkeypatch)
    config = write_config(tmp_path)
    plan = read_study_plan(config, [], {})
    pid = plan.problems[0].pid
    path = plan.store.journal(pid, "vi")
    path.parent.mkdir(parents=True)
    storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
    optuna.create_study(storage=storage, **{"study_name": f"{pid}:vi", **made})
    assert parsl_optuna.main(["--config", str(config), "--local"]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert said in shown and "Traceback" not in shown


def test_tables_of_an_earlier_version_are_read(line: Line) -> None:
    line.run(methods=("vi",))
    new = ("pareto", "within_max_seconds", "objectives")
    line.table.drop(columns=list(new)).to_parquet(line.store.trials_table)
    trials = read_trials(line.store.trials_table)
    assert len(trials) == 6 and trials.llc_ref.iloc[0] == LLC
    assert draw_all(trials)
    line.run(methods=("sgld",))
    assert len(line.table) == 12
