"""The command `parsl-optuna`: tunes every method on every problem against its reference."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from lambda_hat.conf.checks import ConfigError
from lambda_hat.conf.ranged_trial import Ranges
from lambda_hat.conf.search_space import Suggests, draw_params
from lambda_hat.entrypoints.command import (
    DONE,
    FAILED,
    again,
    exit_code,
    make_folders,
    workers_file,
)
from lambda_hat.entrypoints.options import parse_optuna
from lambda_hat.entrypoints.plans import StudyPlan, read_study_plan
from lambda_hat.entrypoints.shipped import here_or_shipped
from lambda_hat.entrypoints.start import INTERRUPTED
from lambda_hat.execution import LazyPool, Pool, TaskPool, open_pool
from lambda_hat.execution.event_loop import EventLoop, Outcome
from lambda_hat.execution.trials import deadline_of
from lambda_hat.fixed_runs import LLCRuns
from lambda_hat.report import import_ahead, write_report
from lambda_hat.runners.run_method import _build_sampler_cfg
from lambda_hat.store import lock_folder
from lambda_hat.terminal.fixed_runs import ConfirmingConsole
from lambda_hat.terminal.status import done_words
from lambda_hat.terminal.tuning import Console
from lambda_hat.tuning.confirming import confirming_specs
from lambda_hat.tuning.fingerprint import ADVICE
from lambda_hat.tuning.functions import StudyFunctions
from lambda_hat.tuning.objective import huber_loss, llc_error, root_mean_square
from lambda_hat.tuning.results import Results
from lambda_hat.tuning.scheduler import Scheduler
from lambda_hat.tuning.standing import Planned, studies_of
from lambda_hat.tuning.study import Study
from lambda_hat.tuning.warm_start import check_guess

TRIAL_RUNNER = "lambda_hat.runners.run_method:run_method_trial"


def suggest_method_params(trial: Suggests, method_name: str) -> dict[str, Any]:
    """Draws a method's hyperparameters for one trial. Edit here what is searched.

    Args:
        trial: An Optuna trial: `suggest_float`, `suggest_int` and `suggest_categorical`. Ranges in
            the config's `search_space` win over those asked for here.
        method_name: One of the config's `methods`.

    Returns:
        Settings of the sampler, or what `_build_sampler_cfg` makes into such.
    """
    return draw_params(trial, method_name)


def objective_from_metrics(
    metrics: Mapping[str, Any],
    ref_llc: float,
    *,
    huber_delta: float | None = None,
    objective: str = "abs",
) -> float:
    """Scores a trial against its reference; the study minimises it. Edit here what is good.

    Args:
        metrics: What the trial's metrics.json holds.
        ref_llc: The reference LLC of its problem.
        huber_delta: As the config has it; a number means Huber's loss of the error.
        objective: As the config has it: `abs`, `huber`, `relative` or `rmse`.

    Returns:
        The score, in units of LLC (LLC squared below `huber_delta`); infinity for a trial without
        an estimate, which Optuna is told as a finite penalty.
    """
    diff = llc_error(metrics, ref_llc)
    if huber_delta is not None:
        return huber_loss(diff, huber_delta)
    if objective == "relative":
        return diff / (abs(ref_llc) or 1.0)
    if objective == "rmse":
        return root_mean_square(diff, metrics.get("se_hat"))
    return diff


FUNCTIONS = StudyFunctions(suggest_method_params, objective_from_metrics, _build_sampler_cfg)


def main(argv: Sequence[str] | None = None) -> int:
    """The command `parsl-optuna`; returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return exit_code(lambda: run(parse_optuna(argv), argv), argv)


