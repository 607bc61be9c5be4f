"""Programs that idle workers compile while a reference is computed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import pytest

from lambda_hat.conf.ranged_trial import Ranges
from lambda_hat.entrypoints.parsl_optuna import FUNCTIONS
from lambda_hat.execution.errors import TaskFailed, WorkerLost
from lambda_hat.execution.event_loop import EventLoop
from lambda_hat.store import Store, write_json
from lambda_hat.trial import ProblemItem
from lambda_hat.tuning.compile_ahead import CompileAhead
from lambda_hat.tuning.functions import probe
from lambda_hat.tuning.study import Study

SPEC = {
    "model": "small",
    "data": "small",
    "overrides": {
        "model": {"widths": [3]},
        "training": {"steps": 50, "restarts": 1, "polish_steps": 50, "shakes": 1},
        "posterior": {"gamma": 30.0},
    },
}
OWN = ("jit_init-", "jit_advance-", "jit_summary-")
"""What entries of a sampler's programs begin with."""


# What a worker does.

COMPILE = """
import json, sys
from lambda_hat.runners.compile_programs import compile_programs
print(json.dumps(compile_programs(**json.loads(sys.argv[1]))))
"""
TRY = """
import json, sys
from lambda_hat.runners.run_method import run_method_trial
found = run_method_trial(**json.loads(sys.argv[1]), ref_llc=None)
print(json.dumps({name: found[name] for name in ("status", "llc_hat", "se_hat", "error_msg")}))
"""


