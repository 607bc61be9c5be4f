"""One setting for all problems: what a joint study asks, tells, keeps and names best."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import instant
import optuna
import pandas as pd
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from lambda_hat.entrypoints import parsl_llc, parsl_optuna
from lambda_hat.store import Store, write_json

REFERENCES = {"quadratic": 1.0, "normal_crossing": 10.0}
OPTUNA = {"joint": True, "max_trials": 6, "batch_size": 1, "confirm_seeds": 0}
CONFIG: dict[str, Any] = {
    "problems": [{"model": name, "data": "small"} for name in REFERENCES],
    "methods": ["sgld"],
    "optuna": OPTUNA,
}
DRIVER = """
import itertools, os, signal, sys
sys.path.insert(0, {tests!r})
import pytest, test_joint
from lambda_hat.entrypoints import parsl_optuna
from lambda_hat.tuning.journal import Journal

at, after = sys.argv[1], int(sys.argv[2])
patch = pytest.MonkeyPatch()
test_joint.use_fakes(patch)
patch.setattr(parsl_optuna, "write_report", lambda *args, **kwargs: None)
if at == "trial":
    os.environ["DIE_AFTER"] = str(after)
elif at != "never":
    function, calls = getattr(Journal, at), itertools.count(1)
    def dying(*args, **kwargs):
        result = function(*args, **kwargs)
        if next(calls) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(Journal, at, dying)
sys.exit(parsl_optuna.main(["--config", "config.yaml", "--local"]))
"""


def fake_reference(spec: dict, out: str, **kwargs: Any) -> dict:
    llc = REFERENCES[spec["model"]]
    reasons = ["R-hat is 1.4."] if spec.get("seed") else []
    ref = {"llc_ref": llc, "se_ref": 0.001 * llc, "reasons": reasons, "settings": {}}
    write_json(Path(out), found := {**ref, "status": "unreliable" if reasons else "ok"})
    return found


def fake_trial(spec: dict, method_cfg: dict, ref: float, out: str, **kwargs: Any) -> dict:
    """Off by a share that is least at another step on each problem; one fails at large ones."""
    meant = {"quadratic": -3.0, "normal_crossing": -5.0}[spec["model"]]
    share = 0.1 * abs(math.log10(method_cfg["eta0"]) - meant)
    result = {"status": "complete", "llc_hat": ref * (1 + share), "se_hat": 0.001 * ref}
    if spec["model"] == "normal_crossing" and method_cfg["eta0"] > 1e-3:
        result |= {"status": "failed", "llc_hat": None, "error_msg": "The loss is NaN."}
    result["hyperparams"] = {key: value for key, value in method_cfg.items() if key != "name"}
    with Path("ran.txt").open("a") as file:
        file.write(f"{spec['model']} {Path(out).parent.name}\n")
    write_json(Path(out), result := {**result, "runtime_sec": 0.1})
    if str(len(Path("ran.txt").read_text().splitlines())) == os.environ.get("DIE_AFTER"):
        os.kill(os.getpid(), signal.SIGKILL)
    return result


def use_fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(instant.FAKES, parsl_optuna.TRIAL_RUNNER, fake_trial)
    reference = "lambda_hat.runners.hmc_reference:run_hmc_reference"
    monkeypatch.setitem(instant.FAKES, reference, fake_reference)
    instant.use_instant_runners(monkeypatch)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    use_fakes(monkeypatch)
    return tmp_path


def run(folder: Path, *words: str, **changes: Any) -> int:
    config = {**CONFIG, **changes, "optuna": {**OPTUNA, **changes.get("optuna", {})}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return parsl_optuna.main(["--config", "config.yaml", "--local", *words])


def table(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "results" / "optuna_trials.parquet")


def best(folder: Path) -> list[dict[str, Any]]:
    content = yaml.safe_load((folder / "results" / "optuna_best.yaml").read_text())
    return [problem["methods"]["sgld"] for problem in content.values()]


def told(folder: Path) -> list[list[float]]:
    """What Optuna was told of each trial, by study."""
    found = []
    for path in Store.at("artifacts", folder / "results").journals():
        storage = JournalStorage(JournalFileBackend(str(path)))
        [name] = optuna.get_all_study_names(storage)
        trials = optuna.load_study(study_name=name, storage=storage).trials
        found.append([trial.value for trial in trials])
    return found


def test_each_joint_trial_runs_on_every_problem_and_optuna_is_told_the_mean(here: Path) -> None:
    assert run(here, optuna={"objective": "abs"}) == 0
    rows = table(here)
    assert list(rows.joint_trial) == list(rows.trial_number) == [*range(6), *range(6)]
    for _, trial in rows.groupby("joint_trial"):
        assert trial.problem.nunique() == trial.trial_id.nunique() == 2
        assert len({str(settings) for settings in trial.hyperparams}) == 1
        assert trial.objective.nunique() == 1
        if (trial.status == "complete").all() or (trial.status == "noisy").all():
            off = (trial.error / trial.llc_ref).mean()
            assert trial.objective.iloc[0] >= off - 1e-12
    first, second = told(here)
    assert first == second == list(rows.objective[:6])


def test_a_failure_on_one_problem_is_scored_as_its_worst(here: Path) -> None:
    space = {"sgld": {"eta0": {"low": 2e-3, "high": 5e-3}}}
    assert run(here, search_space=space) == 1  # Nothing but failures on the second problem.
    rows = table(here)
    failed = rows[rows.problem.str.startswith("normal_crossing")]
    assert (failed.status == "failed").all()
    assert rows.objective.notna().all() and (rows.objective > 0.5).all()


def test_the_best_is_one_setting_that_other_seeds_have_confirmed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(here, optuna={"confirm_seeds": 2, "max_trials": 12}) == 0
    one, other = best(here)
    assert one["hyperparams"] == other["hyperparams"]
    assert one["trial_number"] == other["trial_number"]
    assert one["joint"] and one["confirmed"]["num_runs"] == other["confirmed"]["num_runs"] == 2
    assert "12 of each method on all problems together" in capsys.readouterr().out
    assert parsl_llc.main(["--from", "results", "--local", "--dry-run"]) == 0
    assert "runs       8" in capsys.readouterr().out  # Four seeds on each of two problems.
    page = (here / "results" / "report.html").read_text()
    assert "Tuned on all problems together" in page
    assert "quadratic/small, normal_crossing/small" in page  # The winner of both, in one line.


def test_a_second_run_does_nothing_again_and_more_trials_go_on(here: Path) -> None:
    run(here)
    ran = (here / "ran.txt").read_text()
    run(here)
    assert (here / "ran.txt").read_text() == ran
    run(here, "--max-trials", "8")
    assert list(table(here).joint_trial) == [*range(8), *range(8)]
    assert len((here / "ran.txt").read_text().splitlines()) == 16


def drive(folder: Path, at: str, after: int = 0) -> None:
    """Runs the command in a process of its own, which is killed at that moment."""
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    code = DRIVER.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", code, at, str(after)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == (0 if at == "never" else -signal.SIGKILL), done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed run leaves."""
    folder = tmp_path_factory.mktemp("whole")
    drive(folder, "never")
    return folder


