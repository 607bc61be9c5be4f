"""Chains of one reference in several processes: the number of one, whoever helps or dies."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from test_references import killing

from lambda_hat.conf import compose_problem
from lambda_hat.conf.samplers import ReferenceConfig
from lambda_hat.execution.errors import WorkerLost
from lambda_hat.execution.event_loop import EventLoop
from lambda_hat.problems import Problem, build_problem
from lambda_hat.references import aids, chain_files, chains, hmc, split
from lambda_hat.references.engine import EngineResult
from lambda_hat.references.hmc import confirm_hmc, help_hmc, sample_hmc
from lambda_hat.references.tempering import help_tempering, sample_tempering
from lambda_hat.runners.help_reference import help_reference
from lambda_hat.store import Store, claim, is_claimed, wanted_beside, write_json
from lambda_hat.trial import ProblemItem
from lambda_hat.tuning.idle_workers import IdleWorkers

CONFIG = ReferenceConfig(num_draws=2_000, num_warmup=200)
LONG = 300.0
PROBLEM: list[Problem] = []


def linear() -> Problem:
    if not PROBLEM:
        PROBLEM.append(build_problem(compose_problem({"model": "linear", "data": "small"})))
    return PROBLEM[0]


def lead(folder: Path, **kw: Any) -> EngineResult:
    given = {"budget_sec": LONG, "seed": 1, "checkpoint": folder / "hmc_chains.ckpt", **kw}
    return sample_hmc(linear(), CONFIG, **given)


def helped(folder: Path, budget_sec: float = LONG) -> int:
    checkpoint = folder / "hmc_chains.ckpt"
    return help_hmc(linear(), CONFIG, budget_sec=budget_sec, seed=1, checkpoint=checkpoint)


def same(found: EngineResult, other: EngineResult) -> bool:
    """Bit for bit."""
    names = ("llc", "se", "draws", "diagnostics", "gates")
    return all(getattr(found, name) == getattr(other, name) for name in names)


@pytest.fixture(autouse=True, scope="module")
def dear() -> Iterator[None]:
    """A small problem whose chains are split all the same, into many short moments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aids, "LARGE", 0)
        patch.setattr(chain_files, "MOMENT_SEC", 0.05)
        patch.setattr(chain_files, "LARGE", 0)
        patch.setattr(split, "PATIENCE_SEC", 0.01)
        yield


@pytest.fixture(scope="module")
def alone(dear: None, tmp_path_factory: pytest.TempPathFactory) -> EngineResult:
    return lead(tmp_path_factory.mktemp("alone"))


@contextmanager
def helpers(count: int, folder: Path) -> Iterator[list[int]]:
    """Threads that help whenever there is something to do; how often each one went on."""
    moments, over = [0] * count, threading.Event()

    def run(place: int) -> None:
        while not over.is_set():
            moments[place] += helped(folder)
            time.sleep(0.01)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield moments
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_helpers_gives_the_same_number(
    count: int, alone: EngineResult, tmp_path: Path
) -> None:
    with helpers(count, tmp_path) as moments:
        found = lead(tmp_path)
    assert same(found, alone) and found.passed
    assert min(moments) > 0, "each has done a part"


DYING = """
import os, signal, sys
import test_split
from test_split import *
aids.LARGE, split.PATIENCE_SEC = 0, 0.01
chain_files.LARGE, chain_files.MOMENT_SEC = 0, 0.05
save, count = chain_files.ChainFiles._save, 0

def die(*args):
    global count
    count += 1
    if count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    save(*args)

chain_files.ChainFiles._save = die
linear()
print("ready", flush=True)
while True:
    helped(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_helper_that_is_killed_at_work_changes_nothing(
    alone: EngineResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds a chain when it dies; the chain is gone on with from its last moment."""
    command = [sys.executable, "-c", DYING, str(tmp_path)]
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=here) as helper:
        try:
            assert helper.stdout is not None and helper.stdout.readline() == b"ready\n"
            go_on = chain_files.ChainFiles.go_on

            def slow(self: chain_files.ChainFiles, *args: Any) -> bool:
                while helper.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.05)  # The lead waits until the helper has died at its work.
                return go_on(self, *args)

            deadline = time.monotonic() + 240.0
            monkeypatch.setattr(chain_files.ChainFiles, "go_on", slow)
            found = lead(tmp_path)
            assert helper.poll() == -signal.SIGKILL
        finally:
            helper.kill()
    assert same(found, alone)


