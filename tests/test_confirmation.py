"""Trials -> Confirmation: what the best settings of a study give under other seeds."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from instant import FAKES, use_instant_runners

from lambda_hat.entrypoints import parsl_optuna
from lambda_hat.store import write_json
from lambda_hat.tables.confirmation import confirm
from lambda_hat.tables.trials import trial_row
from lambda_hat.trial import ProblemItem, Reference, TrialSpec
from lambda_hat.tuning.confirming import confirming_specs
from lambda_hat.tuning.progress import StudyProgress

PROBLEM = ProblemItem("p_1", {"model": "quadratic"}, "quadratic/small")
SETTINGS = {"lr": 1e-3, "M": 2, "steps": 3000}
RUN_TRIAL = "lambda_hat.runners.run_method:run_method_trial"


class Study:
    """A study whose best trial gave 5.0 against a reference of 5.0."""

    problem, method, plugin = PROBLEM, "vi", None

    def __init__(self) -> None:
        self.progress = StudyProgress()
        self.progress.take(row(TrialSpec("p_1", {}, "vi", SETTINGS, 7, 30.0), 5.0))


def row(spec: TrialSpec, llc: float | None, se: float = 0.1) -> dict[str, Any]:
    result = spec.failure("The losses diverged.", llc_ref=5.0)
    if llc is not None:
        result = replace(result, error_msg=None).completed(llc, se)
    objective = None if llc is None else abs(llc - 5.0)
    reference = Reference(5.0, 0.02, "ok")
    return trial_row(spec, result, number=0, label="", objective=objective, reference=reference)


def runs_of(study: Study, *values: float | None) -> list[dict[str, Any]]:
    (specs,) = confirming_specs([study], len(values)).values()
    return [row(spec, value) for spec, value in zip(specs, values, strict=True)]


def test_the_best_settings_run_whole_with_seeds_of_their_own() -> None:
    study = Study()
    (specs,) = confirming_specs([study, study], 3).values()
    assert len({spec.seed for spec in specs} | {7}) == 4
    assert {spec.budget_sec for spec in specs} == {30.0}
    for spec in specs:
        assert spec.hyperparams.items() >= SETTINGS.items() and spec.hyperparams["r"] >= 0
    assert confirming_specs([], 3) == {}


def test_their_mean_and_its_error_are_what_they_say() -> None:
    study = Study()
    assert study.progress.best is not None
    found = confirm(study.progress.best, runs_of(study, 5.2, 5.6, None, 5.4))
    assert found is not None
    assert (found.num_runs, found.num_failed) == (4, 1)
    assert found.llc_hat == pytest.approx(5.4) and found.error == pytest.approx(0.4)
    # Student's t with 2 degrees of freedom: 4.303 standard errors make 95 %.
    assert found.se_hat == pytest.approx(4.3027 / 1.96 * 0.2 / math.sqrt(3), rel=1e-4)
    alike = confirm(study.progress.best, runs_of(study, 5.4, 5.4, 5.4, 5.4))
    assert alike is not None and alike.se_hat == pytest.approx(0.1 / 2), "the runs' own errors"


def test_the_interval_covers() -> None:
    chance, study, hits = np.random.default_rng(0), Study(), 0
    assert study.progress.best is not None
    for _ in range(400):
        runs = runs_of(study, *chance.normal(4.0, 0.3, 3))
        found = confirm(study.progress.best, runs)
        assert found is not None and found.llc_hat is not None and found.se_hat is not None
        hits += abs(found.llc_hat - 4.0) <= 1.96 * found.se_hat
    assert abs(hits / 400 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 400)


def test_only_runs_of_the_same_settings_count() -> None:
    study = Study()
    best = study.progress.best
    assert best is not None
    (run,) = runs_of(study, 5.3)
    found = confirm(best, [run])
    assert found is not None and found.se_hat == 0.1
    others: list[dict[str, Any]] = [
        {"seed": best["seed"]},
        {"budget_sec": 60.0},
        {"method": "sgld"},
        {"pid": "p_2"},
        {"hyperparams": {**run["hyperparams"], "num_samples": 99}},
    ]
    for other in others:
        assert confirm(best, [{**run, **other}]) is None
    (failed,) = runs_of(study, None)
    nothing = confirm(best, [failed])
    assert nothing is not None and (nothing.num_failed, nothing.llc_hat) == (1, None)


def seeded_trial(spec: dict, method_cfg: dict, ref: float, out: str, **kwargs: Any) -> dict:
    """The estimate depends on the seed alone, so that the best trial is the luckiest."""
    llc = ref + 0.5 + 0.1 * math.sin(kwargs["seed"])
    metrics = {"status": "complete", "llc_hat": llc, "se_hat": 0.05, "runtime_sec": 0.1}
    metrics["hyperparams"] = {key: v for key, v in method_cfg.items() if key != "name"}
    write_json(Path(out), metrics)
    return metrics


def test_a_study_is_confirmed_once_and_the_luck_of_its_best_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    use_instant_runners(monkeypatch)
    monkeypatch.setitem(FAKES, RUN_TRIAL, seeded_trial)
    config = {"problems": [{"model": "quadratic"}], "methods": ["vi", "sgld"]}
    config["optuna"] = {"max_trials": 12, "batch_size": 4, "confirm_seeds": 8}  # type: ignore[assignment]
    Path("c.yaml").write_text(yaml.safe_dump(config))
    assert parsl_optuna.main(["--local", "--config", "c.yaml"]) == 0
    said = capsys.readouterr().out
    assert "then the best with 8 other seeds" in said
    assert "Best settings with other seeds" in said
    assert len(pd.read_parquet("results/optuna_trials.parquet")) == 24
    runs = pd.read_parquet("results/llc_runs.parquet")
    assert runs.groupby("method").seed.nunique().tolist() == [8, 8]
    (best,) = yaml.safe_load(Path("results/optuna_best.yaml").read_text()).values()
    for entry in best["methods"].values():
        assert entry["error"] < 0.42 and abs(entry["confirmed"]["error"] - 0.5) < 0.1
        assert (entry["confirmed"]["num_runs"], entry["confirmed"]["num_failed"]) == (8, 0)
    assert "with 8 other seeds" in Path("results/report.html").read_text()

    monkeypatch.setitem(FAKES, RUN_TRIAL, "must not run")
    before = {path: path.stat().st_mtime_ns for path in Path("results").glob("*.*")}
    assert parsl_optuna.main(["--local", "--config", "c.yaml"]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_run_that_fails_under_another_seed_is_a_finding_and_no_failure_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fragile(*args: Any, **kwargs: Any) -> dict:
        metrics = seeded_trial(*args, **kwargs)
        if "num_chains" in metrics["hyperparams"]:  # All settings: a run that confirms.
            metrics |= {"status": "failed", "llc_hat": None, "error_msg": "It diverged."}
            write_json(Path(args[3]), metrics)
        return metrics

    monkeypatch.chdir(tmp_path)
    use_instant_runners(monkeypatch)
    monkeypatch.setattr("lambda_hat.execution.pool.name_of", lambda function: function)
    monkeypatch.setattr("lambda_hat.execution.pool.call", lambda f, args, kw: f(*args, **kw))
    monkeypatch.setitem(FAKES, RUN_TRIAL, fragile)
    Path("c.yaml").write_text("{problems: [{model: quadratic}], methods: [sgld]}")
    sets = ["--max-trials", "3", "--set", "optuna.confirm_seeds=2"]
    assert parsl_optuna.main(["--local", "--config", "c.yaml", *sets]) == 0
    assert "2 (2 failed)" in capsys.readouterr().out
    assert "none of 2 other seeds gave an estimate" in Path("results/report.html").read_text()
