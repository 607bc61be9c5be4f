"""Trials -> Confirmation: what the best settings of a study give under other seeds."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from instant import FAKES, use_instant_runners
from scipy.stats import ttest_ind

from lambda_hat.conf.compose import compose_sampler
from lambda_hat.entrypoints import parsl_optuna
from lambda_hat.store import write_json
from lambda_hat.tables.best import Winner, shortlist_of, winner_of
from lambda_hat.tables.confirmation import confirm
from lambda_hat.tables.trials import trial_row
from lambda_hat.trial import ProblemItem, Reference, TrialSpec
from lambda_hat.tuning.confirming import confirming_specs

PROBLEM = ProblemItem("p_1", {"model": "quadratic"}, "quadratic/small")
SETTINGS = {"lr": 1e-3, "M": 2, "steps": 3000}
RUN_TRIAL = "lambda_hat.runners.run_method:run_method_trial"


class Study:
    """A study of vi whose trials gave these LLCs against a reference of 5.0, the first the best."""

    problem, method, plugin = PROBLEM, "vi", None

    def __init__(self, *llcs: float) -> None:
        self.trials: list[dict[str, Any]] = []
        for number, llc in enumerate(llcs or (5.0,)):
            self.take({**SETTINGS, "M": 2 + number}, 7 + number, llc)

    def take(self, settings: dict[str, Any], seed: int, llc: float, **kwargs: float) -> None:
        self.trials.append(row(TrialSpec("p_1", {}, "vi", settings, seed, 30.0), llc, **kwargs))

    def rows(self) -> list[dict[str, Any]]:
        return self.trials

    @property
    def best(self) -> Any:
        return shortlist_of(self.trials).best[0]


def row(spec: TrialSpec, llc: float | None, se: float = 0.1, gradients: float = 1e4) -> dict:
    result = spec.failure("The losses diverged.", llc_ref=5.0, runtime_sec=3.0)
    if llc is not None:
        given = {"work": {"full_gradients": gradients}, "seconds": {"compile": 2.0}}
        result = replace(result, error_msg=None, **given).completed(llc, se)
    objective = None if llc is None else abs(llc - 5.0)
    reference = Reference(5.0, 0.02, "ok")
    return trial_row(spec, result, number=0, label="", objective=objective, reference=reference)


def runs_of(study: Study, *values: float | None, of: int = 0, **kwargs: float) -> list[dict]:
    """Runs with other seeds, of the `of`-th settings that are confirmed; -1 are the defaults."""
    specs = confirming_specs(study, len(values))
    settings = list({str(spec.hyperparams): spec.hyperparams for spec in specs}.values())
    mine = [spec for spec in specs if spec.hyperparams == settings[of]]
    return [row(spec, value, **kwargs) for spec, value in zip(mine, values, strict=True)]


def winner(study: Study, *runs: list[dict]) -> Winner:
    found = winner_of(shortlist_of(study.trials), [run for group in runs for run in group])
    assert found is not None
    return found


def test_the_best_three_and_the_defaults_run_whole_with_seeds_of_their_own() -> None:
    study = Study(5.0, 5.5, 5.2, 5.4)
    specs = confirming_specs(study, 3)
    assert len({spec.seed for spec in specs} | {7, 8, 9, 10}) == 12 + 4
    assert {spec.budget_sec for spec in specs} == {30.0}
    assert [spec.hyperparams["M"] for spec in specs[::3]] == [2, 4, 5, compose_sampler("vi").M]
    for spec in specs[:9]:
        assert spec.hyperparams["lr"] == SETTINGS["lr"] and spec.hyperparams["r"] >= 0
    assert specs[9].hyperparams == asdict(compose_sampler("vi"))
    assert confirming_specs(study, 0) == []
    failed = Study()
    failed.trials.clear()
    assert confirming_specs(failed, 3) == []


def test_defaults_that_are_among_the_best_run_once() -> None:
    study = Study()
    study.trials.clear()
    study.take(asdict(compose_sampler("vi")), 7, 5.0)
    assert len(confirming_specs(study, 3)) == 3
    found = winner(study, runs_of(study, 5.1, 5.2))
    assert found.is_default and found.gain is None and found.untuned == found.best.confirmation


def test_the_cheapest_that_is_surely_good_is_confirmed_too() -> None:
    study = Study(5.0, 5.01, 5.02)
    study.take({**SETTINGS, "M": 16}, 99, 5.1, se=0.02, gradients=10.0)
    study.take({**SETTINGS, "M": 8}, 98, 5.03, se=0.2, gradients=1.0)
    assert [spec.hyperparams["M"] for spec in confirming_specs(study, 1)[:4]] == [2, 3, 4, 16]
    offered = winner(study).cheapest
    assert offered is not None and offered.row["seed"] == 99
    runs = [runs_of(study, 5.0, 5.1, of=k, gradients=1e4) for k in range(3)]
    none = winner(study, *runs, runs_of(study, 5.4, 5.2, of=3, gradients=10.0)).cheapest
    assert none is None or none.row["seed"] != 99, "with other seeds it is not good"
    alike = [runs_of(study, 5.0, 5.01, of=k, se=0.02, gradients=1e4 - k) for k in range(3)]
    found = winner(study, *alike).cheapest
    assert found is not None and found.row["seed"] == 9
    assert (found.cost.full_gradients, found.cost.seconds, found.cost.compile_sec) == (9998, 1, 2)


def test_their_mean_and_its_error_are_what_they_say() -> None:
    study = Study()
    found = confirm(study.best, runs_of(study, 5.2, 5.6, None, 5.4))
    assert found is not None
    assert (found.num_runs, found.num_failed) == (4, 1)
    assert found.llc_hat == pytest.approx(5.4) and found.error == pytest.approx(0.4)
    assert found.errors == pytest.approx((0.2, 0.6, 0.4))
    assert found.rms_error == pytest.approx(math.sqrt((0.04 + 0.36 + 0.16) / 3))
    # Student's t with 2 degrees of freedom: 4.303 standard errors make 95 %.
    assert found.se_hat == pytest.approx(4.3027 / 1.96 * 0.2 / math.sqrt(3), rel=1e-4)
    alike = confirm(study.best, runs_of(study, 5.4, 5.4, 5.4, 5.4))
    assert alike is not None and alike.se_hat == pytest.approx(0.1 / 2), "the runs' own errors"


def test_the_interval_covers() -> None:
    chance, study, hits = np.random.default_rng(0), Study(), 0
    for _ in range(400):
        runs = runs_of(study, *chance.normal(4.0, 0.3, 3))
        found = confirm(study.best, runs)
        assert found is not None and found.llc_hat is not None and found.se_hat is not None
        hits += abs(found.llc_hat - 4.0) <= 1.96 * found.se_hat
    assert abs(hits / 400 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 400)


def test_only_runs_of_the_same_settings_count() -> None:
    study = Study()
    best = study.best
    (run,) = runs_of(study, 5.3)
    found = confirm(best, [run])
    assert found is not None and found.se_hat == 0.1
    given = {name: value for name, value in run["hyperparams"].items() if name != "num_samples"}
    earlier = confirm(best, [{**run, "hyperparams": given}])
    assert earlier == found, "an earlier version, or null in the table"
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


def test_luck_is_found_out() -> None:
    study = Study(5.0, 5.2, 5.3)
    lucky, steady = runs_of(study, 5.9, 4.1, 5.0), runs_of(study, 5.2, 5.15, 5.25, of=1)
    assert winner(study).best.row["error"] == 0.0
    assert winner(study, lucky).best.row["error"] == 0.0
    assert winner(study, lucky, steady).best.row["hyperparams"]["M"] == 3
    failing = runs_of(study, 5.0, None, 5.0)
    assert winner(study, failing, steady).best.row["hyperparams"]["M"] == 3
    assert winner(study, runs_of(study, None, None)).best.confirmation is not None


def test_runs_of_the_best_alone_do_not_have_it_lose_to_luck() -> None:
    study = Study(5.0, 5.2)
    best, lucky = runs_of(study, 5.02, 4.98), runs_of(study, 5.1, 4.9, of=1)
    alone = [{**run, "seed": 1000 + k, "llc_hat": 5.3} for k, run in enumerate(best * 2)]
    found = winner(study, best, lucky, alone).best
    assert found.row["hyperparams"]["M"] == 2, "parsl-llc --from ran it again, and only it"
    assert found.confirmation is not None and found.confirmation.num_runs == 6, "all are told"
    both = [{**run, "seed": 1000 + k, "llc_hat": 5.0} for k, run in enumerate(lucky * 2)]
    assert winner(study, best, lucky, alone, both).best.row["hyperparams"]["M"] == 3


def test_tuned_is_better_where_the_intervals_say_so_and_only_there() -> None:
    study = Study(5.0)
    tuned = runs_of(study, 5.02, 4.98, 5.05, 5.01)
    clearly = winner(study, tuned, runs_of(study, 5.5, 5.6, 5.4, 5.5, of=-1)).gain
    assert clearly is not None and clearly.verdict == "better"
    assert clearly.gain == pytest.approx(0.5 - 0.025)
    welch = ttest_ind([0.5, 0.6, 0.4, 0.5], [0.02, 0.02, 0.05, 0.01], equal_var=False)
    plain = welch.confidence_interval(0.95)
    assert (plain.high - plain.low) / 2 < clearly.margin < (plain.high - plain.low) / 2 + 0.02
    perhaps = winner(study, tuned, runs_of(study, 5.5, 4.9, 5.0, 5.1, of=-1)).gain
    assert perhaps is not None and perhaps.verdict == "unclear"
    worse = winner(study, runs_of(study, 5.5, 5.6, 5.4), runs_of(study, 5.0, 5.01, 5.0, of=-1))
    assert worse.gain is not None and worse.gain.verdict == "worse"
    assert winner(study, tuned, runs_of(study, 5.5, of=-1)).gain is None, "one run has no spread"


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
    assert "then the best three and the defaults with 8 other seeds" in said
    assert "Best settings with other seeds" in said
    assert len(pd.read_parquet("results/optuna_trials.parquet")) == 24
    runs = pd.read_parquet("results/llc_runs.parquet")
    assert runs.method.unique().tolist() == ["vi", "sgld"]
    assert runs.groupby("method").seed.nunique().tolist() == [32, 32]
    (best,) = yaml.safe_load(Path("results/optuna_best.yaml").read_text()).values()
    for entry in best["methods"].values():
        assert entry["error"] < 0.45 and abs(entry["confirmed"]["error"] - 0.5) < 0.1
        assert entry["tuned_is"] == "unclear" and entry["untuned"]["num_runs"] == 8
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
    assert "None of 2 other seeds gave an estimate" in Path("results/report.html").read_text()


CONFIG = """
problems: [{model: quadratic}, {model: linear}]
methods: [mclmc, sgld]
optuna: {enqueue_defaults: false}
"""
ARGV = ["--local", "--config", "c.yaml", "--max-trials", "4", "--batch-size", "1"]


def test_a_study_is_confirmed_as_soon_as_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its runs are submitted while other studies still have trials to come."""
    order: list[bool] = []

    def noticed(*args: Any, **kwargs: Any) -> dict:
        order.append("num_chains" in args[1])
        return seeded_trial(*args, **kwargs)

    monkeypatch.chdir(tmp_path)
    use_instant_runners(monkeypatch)
    monkeypatch.setattr("lambda_hat.execution.pool.name_of", lambda function: function)
    monkeypatch.setattr("lambda_hat.execution.pool.call", lambda f, args, kw: f(*args, **kw))
    monkeypatch.setitem(FAKES, RUN_TRIAL, noticed)
    Path("c.yaml").write_text(CONFIG)
    first = ["--set", "optuna.confirm_seeds=0", "--set", "methods=[mclmc]"]
    assert parsl_optuna.main([*ARGV, *first]) == 0
    assert len(order) == 8 and not any(order)
    assert not Path("results/llc_runs.parquet").exists()
    order.clear()
    assert parsl_optuna.main(ARGV) == 0
    assert sum(order) == 4 * 4 * 4 and len(order) == 8 + sum(order)
    assert False in order[order.index(True) :]
    assert "Tuned against untuned: unclear for" in Path("results/report.html").read_text()


def test_confirming_runs_go_on_where_a_kill_ended_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    count = []

    def killing(*args: Any, **kwargs: Any) -> dict:
        if "num_chains" in args[1]:
            count.append(args[1])
            if len(count) == 10:
                os.kill(os.getpid(), signal.SIGTERM)
        return seeded_trial(*args, **kwargs)

    monkeypatch.chdir(tmp_path)
    use_instant_runners(monkeypatch)
    monkeypatch.setattr("lambda_hat.execution.pool.name_of", lambda function: function)
    monkeypatch.setattr("lambda_hat.execution.pool.call", lambda f, args, kw: f(*args, **kw))
    monkeypatch.setitem(FAKES, RUN_TRIAL, killing)
    Path("c.yaml").write_text(CONFIG)
    assert parsl_optuna.main(ARGV) == 130
    first = len(count)
    assert first < 64 and not Path("results/report.html").exists()
    assert parsl_optuna.main(ARGV) == 0
    runs = pd.read_parquet("results/llc_runs.parquet")
    assert len(count) == 64 == len(runs) and runs.trial_id.is_unique
    assert runs.groupby(["pid", "method"], sort=False).size().tolist() == [16] * 4
