"""What steering costs the head node, beside what Optuna alone would cost: the same studies twice.

    python benchmarks/head_node.py [--trials 1000] [--folder DIR]

runs 10 studies side by side, 256 trials in flight over all of them, through the real scheduler,
studies, journals, manifests and tables; only workers are missing, so that every trial is
instant. Beside it a bare loop asks and tells the same studies, with nothing but Optuna's TPE and
the same kind of journal. Both run in processes of their own and take turns, 10 trials of each
study at a time, so that both meet the same machine; the clock that says when tables are written
stands still meanwhile. The table of docs/clusters.md is its output.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import psutil
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from lambda_hat.conf.compose import compose_problem
from lambda_hat.conf.search_space import SEARCH_SPACE, draw_params
from lambda_hat.entrypoints.parsl_optuna import FUNCTIONS
from lambda_hat.execution import event_loop
from lambda_hat.store import Store, write_json
from lambda_hat.trial import ProblemItem, TrialResult, derive_seed
from lambda_hat.tuning.proposals import Asked
from lambda_hat.tuning.reference_plan import ReferencePlan
from lambda_hat.tuning.results import Results
from lambda_hat.tuning.scheduler import Scheduler
from lambda_hat.tuning.settings import StudySettings
from lambda_hat.tuning.study import Study

NUM_STUDIES, IN_FLIGHT = 10, 256
TURN, WINDOW = 10, 100
"""Trials of each study that a loop runs before it is the other's turn, and in a line told."""
LLC_REF = 4.5
METHODS = [tuple(SEARCH_SPACE)[k % len(SEARCH_SPACE)] for k in range(NUM_STUDIES)]
SHARES = [len(range(k, IN_FLIGHT, NUM_STUDIES)) for k in range(NUM_STUDIES)]
"""Trials in flight of each study."""

Mark = Callable[[float], None]
"""Called after each trial that was told, with the CPU time of its tell in seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000, help="of each study")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary one by default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="head-node-", dir=args.folder) as folder:
        report(take_turns(args.trials, Path(folder)), args.trials)


# The two loops.


def run_steering(trials: int, folder: Path, mark: Mark) -> None:
    """The studies as `parsl-optuna` runs them."""
    store = Store.at(folder / "artifacts", folder / "results")
    studies = [
        TimedStudy(
            problem,
            method,
            StudySettings(max_trials=trials, batch_size=share, method_budget=600.0),
            SEARCH_SPACE,
            store,
            functions=FUNCTIONS,
            warn=print,
        )
        for problem, method, share in zip(problems(), METHODS, SHARES, strict=True)
    ]
    outcome = Scheduler(
        studies,
        store=store,
        results=Results(store, warn=print),
        reference=ReferencePlan(),
        pool=InstantPool(),
        run_reference=instant_reference,
        run_trial=instant_trial,
        observer=Marks(mark),
        warn=print,
    ).run()
    if (
        outcome.failures
        or sum(study.progress.num_ended for study in studies) != trials * NUM_STUDIES
    ):
        raise SystemExit(f"Not every trial was run: {outcome}")


def run_bare(trials: int, folder: Path, mark: Mark) -> None:
    """The same asks and tells with Optuna alone."""
    studies = []
    for k in range(NUM_STUDIES):
        path = str(folder / f"{k}.journal")
        storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
        sampler = optuna.samplers.TPESampler(seed=k)
        studies.append(optuna.create_study(storage=storage, sampler=sampler))
    waiting: deque[tuple[int, optuna.Trial, float]] = deque()

    def ask(k: int) -> None:
        trial = studies[k].ask()
        params = draw_params(trial, METHODS[k])
        waiting.append((k, trial, error_of(params, derive_seed(k, trial.number))))

    asked = list(SHARES)
    for k, share in enumerate(SHARES):
        for _ in range(share):
            ask(k)
    while waiting:
        k, trial, error = waiting.popleft()
        begun = time.process_time()
        studies[k].tell(trial, error)
        mark(time.process_time() - begun)
        if asked[k] < trials:
            asked[k] += 1
            ask(k)


def problems() -> list[ProblemItem]:
    """A problem for each study, a few methods on each."""
    items = []
    for k in range(NUM_STUDIES):
        spec = {"model": "small", "seed": k // len(SEARCH_SPACE)}
        items.append(ProblemItem(compose_problem(spec).pid, spec, f"small seed={spec['seed']}"))
    return items


class InstantPool:
    """Runs each task when it is submitted: its future waits in the scheduler's queue."""

    num_workers = IN_FLIGHT
    description = "instant workers"

    def submit(self, function: Any, /, *args: Any, deadline_sec: Any = None, **kw: Any) -> Future:
        future: Future = Future()
        future.set_result(function(*args, **kw))
        return future

    def close(self, *, cancel: bool = False) -> None: ...


class TimedStudy(Study):
    """A study that knows what its last tell took."""

    seconds = 0.0

    def tell(self, asked: Asked, result: TrialResult) -> dict[str, Any]:
        begun = time.process_time()
        row = super().tell(asked, result)
        self.seconds = time.process_time() - begun
        return row


class Marks:
    """An observer that only counts."""

    def __init__(self, mark: Mark):
        self._mark = mark

    def reference_started(self, problem: ProblemItem) -> None: ...
    def reference_ready(self, problem: ProblemItem, reference: Any, reused: bool) -> None: ...
    def problem_failed(self, problem: ProblemItem, reason: str) -> None: ...
    def study_began(self, study: Study) -> None: ...
    def programs_failed(self, study: Study, reason: str) -> None: ...
    def study_ended(self, study: Study) -> None: ...

    def trial_ended(self, study: TimedStudy, row: Mapping[str, Any]) -> None:
        self._mark(study.seconds)


