"""The command `parsl-llc`: every problem with every sampler, once, with settings as given."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lambda_hat.entrypoints.command import (
    DONE,
    FAILED,
    again,
    exit_code,
    make_folders,
    workers_file,
)
from lambda_hat.entrypoints.llc_plan import LLCPlan, read_llc_plan
from lambda_hat.entrypoints.options import parse_llc
from lambda_hat.entrypoints.shipped import here_or_shipped
from lambda_hat.entrypoints.start import INTERRUPTED
from lambda_hat.entrypoints.winners import read_winners
from lambda_hat.execution import LazyPool, open_pool
from lambda_hat.execution.event_loop import Outcome
from lambda_hat.execution.trials import deadline_of
from lambda_hat.fixed_runs import LLCRuns
from lambda_hat.report import write_report
from lambda_hat.store import lock_folder
from lambda_hat.tables.transfer import transfers
from lambda_hat.terminal.fixed_runs import LLCConsole
from lambda_hat.trial import ProblemItem, TrialSpec


def main(argv: Sequence[str] | None = None) -> int:
    """The command `parsl-llc`; returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return exit_code(lambda: run(parse_llc(argv), argv), argv)


def run(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """The line, whole."""
    options = {n: getattr(args, n) for n in ("method_budget", "artifacts_dir", "results_dir")}
    config = None if args.config is None else here_or_shipped(args.config)
    winners = read_winners(args.winners_of) if args.winners_of else []
    plan = read_llc_plan(config, args.sets, options, winners=winners)
    trial_sec = deadline_of(plan.method_budget)
    workers = workers_file(args, run_dir=plan.store.logs, trial_sec=trial_sec)
    console = LLCConsole()
    console.show_plan(plan, workers, done=num_done(plan) if args.dry_run else 0)
    if args.dry_run:
        return DONE
    make_folders(plan.store)
    with lock_folder(plan.store.results):
        console.keep_log(plan.store, ["parsl-llc", *argv])
        opening = open_pool(parsl_config=workers, run_dir=plan.store.logs, trial_sec=trial_sec)
        with LazyPool(opening, console.show_pool) as pool:
            runs = LLCRuns(
                store=plan.store,
                pool=pool,
                build="lambda_hat.runners.build_problem:build_problem",
                run_trial="lambda_hat.runners.run_method:run_method_trial",
                watcher=console,
                warn=console.warn,
            )
            outcome = runs.run(specs_of(plan)) + Outcome(tuple(runs.without_estimate))
            pool.close(cancel=outcome.interrupted or bool(outcome.failures))
        if not outcome.interrupted and plan.store.trials_table.exists():
            write_report(plan.store)  # The page of the studies shows these runs as well.
    rows = runs.rows()
    moved = transfers([tuned for tuned, _ in winners], rows)
    console.show_outcome(outcome, rows, plan.store, resume=again(argv), moved=moved)
    return INTERRUPTED if outcome.interrupted else FAILED if outcome.failures else DONE


def specs_of(plan: LLCPlan) -> dict[ProblemItem, list[TrialSpec]]:
    """Every problem with every sampler."""
    return {
        problem: [
            TrialSpec(
                pid=problem.pid,
                problem=problem.spec,
                method=sampler.name,
                hyperparams=sampler.hyperparams,
                seed=sampler.seed,
                budget_sec=plan.method_budget,
            )
            for sampler in plan.samplers
        ]
        for problem in plan.problems
    }


def num_done(plan: LLCPlan) -> int:
    """How many of the runs have their results already."""
    specs = [spec for group in specs_of(plan).values() for spec in group]
    metrics = (plan.store.metrics(spec.pid, spec.method, spec.trial_id) for spec in specs)
    return sum(path.exists() for path in metrics)


if __name__ == "__main__":
    sys.exit(main())
