"""The Python API: what it is given is told by content, and what it gives is what commands write."""

from __future__ import annotations

import importlib
import itertools
import linecache
import math
import re
import subprocess
import sys
import textwrap
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from instant import use_instant_runners

import lambda_hat as lh
from lambda_hat.api.content import Content
from lambda_hat.conf import compose_problem
from lambda_hat.problems.exact import quadratic_llc
from lambda_hat.problems.own_loss import import_loss
from lambda_hat.store import read_json

QUADRATIC = {"model": "quadratic"}
CURVATURE = (2.0, 1.0, 0.5)
LOSS = """
    import jax.numpy as jnp

    def loss(params, batch):
        return 0.5 * jnp.sum(batch["h"] * params["w"] ** 2, axis=1)
"""
_cells = itertools.count()


def cell(text: str, **names: Any) -> dict[str, Any]:
    """Runs a cell of a notebook, which has `names`; returns what there is then."""
    text = textwrap.dedent(text)
    file = f"<cell-{next(_cells)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    namespace = {"__name__": "__main__", **names}
    exec(compile(text, file, "exec"), namespace)
    return namespace


def content(text: str, **names: Any) -> str:
    return Content("The loss").digest(cell(text, **names)["loss"])


def own(folder: Path, **changes: Any) -> lh.Problem:
    """A quadratic, as a loss of one's own, whose LLC is known."""
    given: dict[str, Any] = {
        "loss": cell(LOSS)["loss"],
        "params": {"w": np.zeros(3)},
        "data": {"h": np.tile(np.asarray(CURVATURE), (200, 1))},
        "gamma": 1.0,
        "artifacts": folder,
    }
    return lh.problem(**{**given, **changes})


def refused(folder: Path, **changes: Any) -> str:
    with pytest.raises(ValueError) as refusal:
        own(folder, **changes)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


# Importing.