def test_a_lead_that_is_killed_goes_on_and_its_helpers_end(
    alone: EngineResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chains, "CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(chain_files, "save_checkpoint", killing(chain_files.save_checkpoint, 7))
        with pytest.raises(KeyboardInterrupt):
            lead(tmp_path)
    write_json(wanted_beside(tmp_path / "hmc_chains.ckpt"), {"left": "by the one that was killed"})
    began = time.monotonic()
    assert helped(tmp_path) == 0 and time.monotonic() - began < 1.0
    assert same(lead(tmp_path), alone)


def test_a_run_in_pieces_gives_the_same_number(alone: EngineResult, tmp_path: Path) -> None:
    found, draws, piece = lead(tmp_path, budget_sec=0.0), set[int](), 0.1
    while not found.finished:
        if found.draws in draws:  # On a busy machine it takes longer to begin.
            piece *= 1.2
        draws.add(found.draws)
        found = lead(tmp_path, budget_sec=found.cost.total + piece)
    assert len(draws) > 1 and same(found, alone)


# Chains from elsewhere.


def confirmed(folder: Path, budget_sec: float = LONG) -> EngineResult:
    given = {"budget_sec": budget_sec, "seed": 1, "checkpoint": folder / "hmc_chains.ckpt"}
    return confirm_hmc(linear(), CONFIG, lead(folder), **given)


@pytest.fixture(scope="module")
def confirmed_alone(dear: None, tmp_path_factory: pytest.TempPathFactory) -> EngineResult:
    return confirmed(tmp_path_factory.mktemp("alone"))


def test_chains_from_elsewhere_confirm_split_chains(confirmed_alone: EngineResult) -> None:
    assert confirmed_alone.passed and confirmed_alone.gates[-1].name == "elsewhere"
    told = confirmed_alone.diagnostics
    assert abs(told["elsewhere_llc"] - confirmed_alone.llc) < 4 * told["elsewhere_llc_se"]


def test_helpers_go_on_with_chains_from_elsewhere(
    confirmed_alone: EngineResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead(tmp_path)
    go_on, helped_with = chain_files.ChainFiles.go_on, threading.Event()

    def note(self: chain_files.ChainFiles, *args: Any) -> bool:
        if threading.current_thread() is threading.main_thread():
            assert helped_with.wait(LONG), "the lead waits for help"
            return go_on(self, *args)
        if moved := go_on(self, *args):
            helped_with.set()
        return moved

    monkeypatch.setattr(chain_files.ChainFiles, "go_on", note)
    with helpers(2, tmp_path):
        assert same(confirmed(tmp_path), confirmed_alone)


def test_chains_from_elsewhere_are_killed_and_go_on(
    confirmed_alone: EngineResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(chain_files, "save_checkpoint", killing(chain_files.save_checkpoint, 80))
        with pytest.raises(KeyboardInterrupt):
            confirmed(tmp_path)
    monkeypatch.setattr(split, "anneal_starts", None)  # The way from the tether is not gone again.
    assert same(confirmed(tmp_path), confirmed_alone)


def test_too_little_time_for_chains_from_elsewhere_is_said(
    confirmed_alone: EngineResult, tmp_path: Path
) -> None:
    found = confirmed(tmp_path, budget_sec=0.0)
    assert [gate.name for gate in found.failed] == ["elsewhere"] and found.gates[-1].value is None
    assert same(confirmed(tmp_path), confirmed_alone)


# Ladders.


def climb(folder: Path, **kw: Any) -> EngineResult:
    given = {"budget_sec": LONG, "seed": 1, "checkpoint": folder / "tempering_ladders.ckpt", **kw}
    return sample_tempering(linear(), CONFIG, **given)


@pytest.fixture(scope="module")
def climbed_alone(dear: None, tmp_path_factory: pytest.TempPathFactory) -> EngineResult:
    return climb(tmp_path_factory.mktemp("alone"))


def test_ladders_that_are_split_pass_their_gates(
    climbed_alone: EngineResult, alone: EngineResult
) -> None:
    assert climbed_alone.passed and climbed_alone.llc and climbed_alone.se and alone.llc
    assert abs(climbed_alone.llc - alone.llc) < 4 * math.hypot(climbed_alone.se, alone.se or 0.0)
    assert len(climbed_alone.diagnostics["round_trips"]) == CONFIG.num_chains


def test_helpers_go_on_with_ladders(climbed_alone: EngineResult, tmp_path: Path) -> None:
    checkpoint, moments, over = tmp_path / "tempering_ladders.ckpt", [0], threading.Event()

    def run() -> None:
        given = {"budget_sec": LONG, "seed": 1, "checkpoint": checkpoint}
        while not over.is_set():
            moments[0] += help_tempering(linear(), CONFIG, **given)
            time.sleep(0.01)

    helper = threading.Thread(target=run)
    helper.start()
    try:
        found = climb(tmp_path)
    finally:
        over.set()
        helper.join()
    assert same(found, climbed_alone) and moments[0] > 0


def test_ladders_that_are_killed_go_on(
    climbed_alone: EngineResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(chain_files, "save_checkpoint", killing(chain_files.save_checkpoint, 7))
        with pytest.raises(KeyboardInterrupt):
            climb(tmp_path)
    assert same(climb(tmp_path), climbed_alone)


# Nothing to do.


def test_where_no_reference_wants_help_a_helper_ends_at_once(tmp_path: Path) -> None:
    assert helped(tmp_path) == 0
    assert help_reference({"model": "small"}, str(tmp_path / "ref.json")) == {"moments": 0}


def test_a_helper_ends_with_its_time(tmp_path: Path) -> None:
    path = wanted_beside(tmp_path / "ref.json")
    with split._leading(_task(tmp_path), {}, 3_000, chain_files.CHECKED):
        assert is_claimed(path.with_suffix(".lock"))
        began = time.monotonic()
        assert helped(tmp_path, budget_sec=0.5) == 0
        assert time.monotonic() - began < 30.0, "compiling, and no longer"


def _task(folder: Path) -> chains.Task:
    return hmc._task(linear(), CONFIG, 1, folder / "hmc_chains.ckpt", None)


def test_a_claim_is_one_processes_and_ends_with_the_block(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    assert not is_claimed(path)
    with claim(path) as mine, claim(path) as also:
        assert mine and not also and is_claimed(path)
    assert not is_claimed(path)


@pytest.mark.parametrize(
    ("rows", "statistics", "dear"), [(100, None, False), (20_000, None, True), (20_000, 1, False)]
)
def test_what_is_split_is_a_matter_of_the_problem(
    rows: int, statistics: Any, dear: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 45 parameters; where sufficient statistics stand for the data, n costs nothing."""
    monkeypatch.setattr(aids, "LARGE", 500_000)
    arrays = SimpleNamespace(statistics=statistics, data={"x": np.zeros((rows, 1))})
    target = SimpleNamespace(d=45, form=SimpleNamespace(has_rows=True), arrays=arrays)
    assert split.is_dear(cast(Any, target)) is dear


# Who helps.


class Pool:
    """Workers that do nothing until they are told that they have ended."""

    def __init__(self, num_workers: int):
        self.num_workers = num_workers
        self.tasks: list[Future] = []

    def submit(self, *args: Any, **kwargs: Any) -> Future:
        self.tasks.append(future := Future())
        return future

    def close(self, *, cancel: bool = False) -> None: ...


ITEM = ProblemItem("p_1", {"model": "quadratic", "data": "small"}, "quadratic")


@pytest.fixture
def idle(tmp_path: Path) -> Callable[[int], tuple]:
    def make(num_workers: int) -> tuple[IdleWorkers, EventLoop, Pool]:
        pool, loop = Pool(num_workers), EventLoop(lambda: None)
        store = Store.at(tmp_path, tmp_path)
        given = {"most": 3, "submit": lambda problem, seconds: pool.submit()}
        workers = IdleWorkers(store, cast(Any, pool), loop, **given)
        loop.follow(Future(), lambda done: None)  # The reference itself.
        workers.reference_started(ITEM)
        write_json(wanted_beside(store.reference(ITEM.pid)), {})
        return workers, loop, pool

    return make


@pytest.mark.parametrize(("num_workers", "sent"), [(1, 0), (2, 1), (3, 2), (8, 3)])
def test_workers_that_are_idle_help_and_no_others(
    num_workers: int, sent: int, idle: Callable
) -> None:
    workers, _, pool = idle(num_workers)
    workers.look()
    workers.look()
    assert len(pool.tasks) == sent


def test_no_help_is_sent_before_it_is_wanted_or_after_the_end(
    tmp_path: Path, idle: Callable
) -> None:
    workers, _, pool = idle(4)
    wanted = wanted_beside(Store.at(tmp_path, tmp_path).reference(ITEM.pid))
    wanted.unlink()
    workers.look()
    write_json(wanted, {})
    workers.reference_ended(ITEM)
    workers.look()
    assert pool.tasks == []


def test_help_that_fails_is_not_sent_again(idle: Callable) -> None:
    workers, loop, pool = idle(2)
    workers.look()
    pool.tasks[0].set_exception(WorkerLost("It was killed."))
    loop._take(loop._next())
    workers.look()
    assert len(pool.tasks) == 1
