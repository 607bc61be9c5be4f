"""What share of the work pruning saves, and what it costs in the best error.

    python benchmarks/pruning.py [trials of each method] [orders]

Settings are drawn at random and every trial is run to its end on the demo's problem, with its
reports. Each pruner then sees them in many orders: a trial that it stops at a tenth counts with
that share of its work. So all pruners judge the same trials, and chance in the search plays no
part. The driver looks every 0.2 s, so that trials of a few seconds save less in a real run.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import optuna
from optuna.trial import TrialState

from lambda_hat.conf.search_space import SEARCH_SPACE, draw_params
from lambda_hat.runners.hmc_reference import run_hmc_reference
from lambda_hat.runners.run_method import run_method_trial
from lambda_hat.store.reports import NUM_STEPS, TrialReports
from lambda_hat.trial import TrialResult
from lambda_hat.tuning.pruners import NONE, PRUNERS, build_pruner

PROBLEM = {"model": "small", "data": "small", "overrides": {"data": {"n": 100}}}
BUDGET = 30.0


@dataclass(frozen=True)
class Trial:
    """A trial that has run to its end."""

    errors: dict[int, float]
    """Its running error at each tenth."""
    final: float
    """Its error, with what its noise adds; infinity without an estimate."""
    work: float


def main(count: int, orders: int) -> None:
    with TemporaryDirectory() as folder:
        out = Path(folder) / "problems" / "p" / "ref.json"
        out.parent.mkdir(parents=True)
        reference = run_hmc_reference(PROBLEM, str(out), budget_sec=900, artifacts_dir=folder)
        llc, se = reference["llc_ref"], reference["se_ref"]
        print(f"reference {llc:.4f} ({se:.4f}), {count} trials of each method, {orders} orders")
        print(f"{'method':8} {'pruner':10} {'work saved':>14} {'best error kept':>16} {'ratio':>8}")
        for method in SEARCH_SPACE:
            trials = [_run(method, number, llc, se, Path(folder)) for number in range(count)]
            for pruner in PRUNERS:
                if pruner != NONE:
                    _judge(method, pruner, trials, orders)


def _run(method: str, number: int, llc: float, se: float, folder: Path) -> Trial:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number))
    params = draw_params(study.ask(), method)
    out = folder / "runs" / "p" / method / str(number) / "metrics.json"
    out.parent.mkdir(parents=True)
    told = run_method_trial(
        PROBLEM,
        {"name": method, **params},
        llc,
        str(out),
        budget_sec=BUDGET,
        seed=number,
        artifacts_dir=str(folder),
        study="bench",
    )
    result = TrialResult.from_json(told).judged(llc, se)
    error = result.error if result.scored_as is None else result.scored_as
    reports = TrialReports(out.parent, "bench").read()
    return Trial(
        {report.step: report.error for report in reports},
        np.inf if result.estimate is None or error is None else error,
        result.work.get("full_gradients") or 0.0,
    )


def _judge(method: str, pruner: str, trials: list[Trial], orders: int) -> None:
    """Prints what a pruner saves, over random orders of the trials."""
    rng = np.random.default_rng(0)
    whole, best = sum(t.work for t in trials), min(t.final for t in trials)
    saved, ratios = [], []
    for order in range(orders):
        spent, left = _replay(pruner, [trials[k] for k in rng.permutation(len(trials))], order)
        saved.append(1 - spent / whole)
        ratios.append(left / best)
    kept = np.mean(np.asarray(ratios) == 1.0)
    low, high = np.quantile(saved, [0.05, 0.95])
    share = f"{np.mean(saved):.0%} ({low:.0%}-{high:.0%})"
    print(f"{method:8} {pruner:10} {share:>14} {kept:>16.0%} {np.mean(ratios):>8.2f}", flush=True)


def _replay(pruner: str, trials: list[Trial], order: int) -> tuple[float, float]:
    """The work that is spent on the trials in this order, and the smallest error that is left."""
    study = optuna.create_study(pruner=build_pruner(pruner), study_name=json.dumps(order))
    spent, best = 0.0, np.inf
    for trial in trials:
        asked, stopped = study.ask(), None
        for step, error in sorted(trial.errors.items()):
            asked.report(error, step)
            if stopped is None and step < NUM_STEPS and asked.should_prune():
                stopped = step
                break
        if stopped is not None:
            spent += trial.work * stopped / NUM_STEPS
            study.tell(asked, state=TrialState.PRUNED)
        else:
            spent += trial.work
            best = min(best, trial.final)
            study.tell(asked, min(trial.final, 1e6))
    return spent, best


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*(given + [30, 200][len(given) :]))
