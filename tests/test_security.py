"""What a config, a damaged file or a neighbour on the network must not be able to do."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from instant import use_instant_runners

from lambda_hat.conf.checks import ConfigError
from lambda_hat.conf.compose import compose_problem
from lambda_hat.entrypoints import parsl_llc, parsl_optuna
from lambda_hat.execution import load_parsl_config
from lambda_hat.execution import local as built_in
from lambda_hat.execution.config import check_config, run_token
from lambda_hat.problems import load_or_build
from lambda_hat.references.checkpoint import load_checkpoint
from lambda_hat.runners.run_method import run_method_trial

ROOT = Path(__file__).resolve().parents[1]
PROBLEM = {"model": "quadratic"}
CONFIG = {"problems": [PROBLEM], "methods": ["vi"], "optuna": {"max_trials": 2, "confirm_seeds": 0}}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in, three levels down, so that what leaves it is seen."""
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    use_instant_runners(monkeypatch)
    return folder


def run(config: object, *options: str) -> int:
    Path("c.yaml").write_text(yaml.safe_dump(config))
    return parsl_optuna.main(["--config", "c.yaml", "--local", *options])


def outside(here: Path) -> list[Path]:
    top = here.parents[2]
    return [p for p in top.rglob("*") if p not in here.parents and not p.is_relative_to(here)]


# What is read is data.

FORBIDDEN = ("eval", "exec", "__import__", "os.system", "os.popen")
FORBIDDEN += ("pickle.load", "pickle.loads", "pickle.Unpickler")
OWN = {
    ("exec", "lambda_hat/plugin.py"),  # The user's own file.
    ("exec", "lambda_hat/api/own_classes.py"),  # A class of the user's session, in a worker.
    ("pickle.loads", "lambda_hat/problems/own_loss.py"),  # Bytes of the hash that the task names.
}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    for path in sorted((ROOT / "lambda_hat").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", ast.unparse(node.func), node


def test_nothing_is_unpickled_evaluated_or_given_to_a_shell() -> None:
    bad = []
    for place, name, call in calls():
        options = {option.arg: ast.unparse(option.value) for option in call.keywords}
        own = (name, place.partition(":")[0]) in OWN
        if (
            name in ("eval", "exec", "__import__", *FORBIDDEN) or name.startswith("dill.")
        ) and not own:
            bad.append(f"{place} {name}")
        if name == "np.load" and options.get("allow_pickle") != "False":
            bad.append(f"{place} {name} that unpickles")
        if name == "yaml.load" and ast.unparse(call.args[1]) != "_Loader":
            bad.append(f"{place} {name} that makes objects")
        if "shell" in options:
            bad.append(f"{place} {name} with a shell")
    assert not bad


class Bomb:
    """A pickle that leaves a trace when it is loaded."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple:
        return Path.touch, (self.trace,)


def test_a_planted_snapshot_is_written_over_and_not_loaded(here: Path) -> None:
    assert run(CONFIG) == 0
    (snapshot,) = Path("results").rglob("*.pkl")
    snapshot.write_bytes(pickle.dumps(Bomb(here / "trace")))
    assert run(CONFIG, "--max-trials", "3") == 0
    assert not (here / "trace").exists()
    assert len(pickle.loads(snapshot.read_bytes()).trials) == 3


def bomb_file(trace: Path, name: str, array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"bomb": np.array([Bomb(trace)], dtype=object), name: array}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_a_planted_target_is_built_again_and_not_loaded(tmp_path: Path) -> None:
    config, trace = compose_problem(PROBLEM), tmp_path / "trace"
    right = load_or_build(config, tmp_path)
    folder = tmp_path / "problems" / config.pid
    content = bomb_file(trace, "w_star", np.zeros(1))
    (folder / "target.npz").write_bytes(content)
    record = json.loads((folder / "target.json").read_text())
    record["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "target.json").write_text(json.dumps(record))
    assert (load_or_build(config, tmp_path).w_star == right.w_star).all()
    assert not trace.exists()


def test_a_planted_checkpoint_is_not_loaded(tmp_path: Path) -> None:
    content = bomb_file(tmp_path / "trace", "header", np.array("{}"))
    path = tmp_path / "hmc_chains.ckpt"
    path.write_bytes(hashlib.sha256(content).hexdigest().encode() + content)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load_checkpoint(path, identity="any")
    assert not (tmp_path / "trace").exists()


# Paths stay inside the chosen folders.

ESCAPES = ("../../out", "/tmp/out", "small/../../out", "small,+x=1", "$(touch out)", "")


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("key", ["model", "data", "teacher", "training", "posterior"])
def test_a_preset_is_a_name_and_no_path(here: Path, key: str, name: str) -> None:
    assert run({**CONFIG, "problems": [{**PROBLEM, key: name}]}) == 2
    assert outside(here) == [] and not Path("artifacts").exists()


@pytest.mark.parametrize("name", ESCAPES)
def test_a_method_is_a_name_and_no_path(here: Path, name: str) -> None:
    assert run({**CONFIG, "methods": [name]}) == 2
    assert run({**CONFIG, "search_space": {name: {}}}) == 2
    llc = {"problems": [PROBLEM], "samplers": [{"name": name}]}
    Path("llc.yaml").write_text(yaml.safe_dump(llc))
    assert parsl_llc.main(["--config", "llc.yaml", "--local"]) == 2
    metrics = run_method_trial(PROBLEM, {"name": name}, 1.0, "m.json", budget_sec=1.0)
    assert metrics["status"] == "failed" and "must be one of" in metrics["error_msg"]
    assert outside(here) == [] and [p.name for p in here.iterdir()].count("results") == 0


def test_a_run_writes_into_its_two_folders_only(here: Path) -> None:
    odd = "../c/a b; touch out $(touch out) 'x"
    assert run(CONFIG, "--results-dir", odd, "--artifacts-dir", "art: *") == 0
    assert sorted(path.name for path in here.iterdir()) == sorted(
        ["c.yaml", "a b; touch out $(touch out) 'x", "art: *"]
    )
    assert outside(here) == []


# Workers.


@pytest.mark.parametrize("kind", ["slurm", "pbs"])
def test_the_cluster_files_that_are_shipped_encrypt(kind: str) -> None:
    executors: list[Any] = list(load_parsl_config(ROOT / f"parsl_config_{kind}.py").executors)
    assert executors and all(executor.encrypted for executor in executors)


def test_traffic_without_encryption_stays_on_this_machine() -> None:
    config = load_parsl_config(Path(built_in.__file__))
    executor: Any = config.executors[0]
    assert executor.encrypted and executor.address == "127.0.0.1"
    executor.encrypted = False
    check_config(config, run_dir=Path("/tmp"), trial_sec=None)
    for address in ("0.0.0.0", "10.0.0.1", None):
        executor.address = address
        with pytest.raises(ConfigError, match="must have encrypted=True"):
            check_config(config, run_dir=Path("/tmp"), trial_sec=None)


@pytest.mark.parametrize("damaged", ["", "a", "0123456789ab\n", "*" * 12])
def test_a_damaged_token_is_replaced(tmp_path: Path, damaged: str) -> None:
    """What carries the token is ended: an empty one would be every process."""
    (tmp_path / "token").write_text(damaged)
    token = run_token(tmp_path)
    assert token != damaged and len(token) == 12 and token == run_token(tmp_path)