def run(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """The line, whole."""
    names = ("max_trials", "batch_size", "hmc_budget", "method_budget", "max_seconds")
    paths = ("artifacts_dir", "results_dir", "plugin")
    options = {name: getattr(args, name) for name in (*names, *paths)}
    plan = read_study_plan(here_or_shipped(args.config), args.sets, options)
    functions = checked_functions(plan)
    trial_sec = deadline_of(plan.settings.method_budget)
    workers = workers_file(args, run_dir=plan.store.logs, trial_sec=trial_sec)
    console = Console()
    done = done_words(plan.store, studies_of(plan.store, planned(plan))) if args.dry_run else ()
    console.show_plan(plan, workers, done=done)
    if args.dry_run:
        return DONE
    make_folders(plan.store)
    with lock_folder(plan.store.results):
        console.keep_log(plan.store, ["parsl-optuna", *argv])
        outcome, studies = tune(plan, functions, console, workers, opened=import_ahead)
        if not outcome.interrupted and any(study.progress.num_ended for study in studies):
            command = shlex.join(["parsl-optuna", *argv])
            write_report(plan.store, command=command, notes=outcome.failures)
    console.show_outcome(outcome, studies, plan.store, resume=again(argv))
    return INTERRUPTED if outcome.interrupted else FAILED if outcome.failures else DONE


def tune(
    plan: StudyPlan,
    functions: StudyFunctions,
    console: Console,
    workers: Path | None,
    *,
    opened: Callable[[], None] = lambda: None,
) -> tuple[Outcome, list[Study]]:
    """Runs all studies of a plan and confirms their best; the results folder is locked.

    Args:
        plan: What to do.
        functions: As `checked_functions` returns them.
        console: Is told what happens.
        workers: The file that says where workers run; None for a thread of this process.
        opened: Called once workers have been asked for.
    """

    def show(pool: Pool) -> None:
        console.show_pool(pool)
        opened()

    studies = open_studies(plan, functions, console)
    planned(plan).write(plan.store)
    trial_sec = deadline_of(plan.settings.method_budget)
    opening = open_pool(parsl_config=workers, run_dir=plan.store.logs, trial_sec=trial_sec)
    order = [(study.problem.pid, study.method) for study in studies]
    results = Results(plan.store, warn=console.warn, order=order)
    with LazyPool(opening, show) as pool:
        with console.watching(studies, plan.store):
            outcome = _tune_and_confirm(plan, studies, results, pool, console)
        pool.close(cancel=outcome.interrupted or bool(outcome.failures))
    return outcome, studies


def planned(plan: StudyPlan) -> Planned:
    """What `parsl-optuna status` is told of a plan."""
    labels = {problem.pid: problem.label for problem in plan.problems}
    trials, artifacts = plan.settings.max_trials, str(plan.store.artifacts)
    return Planned(labels, list(plan.methods), trials, artifacts)


def _tune_and_confirm(
    plan: StudyPlan,
    studies: Sequence[Study],
    results: Results,
    pool: TaskPool,
    console: Console,
) -> Outcome:
    """Runs all studies, and what confirms each of them as soon as it has ended."""

    def write() -> None:
        runs.write()  # Before the best settings, which they confirm.
        results.write()

    def confirm(study: Study) -> None:
        if specs := confirming_specs(study, plan.confirm_seeds):
            runs.take_up(study.problem, specs)

    loop = EventLoop(write)
    runs = LLCRuns(
        store=plan.store,
        pool=pool,
        build="lambda_hat.runners.build_problem:build_problem",
        run_trial=TRIAL_RUNNER,
        watcher=ConfirmingConsole(console),
        warn=console.warn,
        loop=loop,
        order=[(study.problem.pid, study.method) for study in studies],
    )
    outcome = Scheduler(
        studies,
        store=plan.store,
        results=results,
        reference=plan.reference,
        pool=pool,
        run_reference="lambda_hat.runners.hmc_reference:run_hmc_reference",
        run_help="lambda_hat.runners.help_reference:help_reference",
        run_compile="lambda_hat.runners.compile_programs:compile_programs",
        run_trial=TRIAL_RUNNER,
        observer=console,
        warn=console.warn,
        loop=loop,
        confirm=confirm,
    ).run()
    return outcome + Outcome(tuple(runs.failures))


def checked_functions(plan: StudyPlan) -> StudyFunctions:
    """The functions of this file with a plugin's in their place, tried on every method.

    Raises:
        ConfigError: Mistakes in them, and settings that a sampler would refuse.
    """
    functions = FUNCTIONS.with_plugin(plan.plugin)
    faults: list[str] = []
    for method in plan.methods:
        try:
            functions.check(method, Ranges(plan.space.get(method, {})))
            settings = plan.settings
            functions.score_of_error(
                1.0, huber_delta=settings.huber_delta, objective=settings.objective
            )
        except ConfigError as error:
            faults += [fault for fault in error.faults if fault not in faults]
    for guess in plan.settings.enqueue if not faults else ():
        try:
            ranges = Ranges(plan.space.get(guess.method, {}))
            check_guess(guess, ranges=ranges, functions=functions)
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    return functions


def open_studies(plan: StudyPlan, functions: StudyFunctions, console: Console) -> list[Study]:
    """All studies of the plan, method by method within each problem.

    Raises:
        ConfigError: Some were begun with other settings, each said in a sentence.
    """
    studies: list[Study] = []
    faults: list[str] = []
    for problem, method in product(plan.problems, plan.methods):
        try:
            # Choices that coincide on one problem are to stay the same ones on all.
            item = replace(problem, num_rows=None) if plan.settings.joint else problem
            given = (item, method, plan.settings, plan.space, plan.store)
            studies.append(Study(*given, functions=functions, warn=console.warn))
        except ConfigError as error:  # Its journal is a user's own, and cannot be gone on with.
            faults += error.faults
    faults += [
        f"Study {study.name} was begun with other settings: {'; '.join(changes)}. {ADVICE}"
        for study in studies
        if (changes := study.changes())
    ]
    if faults:
        raise ConfigError(faults)
    return studies


if __name__ == "__main__":
    sys.exit(main())