def test_the_package_is_imported_in_no_time_and_without_jax() -> None:
    code = (
        "import sys, time; began = time.process_time(); import lambda_hat as lh; lh.__all__;"
        "print(time.process_time() - began, 'jax' in sys.modules);"
        "lh.tune; print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *jax = done.stdout.split()
    assert float(seconds) < 0.3 and jax == ["False", "False"]


def test_its_names_are_there_and_no_others() -> None:
    assert set(lh.__all__) <= set(dir(lh)) and all(hasattr(lh, name) for name in lh.__all__)
    with pytest.raises(AttributeError, match="no attribute 'llc_of'"):
        lh.llc_of  # noqa: B018


# What a function is.

HELPED = """
    def scaled(x):
        return scale * x

    def loss(params, batch):
        x = batch["x"]
        return scaled(x)
"""


def test_a_function_is_its_text_and_what_it_refers_to() -> None:
    first = content(HELPED, scale=2.0)
    assert content(HELPED, scale=2.0) == first
    assert content(HELPED, scale=2.0, x=np.ones(3), other=1) == first
    assert content(HELPED, scale=3.0) != first
    assert content(HELPED.replace("scale * x", "scale + x"), scale=2.0) != first
    assert content(HELPED, scale=np.float32(2.0)) != first


def test_a_function_of_a_function_is_told_by_what_it_holds() -> None:
    maker = (
        "def make(k):\n    def loss(p, b):\n        return k * b\n    return loss\nloss = make({})"
    )
    assert content(maker.format(1)) == content(maker.format(1)) != content(maker.format(2))


def test_a_function_and_a_class_that_refer_to_themselves_have_an_end() -> None:
    text = """
        class Net:
            def __call__(self, x, n={}):
                return x if n == 0 else Net()(x, n - 1)

        def loss(params, batch):
            return Net()(batch) + (loss(params, batch) if params is None else 0)
    """
    assert content(text.format(1)) == content(text.format(1)) != content(text.format(2))


def test_what_is_told_by_nothing_is_refused(tmp_path: Path) -> None:
    body = "def loss(params, batch):\n    lock.acquire()"
    said = refused(tmp_path, loss=cell(body, lock=threading.Lock())["loss"])
    assert "'lock', a lock" in said and "put the function into a module" in said
    typed: dict[str, Any] = {"__name__": "__main__"}
    exec("def loss(params, batch): return batch['h'][:, 0]", typed)
    assert "what was given has 0 [9, 2], 1 [8] (data)" in refused(
        tmp_path, data=(np.zeros((9, 2)), np.zeros(8))
    )
    assert "but this one was typed in" in refused(tmp_path, loss=typed["loss"])


SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
import lambda_hat as lh
from lambda_hat.entrypoints.own_losses import check_own_losses

@jax.tree_util.register_dataclass
@__import__("dataclasses").dataclass
class Net:
    w: jax.Array

    def __call__(self, x):
        return x @ self.w

def loss(net, batch):
    x, y = batch
    return (net(x) - y) ** 2

x = np.arange(12.0).reshape(6, 2)
problem = lh.problem(loss=loss, params=Net(jnp.ones(2)), data=(x, x.sum(1)), artifacts="a")
print(problem.pid)
"""
IN_A_WORKER = "print(check_own_losses([problem.item.spec]))\n"


def test_a_network_of_a_script_is_the_same_problem_again_and_runs_in_a_worker(
    tmp_path: Path,
) -> None:
    (tmp_path / "train.py").write_text(SCRIPT + IN_A_WORKER)
    (tmp_path / "again.py").write_text("# The same in another file, lower down.\n" + SCRIPT)
    first, again = (
        subprocess.run(
            [sys.executable, name], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.split()
        for name in ("train.py", "again.py")
    )
    assert first == [*again, "[]"]


def test_a_file_that_was_changed_is_not_unpickled(tmp_path: Path) -> None:
    problem = own(tmp_path)
    (file,) = (tmp_path / "own").glob("*.pkl")
    import_loss.__globals__["_unpickled"].cache_clear()
    file.write_bytes(b"cos\nsystem\n(S'echo'\ntR.")
    with pytest.raises(lh.ConfigError, match="is missing or another. Make the problem again"):
        import_loss(problem.config.model)


# Mistakes.


def test_a_mistake_is_one_sentence(tmp_path: Path) -> None:
    rows = {"h": np.ones((7, 3))}
    assert "no loss and no params" in refused(tmp_path, loss=None, params=None)
    assert "got both" in refused(tmp_path, spec=QUADRATIC)
    assert "must be a function" in refused(tmp_path, loss=3)
    assert "'f' of `params` is 'loss', a function. Take its arrays out" in refused(
        tmp_path, params={"w": np.zeros(3), "f": cell(LOSS)["loss"]}
    )
    assert "'w' is int64" in refused(tmp_path, params={"w": np.zeros(3, int)})
    assert "must hold arrays" in refused(tmp_path, params={})
    assert "NaN or infinite" in refused(tmp_path, params={"w": np.array([1.0, np.nan, 0.0])})
    assert "its rows first" in refused(tmp_path, data=(rows["h"], np.ones(6)))
    assert "gamma > 0" in refused(tmp_path, gamma=-1.0)
    mean = LOSS.replace("jnp.sum(", "jnp.mean(").replace(", axis=1", "")
    assert "one number a row" in refused(tmp_path, loss=cell(mean)["loss"])


def test_settings_that_are_none_are_refused_by_name(tmp_path: Path) -> None:
    problem = lh.problem(QUADRATIC, artifacts=tmp_path)
    for wrong in (
        lambda: lh.reference(problem, budget=-1),
        lambda: lh.reference(problem, budget=math.inf),
        lambda: lh.reference(problem, method="nuts"),
        *(partial(lh.reference, problem, seed=seed) for seed in ("1", 1.5, -1, True, 2**63)),
        lambda: lh.reference(problem.config),  # type: ignore[arg-type]
        lambda: lh.estimate(problem, "sgld", seed=-1),
        lambda: lh.estimate("problem", "sgld"),  # type: ignore[arg-type]
        lambda: lh.estimate(problem, "sgld", reference=5.0),  # type: ignore[arg-type]
        lambda: lh.tune(problem, 3, results=tmp_path),  # type: ignore[arg-type]
        lambda: lh.tune(problem, ["sgld"], reference=5.0),  # type: ignore[arg-type]
        lambda: lh.tune(None, ["sgld"], results=tmp_path),  # type: ignore[arg-type]
        lambda: lh.tune(problem, ["sgld"], results=3),  # type: ignore[arg-type]
        lambda: lh.problem(QUADRATIC, artifacts=3),  # type: ignore[arg-type]
        lambda: lh.read_trials(3),  # type: ignore[arg-type]
        lambda: lh.estimate(problem, "sgdl"),
        lambda: lh.estimate(problem, "sgld", step=1),
        lambda: lh.tune(problem, ["hmc"], results=tmp_path),
        lambda: lh.tune(problem, ["sgld"], trials=0, results=tmp_path),
        lambda: lh.read_trials(tmp_path),
    ):
        with pytest.raises(ValueError) as refusal:
            wrong()
        assert "must" in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("apart", "said"),
    [
        ({"gamma": 3.0}, {"overrides": {"posterior": {"gamma": 3.0}}}),
        ({"beta0": 2.0, "seed": 1}, {"seed": 1, "overrides": {"posterior": {"beta0": 2.0}}}),
        ({"polish": True}, {"overrides": {"model": {"polish": True}}}),
    ],
)
def test_what_is_given_beside_a_spec_is_not_passed_over(
    tmp_path: Path, apart: dict[str, Any], said: dict[str, Any]
) -> None:
    with pytest.raises(lh.ConfigError, match=re.escape(f"Add to it: {said}.")):
        lh.problem(QUADRATIC, artifacts=tmp_path, **apart)


def test_no_problem_is_judged_by_the_reference_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_instant_runners(monkeypatch)
    of, other = (lh.problem({**QUADRATIC, "seed": k}, artifacts=tmp_path) for k in (0, 1))
    reference = lh.reference(of)
    for call in (
        lambda: lh.estimate(other, "sgld", reference=reference),
        lambda: lh.tune(other, "sgld", reference=reference, results=tmp_path / "r"),
    ):
        with pytest.raises(lh.ConfigError, match=f"must be of the same problem, .* {of.pid}"):
            call()


def test_a_point_that_is_no_minimum_is_refused_with_numbers(tmp_path: Path) -> None:
    problem = own(tmp_path, params={"w": np.ones(3)})
    with pytest.raises(ValueError, match=r"shift bias of at most .* but it is .*polish: true"):
        lh.reference(problem)
    said = lh.estimate(problem, "sgld", steps=100)
    assert said.llc is None and "shift bias" in str(said)


# What comes out.


def test_a_spec_is_the_problem_of_the_commands(tmp_path: Path) -> None:
    spec = {"model": "small", "data": "small", "seed": 1}
    assert lh.problem(spec, artifacts=tmp_path).pid == compose_problem(spec).pid


def test_a_loss_of_ones_own_has_the_exact_llc(tmp_path: Path) -> None:
    problem = own(tmp_path)
    exact = quadratic_llc(np.asarray(CURVATURE), problem.config.nbeta, 1.0)
    reference = lh.reference(problem, budget=120, method="hmc")
    assert reference.status == "ok" and all(gate.passed for gate in reference.gates)
    assert reference.llc is not None and reference.se is not None
    assert abs(reference.llc - exact) < 4 * reference.se
    estimate = lh.estimate(problem, "sgld", steps=4000, num_chains=4, reference=reference)
    assert estimate.llc is not None and estimate.se is not None
    assert abs(estimate.llc - exact) < 4 * estimate.se + 0.05 * exact
    assert f"{problem.pid}: LLC" in str(estimate) and "ok>" in str(reference)


def test_arviz_gives_the_numbers_of_a_reference_and_of_an_estimate(tmp_path: Path) -> None:
    problem = lh.problem(QUADRATIC, artifacts=tmp_path)
    reference = lh.reference(problem, budget=60, method="hmc")
    told = summary(reference.to_arviz())
    known = reference.result.diagnostics
    assert told["mean"] == pytest.approx(reference.llc, rel=1e-9)
    assert told["r_hat"] == pytest.approx(known["rhat"], rel=1e-6)
    assert told["ess_bulk"] == pytest.approx(known["ess_bulk"], rel=1e-3)
    estimate = lh.estimate(problem, "mclmc", steps=2000)
    assert summary(estimate.to_arviz())["r_hat"] == pytest.approx(
        estimate.diagnostics["rhat"], rel=1e-4
    )


def summary(draws: Any) -> dict[str, float]:
    """What ArviZ says of the LLC, unrounded."""
    table = importlib.import_module("arviz").summary(draws, var_names=["llc"], round_to="none")
    return {str(name): float(table.loc["llc", name]) for name in table.columns}


def test_draws_that_were_not_kept_are_a_sentence(tmp_path: Path) -> None:
    failed = lh.estimate(lh.problem(QUADRATIC, artifacts=tmp_path), "sgld", eta0=1e9, steps=100)
    assert failed.llc is None
    with pytest.raises(FileNotFoundError, match="What failed has none"):
        failed.to_arviz()


def test_methods_are_taken_as_a_table_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_instant_runners(monkeypatch)
    problem = lh.problem(QUADRATIC, artifacts=tmp_path / "a")
    given = {"trials": 2, "confirm_seeds": 0, "accept_unreliable": True}
    for methods in ("sgld", ("sgld",), pd.Series(["sgld"]).unique(), {"sgld": 1}.keys()):
        study = lh.tune(problem, methods, results=tmp_path / "r", **given)  # type: ignore
        assert study.methods == ("sgld",) and len(study.trials) == 2


def test_what_is_stored_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = lh.problem(QUADRATIC, artifacts=tmp_path)
    first = lh.estimate(problem, "sgld", steps=500)
    assert first.result == lh.estimate(problem, "sgld", steps=500).result
    (metrics,) = (tmp_path / "runs" / problem.pid / "sgld").glob("*/metrics.json")
    assert read_json(metrics)["llc_hat"] == first.llc


def test_tuning_is_what_the_command_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_instant_runners(monkeypatch)
    problem = lh.problem(QUADRATIC, artifacts=tmp_path / "a")
    study = lh.tune(problem, ["sgld", "mclmc"], trials=3, results=tmp_path / "r")
    assert set(study.best) == {"sgld", "mclmc"} and not study.failures
    assert study.best["sgld"]["error"] == pytest.approx(0.1)
    assert study.trials.groupby("method").size().to_dict() == {"sgld": 3, "mclmc": 3}
    assert len(lh.read_trials(tmp_path / "r")) == 6 and "error 0.1" in str(study)
    assert study.report() == tmp_path / "r" / "report.html"
    again = lh.tune(problem, "sgld", trials=4, results=tmp_path / "r")
    assert len(again.trials) == 4


def test_an_unreliable_reference_is_not_tuned_against(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_instant_runners(monkeypatch)
    problem = lh.problem({**QUADRATIC, "seed": 1}, artifacts=tmp_path / "a")
    with pytest.raises(lh.NotTuned, match="its reference is unreliable: .R-hat"):
        lh.tune(problem, ["sgld"], trials=2, results=tmp_path / "r")
    study = lh.tune(problem, ["sgld"], trials=2, results=tmp_path / "r", accept_unreliable=True)
    assert len(study.trials) == 2


WORKERS = """
from lambda_hat.execution import local_config

def fresh_config():
    return local_config(workers=1)
"""


@pytest.mark.slow
def test_functions_of_a_script_are_tuned_on_workers_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "my_workers.py").write_text(WORKERS)
    script = Path(__file__).with_name("api_on_workers.py")
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "1 worker on this machine" in done.stdout
    llc, *statuses, one, other = done.stdout.split("SAID")[1].split()
    assert set(statuses) <= {"complete", "noisy"}
    assert float(one) == pytest.approx(float(llc), rel=0.3) and float(other) > 0


def test_workers_that_cannot_be_are_refused_before_anything_starts(tmp_path: Path) -> None:
    problem = lh.problem(QUADRATIC, artifacts=tmp_path / "a")
    (tmp_path / "none.py").write_text("fresh_config = 3")
    for wrong, said in (
        (str(tmp_path / "gone.py"), "must be a file, but there is none"),
        (tmp_path / "none.py", r"must define a function fresh_config\(\)"),
        (object(), "must be the path of a Python file .* but got a object"),
    ):
        with pytest.raises(lh.ConfigError, match=said):
            lh.tune(problem, "mclmc", results=tmp_path / "r", parsl_config=wrong)  # type: ignore
    assert not (tmp_path / "r").exists()