def worker(code: str, cache: Path, **call: Any) -> dict:
    """What a worker's process gives that keeps its programs in this folder."""
    kept = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
        "NPROC": "1",
    }
    command = [sys.executable, "-c", code, json.dumps(call)]
    done = subprocess.run(command, env={**os.environ, **kept}, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def entries(cache: Path) -> set[str]:
    found = {path.name for path in cache.iterdir()} if cache.exists() else set()
    return {name for name in found if name.startswith(OWN)}


def trial(method: str, cache: Path, folder: Path) -> dict:
    call = {"problem_spec": SPEC, "method_cfg": {"name": method, "steps": 400}, "seed": 3}
    given = {"out_metrics_json": str(folder / "metrics.json"), "artifacts_dir": str(folder)}
    return worker(TRY, cache, **call, **given)


@pytest.mark.parametrize("method", ["sgld", "mclmc"])
def test_the_first_trial_compiles_nothing_that_was_compiled_before_training(
    method: str, tmp_path: Path
) -> None:
    """And its numbers are those of a trial whose worker compiled all by itself."""
    warm, cold = tmp_path / "warm", tmp_path / "cold"
    call = {"problem_spec": SPEC, "method": method, "settings": [{}], "number": 0}
    ended = worker(COMPILE, warm, **call, artifacts_dir=str(tmp_path / "none"))
    assert ended == {"programs": 1}
    before = entries(warm)
    assert before
    found = trial(method, warm, tmp_path / "a")
    assert entries(warm) == before
    assert found == trial(method, cold, tmp_path / "b")
    assert found["llc_hat"] is not None and entries(cold) == before


CALL = {"problem_spec": {"model": "small", "data": "small"}, "artifacts_dir": "/nowhere"}


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The configs of programs that would be compiled."""
    import jax

    from lambda_hat.runners import compile_programs

    asked: list[Any] = []
    monkeypatch.setattr(compile_programs, "Runner", lambda *args, **kw: asked.append(args[2]))
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", "/nowhere")
    yield asked
    jax.config.update("jax_compilation_cache_dir", before)


def compiled(**call: Any) -> int | None:
    from lambda_hat.runners.compile_programs import compile_programs

    return compile_programs(**{**CALL, **call})["programs"]


def settings_of(method: str) -> list[dict[str, Any]]:
    return [{}] + [FUNCTIONS.suggest(probe(seed), method, Ranges({}, 100)) for seed in range(16)]


def test_each_call_compiles_one_of_the_programs_that_trials_share(no_programs: list) -> None:
    for number in range(3):
        assert compiled(method="vi", settings=settings_of("vi"), number=number) == 2
    assert [config.correction for config in no_programs] == ["none", "ais"]


def test_a_program_that_only_one_of_many_trials_would_have_is_not_compiled(
    no_programs: list,
) -> None:
    """But the first one's, which is run in any case."""
    large = {"model": "base", "data": "small"}
    sizes = [{"M": 2}, {"M": 3}, {"M": 4}, {"M": 5}, {"M": 4}]
    for number in range(3):
        assert compiled(problem_spec=large, method="vi", settings=sizes, number=number) == 2
    assert [config.M for config in no_programs] == [2, 4]


def test_settings_that_a_sampler_refuses_are_left_to_their_trial(no_programs: list) -> None:
    assert compiled(method="sgld", settings=[{"steps": -1}, {}], number=0) == 1
    assert len(no_programs) == 1


def test_shapes_that_are_not_known_before_the_problem_is_built_are_waited_for(
    no_programs: list, tmp_path: Path
) -> None:
    call = {"problem_spec": {"model": "quadratic", "data": "small"}, "method": "sgld"}
    assert compiled(**call, settings=[{}], number=0, artifacts_dir=str(tmp_path)) is None
    assert no_programs == []


def test_where_jax_keeps_no_programs_none_is_compiled(no_programs: list) -> None:
    import jax

    jax.config.update("jax_compilation_cache_dir", None)
    assert compiled(method="sgld", settings=[{}], number=0) == 0
    assert no_programs == []


# What the driver does.


class Pool:
    """Workers that do nothing until they are told that they have ended."""

    def __init__(self, num_workers: int):
        self.num_workers = num_workers


class Line:
    """A reference under way, and the studies that wait for it."""

    def __init__(self, folder: Path, *, num_workers: int, methods: str):
        self.loop = EventLoop(lambda: None)
        self.store, self.problem = Store.at(folder, folder), ProblemItem("p_1", {}, "small")
        self.sent: list[tuple[str, int, Future]] = []
        self.failures: list[str] = []
        self.ahead = CompileAhead(
            self.store,
            cast(Any, Pool(num_workers)),
            self.loop,
            submit=self.submit,
            failed=lambda study, reason: self.failures.append(f"{study.method}: {reason}"),
        )
        self.reference: Future = Future()
        self.loop.follow(self.reference, lambda done: self.ahead.reference_ended(self.problem))
        self.ahead.reference_started(cast(Study, Stub(self.problem, one)) for one in methods)
        self.ahead.look()

    def submit(self, study: Study, number: int) -> Future:
        self.sent.append((study.method, number, Future()))
        return self.sent[-1][2]

    def end(self, future: Future, *, value: Any = None, error: Exception | None = None) -> None:
        future.set_exception(error) if error else future.set_result(value)
        self.loop._take(self.loop._next())
        self.ahead.look()

    @property
    def names(self) -> list[str]:
        return [f"{method}{number}" for method, number, _ in self.sent]


class Stub:
    def __init__(self, problem: ProblemItem, method: str):
        self.problem, self.method = problem, method


@pytest.mark.parametrize(("num_workers", "sent"), [(1, 0), (2, 1), (3, 2), (8, 3)])
def test_only_workers_that_no_task_waits_for_compile(
    num_workers: int, sent: int, tmp_path: Path
) -> None:
    line = Line(tmp_path, num_workers=num_workers, methods="abc")
    line.ahead.look()
    assert len(line.sent) == sent


def test_each_studys_first_program_comes_before_anyones_second(tmp_path: Path) -> None:
    line = Line(tmp_path, num_workers=2, methods="abc")
    for programs in (2, 1, 3, 2, 3, 3):
        line.end(line.sent[-1][2], value={"programs": programs})
    assert line.names == ["a0", "b0", "c0", "a1", "c1", "c2"]
    assert line.loop.num_outstanding == 1


def test_a_trial_that_waits_goes_before_the_next_program(tmp_path: Path) -> None:
    line = Line(tmp_path, num_workers=2, methods="ab")
    line.loop.follow(Future(), lambda done: None)
    line.end(line.sent[0][2], value={"programs": 2})
    assert line.names == ["a0"]


def test_nothing_is_compiled_ahead_once_the_reference_is_there(tmp_path: Path) -> None:
    line = Line(tmp_path, num_workers=2, methods="ab")
    line.end(line.reference)
    line.end(line.sent[0][2], value={"programs": 2})
    assert line.names == ["a0"]


@pytest.mark.parametrize("error", [TaskFailed("ValueError: no", ""), WorkerLost("It was killed.")])
def test_a_program_that_cannot_be_compiled_is_told_and_not_tried_again(
    error: Exception, tmp_path: Path
) -> None:
    line = Line(tmp_path, num_workers=2, methods="ab")
    line.end(line.sent[0][2], error=error)
    line.end(line.sent[1][2], value={"programs": 1})
    assert line.names == ["a0", "b0"]
    (told,) = line.failures
    assert told == f"a: {error}"


def test_shapes_that_are_not_known_are_waited_for(tmp_path: Path) -> None:
    line = Line(tmp_path, num_workers=2, methods="a")
    line.end(line.sent[0][2], value={"programs": None})
    assert line.names == ["a0"]
    line.store.target("p_1").parent.mkdir(parents=True)
    write_json(line.store.target("p_1"), {})
    line.ahead.look()
    assert line.names == ["a0", "a0"]
