"""A user's own network: what it is, what is refused before anything starts, and what it answers."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import external_example
import jax
import numpy as np
import pytest

from lambda_hat.conf import ConfigError, compose_problem
from lambda_hat.entrypoints.labels import label_of
from lambda_hat.entrypoints.own_losses import check_own_losses
from lambda_hat.entrypoints.parsl_optuna import main
from lambda_hat.entrypoints.plans import read_study_plan
from lambda_hat.problems import ProblemRefused, build_problem, load_or_build
from lambda_hat.problems.own_loss import check_loss, flat, form_of
from lambda_hat.runners import run_method


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the example, to be spoilt."""
    return external_example.write(tmp_path / "own")


def refused(spec: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as refusal:
        compose_problem(spec)
    (fault,) = refusal.value.faults
    return fault


def in_folder(folder: Path, **changes: Any) -> dict[str, Any]:
    return external_example.spec(**{"path": str(folder), **changes})


def test_the_spelling_of_the_guide_is_the_same_problem():
    over = external_example.spec()["overrides"]
    assert compose_problem(over).pid == compose_problem(external_example.spec()).pid
    assert label_of(over) == "own_logistic:loss weights.npz data.npz model.polish=True"


def test_what_files_hold_makes_the_problem_and_not_where_they_lie(folder):
    first = compose_problem(external_example.spec()).pid
    assert compose_problem(in_folder(folder)).pid == first
    shutil.copy(folder / "weights.npz", folder / "renamed.npz")
    assert compose_problem(in_folder(folder, params="renamed.npz")).pid == first
    source = folder / "own_logistic.py"
    source.write_text(source.read_text() + "\n# A word more.\n")
    assert compose_problem(in_folder(folder)).pid != first


def test_two_folders_with_a_module_of_one_name_keep_their_own(folder, tmp_path):
    doubled = external_example.LOSS.replace("return jnp", "return 2 * jnp")
    other = external_example.write(tmp_path / "doubled", text=doubled)
    losses = [build_problem(compose_problem(in_folder(f))).init_loss for f in (folder, other)]
    assert losses[1] == pytest.approx(2 * losses[0], rel=1e-9)


def test_the_example_of_the_guide_is_a_minimum(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "own_network.md").read_text()
    blocks = dict(re.findall(r"```(?:python|yaml) title=\"(\S+)\"\n(.*?)```", page, re.S))
    for name, text in blocks.items():
        (tmp_path / name).write_text(text)
    subprocess.run([sys.executable, "make_files.py"], cwd=tmp_path, check=True)
    plan = read_study_plan(tmp_path / "own.yaml", [], {})
    problem = build_problem(compose_problem(plan.problems[0].spec))
    assert problem.evidence["status"] == "ok" and len(problem.w_star) == 13


def arrays(folder: Path, name: str, **changes: Any) -> None:
    """Writes a file of the example with some arrays changed; None leaves one out."""
    with np.load(folder / name) as file:
        given = {**{key: file[key] for key in file.files}, **changes}
    np.savez(folder / name, allow_pickle=False, **{k: v for k, v in given.items() if v is not None})


FILES = {
    "no file": (lambda f: (f / "weights.npz").unlink(), "there is no"),
    "no npz": (lambda f: (f / "weights.npz").write_text("w"), "weights.npz is none"),
    "NaN": (lambda f: arrays(f, "weights.npz", **{"layer/b": np.nan}), "1 values that are NaN"),
    "whole numbers": (lambda f: arrays(f, "weights.npz", k=np.arange(2)), "floating-point"),
    "text": (lambda f: arrays(f, "data.npz", x=np.array(["a"] * 30)), "of real numbers"),
    "other rows": (lambda f: arrays(f, "data.npz", x=np.zeros((29, 2))), "x [29, 2]"),
    "a scalar": (lambda f: arrays(f, "data.npz", x=np.float64(1)), "rows first"),
    "a path too long": (lambda f: arrays(f, "weights.npz", **{"layer/b/c": 1.0}), "below one"),
}


@pytest.mark.parametrize("fault", FILES)
def test_a_file_that_cannot_be_used_is_one_sentence(folder, fault):
    spoil, says = FILES[fault]
    spoil(folder)
    assert says in (said := refused(in_folder(folder))) and "\n" not in said


def test_settings_that_cannot_act_are_refused(folder):
    assert "Set `path:`" in refused(in_folder(folder, loss="no_such_module:loss"))
    assert "module:function" in refused(in_folder(folder, loss="own_logistic.loss"))
    assert "`n` must be left out" in refused(
        external_example.spec({"n": 5, "file": "data.npz"}, path=str(folder))
    )
    assert "`file` must be left out" in refused(
        {"model": "quadratic", "data": {"file": "data.npz"}}
    )
    assert "is both" in refused({"model": {}, "overrides": {"model": {}}})


LOSSES = {
    "the mean": ("return jnp.mean(loss(params, batch))", "one number a row"),
    "a column": ("return loss(params, batch)[:, None]", "returned shape [7, 1]"),
    "centred": ("return loss(params, batch) - loss(params, batch).mean()", "each row alone"),
    "drawn": (
        "import numpy as np; return loss(params, batch) + np.random.rand()",
        "the same again",
    ),
    "float32": ("return loss(params, batch).astype('float32')", "floating type"),
    "NaN": ("return jnp.sqrt(batch['x'][:, 0] - 1) + loss(params, batch)", "must be finite"),
    "a missing array": ("return batch['y'] * loss(params, batch)", "KeyError: 'y' (line"),
    "NumPy": (
        "import numpy as np; return jnp.asarray(np.abs(loss(params, batch)))",
        "TracerArrayConversionError",
    ),
}


@pytest.mark.parametrize("fault", LOSSES)
def test_a_loss_that_is_none_is_one_sentence(folder, fault):
    body, says = LOSSES[fault]
    text = external_example.LOSS + f"\ndef wrong(params, batch):\n    {body}\n"
    names: dict[str, Any] = {}
    path = folder / "wrong.py"
    path.write_text(text)
    exec(compile(text, str(path), "exec"), names)
    with np.load(folder / "data.npz") as file:
        data = {name: file[name] for name in file.files}
    params = {"layer": {"w": np.array([0.5, 0.1]), "b": np.array(-0.2)}}
    with pytest.raises(ConfigError) as refusal:
        check_loss(form_of(names["wrong"], params), data, flat(params), "wrong")
    (said,) = refusal.value.faults
    assert says in said and "\n" not in said


def test_batch_statistics_that_weights_of_zero_hide_are_found() -> None:
    def normed(params, batch):
        x = batch["x"] - batch["x"].mean(axis=0)
        return (x @ params["w"] - batch["y"]) ** 2

    rng = np.random.default_rng(0)
    data = {"x": rng.standard_normal((9, 2)), "y": rng.standard_normal(9)}
    params = {"w": np.zeros(2)}
    with pytest.raises(ConfigError, match="each row alone"):
        check_loss(form_of(normed, params), data, flat(params), "normed")


def test_a_bad_loss_ends_the_command_before_anything_starts(folder, monkeypatch, capsys):
    bad = "\ndef bad(params, batch):\n    print('hello')\n    return loss(params, batch).mean()\n"
    source = folder / "own_logistic.py"
    source.write_text(source.read_text() + bad)
    (folder / "study.yaml").write_text(
        textwrap.dedent("""
            problems:
              - model: {family: external, loss: "own_logistic:bad", params: weights.npz}
                data: {file: data.npz}
            methods: [sgld]
        """)
    )
    monkeypatch.chdir(folder.parent)
    assert main(["--config", "own/study.yaml", "--local"]) == 2
    said = capsys.readouterr().err.strip()
    assert "own_logistic:bad must return one number a row" in said and "\n" not in said
    assert not (folder.parent / "artifacts").exists()


def test_a_module_that_cannot_be_imported_says_where(folder):
    (folder / "own_logistic.py").write_text("import nothing_of_that_name\n")
    (said,) = check_own_losses([in_folder(folder)])
    assert "nothing_of_that_name" in said and "line 1 of" in said


def test_a_point_that_is_no_minimum_is_refused_with_numbers(folder, tmp_path):
    config = compose_problem(in_folder(folder, polish=False))
    with pytest.raises(ProblemRefused, match=r"shift bias of at most .* but it is .*polish: true"):
        load_or_build(config, tmp_path)
    polished = load_or_build(compose_problem(in_folder(folder)), tmp_path)
    assert polished.evidence["status"] == "ok" and polished.evidence["polish_moved"] > 1


def test_a_worker_runs_a_trial_from_the_files(folder, tmp_path):
    spec = in_folder(folder)
    out = tmp_path / "metrics.json"
    settings = {"name": "hmc", "steps": 1500, "num_warmup": 500}
    with jax.enable_x64(False):
        metrics = run_method.run_method_trial(
            spec, settings, None, str(out), budget_sec=120, seed=0, artifacts_dir=str(tmp_path)
        )
    assert metrics["status"] in ("complete", "noisy"), metrics["error_msg"]
    assert metrics["llc_hat"] > 0 and math.isfinite(json.loads(out.read_text())["se_hat"])