def instant_reference(problem_spec: dict, out: str, **kwargs: Any) -> dict:
    ref = {"llc_ref": LLC_REF, "se_ref": 0.05, "status": "ok", "reasons": []}
    write_json(Path(out), ref)
    return ref


def instant_trial(
    spec: dict, method_cfg: dict, ref_llc: float, out: str, *, seed: int, **kwargs: Any
) -> dict:
    """A result with as many numbers as a real one; a real worker has written it to disk too."""
    params = {key: value for key, value in method_cfg.items() if key != "name"}
    return {
        "status": "complete",
        "llc_hat": ref_llc + error_of(params, seed),
        "se_hat": 0.1,
        "llc_ref": ref_llc,
        "objective": None,
        "error": None,
        "runtime_sec": 0.5,
        "seconds": dict.fromkeys(("setup", "compile", "warmup", "sample", "estimate"), 0.1),
        "work": {"full_gradients": 1e4},
        "budget_sec": 600.0,
        "budget_exhausted": False,
        "diagnostics": {f"diagnostic_{k}": seed / (k + 1) for k in range(20)},
        "method": method_cfg["name"],
        "hyperparams": params,
        "seed": seed,
        "error_msg": None,
        "versions": {f"package_{k}": "1.2.3" for k in range(10)},
    }


def error_of(params: Mapping[str, Any], number: int) -> float:
    """A score with a minimum to find: settings near 0.01 are best, with a little noise."""
    real = [value for value in params.values() if isinstance(value, float) and value > 0]
    noise = derive_seed(number) / 2**31
    return sum(abs(math.log10(value) + 2) for value in real) + 0.1 * noise


# Taking turns.


class Cost(NamedTuple):
    """What a loop took for some trials."""

    wall: float
    cpu: float
    """Seconds, as `wall`."""
    tells: float
    """CPU seconds of the tells alone."""
    memory: float
    """Resident at their end, MB."""


def take_turns(trials: int, folder: Path) -> Iterator[dict[str, Cost]]:
    """Lets the two loops run alternately; yields what each turn cost, by loop."""
    context = multiprocessing.get_context("spawn")
    ends: dict[str, Connection] = {}
    for name in LOOPS:
        here, there = context.Pipe()
        (folder / name).mkdir()
        arguments = (name, trials, folder / name, there)
        context.Process(target=in_turn, args=arguments, daemon=True).start()
        there.close()  # So that a loop that dies is seen as an end of the file.
        ends[name] = here
    for _ in range(TURN, trials + 1, TURN):
        turn = {}
        for name, end in ends.items():
            end.send("go")
            turn[name] = end.recv()
        yield turn


def in_turn(name: str, trials: int, folder: Path, end: Connection) -> None:
    """One loop, in a process of its own."""
    told, tells, memory = 0, 0.0, psutil.Process().memory_info
    began, clock = (0.0, 0.0), OwnClock()
    event_loop.time = clock  # pyright: ignore[reportAttributeAccessIssue]

    def wait() -> None:
        nonlocal began, tells
        with clock.progress():
            end.recv()
        tells = 0.0
        began = time.perf_counter(), time.process_time()

    def tell_cost() -> None:
        wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
        end.send(Cost(wall, cpu, tells, memory().rss / 1e6))

    def mark(seconds: float) -> None:
        nonlocal told, tells
        told, tells = told + 1, tells + seconds
        if told % (TURN * NUM_STUDIES) == 0 and told < trials * NUM_STUDIES:
            tell_cost()
            wait()

    wait()
    LOOPS[name](trials, folder, mark)
    tell_cost()  # The last turn has the last tables and snapshots.


class OwnClock:
    """Stands in for `time` where a loop looks at the clock: it stands still between turns."""

    def __init__(self) -> None:
        self._stood = 0.0

    def monotonic(self) -> float:
        return time.monotonic() - self._stood

    @contextmanager
    def progress(self) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self._stood += time.monotonic() - begun


LOOPS = {"bare": run_bare, "steering": run_steering}

HEADER = """
| trials of each study | steering, trials/s | Optuna alone | ratio | of CPU time \
| a tell | alone | memory | alone |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def report(turns: Iterable[dict[str, Cost]], trials: int) -> None:
    """Prints the table: each line the `WINDOW` trials of each study before that length."""
    print(HEADER)
    window: list[dict[str, Cost]] = []
    every: list[dict[str, Cost]] = []
    for turn in turns:
        window, every = [*window, turn], [*every, turn]
        done = len(every) * TURN
        if done % WINDOW == 0 or done == trials:
            print_row(str(done), window)
            window = []
    print_row("all", every)


def print_row(name: str, turns: Sequence[dict[str, Cost]]) -> None:
    mine, bare = (sum_up([turn[loop] for turn in turns]) for loop in ("steering", "bare"))
    count = TURN * NUM_STUDIES * len(turns)
    print(
        f"| {name} | {count / mine.wall:.1f} | {count / bare.wall:.1f} "
        f"| {bare.wall / mine.wall:.0%} | {bare.cpu / mine.cpu:.0%} "
        f"| {mine.tells / count * 1e3:.2f} ms | {bare.tells / count * 1e3:.2f} ms "
        f"| {mine.memory:.0f} MB | {bare.memory:.0f} MB |",
        flush=True,
    )


def sum_up(costs: Sequence[Cost]) -> Cost:
    wall, cpu, tells = (sum(each) for each in zip(*(cost[:3] for cost in costs), strict=True))
    return Cost(wall, cpu, tells, costs[-1].memory)


if __name__ == "__main__":
    main()