@pytest.mark.parametrize(
    ("at", "after"), [("trial", 4), ("trial", 5), ("restore", 3), ("tell", 5), ("tell", 6)]
)
def test_a_killed_driver_goes_on_with_nothing_lost_and_nothing_run_twice(
    tmp_path: Path, whole: Path, at: str, after: int
) -> None:
    drive(tmp_path, at, after)
    drive(tmp_path, "never")
    ran = (tmp_path / "ran.txt").read_text().splitlines()
    assert len(ran) == len(set(ran)) == 12
    assert told(tmp_path) == told(whole)
    columns = ["pid", "trial_number", "trial_id", "status", "objective"]
    pd.testing.assert_frame_equal(table(tmp_path)[columns], table(whole)[columns])


@pytest.mark.parametrize("lost", [0, 1])
def test_a_journal_that_has_lost_its_end_is_made_whole(here: Path, lost: int) -> None:
    run(here)
    ran, before, values = (here / "ran.txt").read_text(), table(here), told(here)
    journal = Store.at("artifacts", "results").journals()[lost]
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[: len(lines) // 2]))
    assert run(here) == 0
    assert (here / "ran.txt").read_text() == ran
    assert told(here) == values
    columns = ["pid", "trial_number", "trial_id", "objective"]
    pd.testing.assert_frame_equal(table(here)[columns], before[columns])


def test_without_one_reference_nothing_is_tuned(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = [{"model": "quadratic", "data": "small", "seed": 1}, *CONFIG["problems"]]
    assert run(here, problems=problems) == 1
    assert "optuna.joint needs every reference" in " ".join(capsys.readouterr().out.split())
    assert not (here / "ran.txt").exists()


def test_a_joint_study_is_not_gone_on_with_as_another(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(here)
    assert run(here, optuna={"joint": False}) == 2
    assert "joint was" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pruner": "median"}, "`joint` does not go with `pruner: median` (optuna)."),
        ({"objectives": ["error", "se_hat"]}, "does not go with `objectives` with several"),
        ({"huber_delta": 0.1}, "`joint` does not go with `objective: huber` (optuna)."),
        ({"max_seconds": 3, "convergence": {"patience": 2}}, "`max_seconds`, `convergence`"),
    ],
)
def test_what_a_joint_study_cannot_do_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], given: dict, said: str
) -> None:
    assert run(here, optuna=given) == 2
    assert said in capsys.readouterr().err
    assert not (here / "results").exists()


def test_one_problem_is_no_joint_study(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(here, problems=CONFIG["problems"][:1]) == 2
    assert "`joint` needs several problems, but got 1" in capsys.readouterr().err
