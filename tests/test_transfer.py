"""Claims about winners on other problems: what runs, what is told of it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml
from instant import use_instant_runners

from lambda_hat.entrypoints import parsl_llc, parsl_optuna
from lambda_hat.tables.reading import read_table
from lambda_hat.tables.transfer import Tuned, transfers

STUDY = {
    "problems": [{"model": "quadratic"}, {"model": "linear"}],
    "methods": ["vi", "sgld"],
    "optuna": {"max_trials": 3, "confirm_seeds": 2, "enqueue_defaults": False, "method_budget": 50},
}

LLC = Path("results/llc_runs.parquet")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a study that has ended."""
    monkeypatch.chdir(tmp_path)
    use_instant_runners(monkeypatch)
    Path("study.yaml").write_text(yaml.safe_dump(STUDY))
    assert parsl_optuna.main(["--local", "--config", "study.yaml"]) == 0
    return tmp_path


def winners() -> dict[str, dict[str, dict]]:
    best = yaml.safe_load(Path("results/optuna_best.yaml").read_text())
    return {pid: entry["methods"] for pid, entry in best.items()}


def test_winners_run_on_each_others_problems(capsys: pytest.CaptureFixture[str]) -> None:
    before = pd.read_parquet("results/llc_runs.parquet")
    assert parsl_llc.main(["--local", "--from", "results"]) == 0
    out = capsys.readouterr().out
    runs = pd.read_parquet("results/llc_runs.parquet")
    new = runs[~runs.trial_id.isin(before.trial_id)]
    assert len(new) == 2 * 4 * 4 and set(new.budget_sec) == {50.0}
    assert sorted(new.seed.unique()) == [0, 1, 2, 3]
    own = str(new.pid.iloc[0])
    rows = [row for row in read_table(LLC) if row["trial_id"] in set(new.trial_id)]
    for name, entry in winners()[own].items():
        elsewhere = [row for row in rows if row["method"] == name and row["pid"] != own]
        asked = [
            row["hyperparams"] | entry["hyperparams"] == row["hyperparams"] for row in elsewhere
        ]
        assert sum(asked) == 4
    assert "Winners on each problem: relative error" in out and "+7.7 % ± " in out
    assert "Winners on each problem" in Path("results/report.html").read_text()


def test_an_exported_file_runs_on_new_problems(here: Path) -> None:
    Path("best.yaml").write_text(Path("results/optuna_best.yaml").read_text())
    Path("new.yaml").write_text("problems: [{model: normal_crossing}]")
    words = ["--local", "--from", "best.yaml", "--config", "new.yaml", "--results-dir", "new"]
    assert parsl_llc.main(words) == 0
    runs = pd.read_parquet("new/llc_runs.parquet")
    assert len(runs) == 4 * 4 and runs.pid.nunique() == 1
    assert runs.pid.iloc[0] not in winners()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere", "there is no nowhere"),
        ("study.yaml", "study.yaml is none"),
        ("empty.yaml", "has none"),
        ("best.yaml", "has none of"),
    ],
)
def test_what_has_no_winners_is_refused(
    source: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty.yaml").write_text("{}")
    Path("best.yaml").write_text(Path("results/optuna_best.yaml").read_text())
    assert parsl_llc.main(["--local", "--from", source, "--artifacts-dir", "elsewhere"]) == 2
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err


def test_the_mean_has_its_interval_and_failures_are_counted() -> None:
    winner = Tuned("vi", "p_1", "one", {"lr": 0.1})
    run = {"method": "vi", "hyperparams": {"lr": 0.1}, "llc_ref": 5.0, "se_ref": 0.0}
    values = [("p_1", 5.0), ("p_2", 5.5), ("p_2", 5.3), ("p_2", None), ("p_3", None)]
    runs = [
        {**run, "pid": pid, "problem": pid[-1], "llc_hat": llc}
        | {"status": "complete" if llc else "failed"}
        for pid, llc in values
    ]
    found = transfers([winner], [*runs, {**runs[1], "hyperparams": {"lr": 0.2}}])
    assert found is not None and found.problems == ("1", "2", "3")
    ((_, cells),) = found.rows
    assert [(c.num_runs, c.num_failed) for c in cells if c] == [(1, 0), (3, 1), (1, 1)]
    assert cells[1] is not None and cells[1].error == pytest.approx(0.08)
    assert cells[1].margin == pytest.approx(12.706 * 0.02, rel=1e-3)  # Student's t, two runs.
    assert transfers([winner], runs[:1]) is None
