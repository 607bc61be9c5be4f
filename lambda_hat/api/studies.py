"""Samplers tuned against a reference from a program: what `parsl-optuna` does."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lambda_hat.api.budget import BUDGET_SEC
from lambda_hat.api.given import as_path, whole_seed
from lambda_hat.api.problems import Problem
from lambda_hat.api.references import Reference, check_judge
from lambda_hat.conf import ConfigError
from lambda_hat.entrypoints import parsl_optuna
from lambda_hat.entrypoints.command import checked_workers, make_folders
from lambda_hat.entrypoints.environment import defined_environment
from lambda_hat.entrypoints.plans import StudyPlan, study_plan
from lambda_hat.execution.trials import deadline_of
from lambda_hat.report import write_report
from lambda_hat.report.formatting import format_count, format_estimate
from lambda_hat.store import Store, lock_folder
from lambda_hat.tables.best_file import read_best
from lambda_hat.terminal.tuning import Console

if TYPE_CHECKING:
    import pandas as pd

TRIAL_SEC = 60.0
"""What a trial may take where nothing else is said."""


class NotTuned(ValueError):
    """No study has a result; the text says why."""


@dataclass(frozen=True)
class Study:
    """What tuning found for one problem."""

    problem: Problem
    methods: tuple[str, ...]
    store: Store
    failures: tuple[str, ...] = ()
    """A sentence for each study that has no result."""

    @property
    def best(self) -> dict[str, dict[str, Any]]:
        """Of each method the best trial, as `optuna_best.yaml` has it.

        `estimate(problem, "sgld", **study.best["sgld"]["hyperparams"])` runs it again.
        """
        found = read_best(self.store.best)
        keys = {method: (self.problem.pid, method) for method in self.methods}
        return {method: found[key] for method, key in keys.items() if key in found}

    @property
    def trials(self) -> pd.DataFrame:
        """One row a trial."""
        table = read_trials(self.store.trials_table)
        own = (table.pid == self.problem.pid) & table.method.isin(self.methods)
        return table.loc[own].reset_index(drop=True)

    def report(self) -> Path:
        """Writes the report of the results folder, one HTML page; returns its path."""
        return write_report(self.store, notes=self.failures)

    def __repr__(self) -> str:
        lines = [f"<Study of {self.problem.item.label} {self.problem.pid}>"]
        for method, best in self.best.items():
            again = best.get("confirmed")
            told = again or best
            number = format_estimate(told["llc_hat"], told["se_hat"])
            runs = again and f"{format_count(again['num_runs'], 'run')} with other seeds"
            by = runs or best["status"]
            lines.append(f"  {method}: LLC {number}, error {told['error']:.3g}, {by}")
        return "\n".join([*lines, *(f"  {failure}" for failure in self.failures)])


def tune(
    problem: Problem,
    methods: Sequence[str],
    *,
    reference: Reference | None = None,
    trials: int = 50,
    batch_size: int = 4,
    trial_budget: float = TRIAL_SEC,
    seed: int = 0,
    objective: str = "rmse",
    confirm_seeds: int = 4,
    search_space: Mapping[str, Any] | None = None,
    accept_unreliable: bool = False,
    results: Path | str = "results",
    parsl_config: Path | str | None = None,
) -> Study:
    """Tunes samplers on a problem against its reference; goes on with what is stored.

    Args:
        problem: The problem.
        methods: `sgld`, `vi`, `mclmc`: those to tune.
        reference: What trials are scored against; by default computed first, as `reference` does.
        trials: Of each method, earlier ones counted.
        batch_size: Trials of each method in flight.
        trial_budget: Seconds for a trial, compilation included.
        seed: Decides every proposal, and the seed of every trial.
        objective: `rmse`, `abs` or `relative`.
        confirm_seeds: Other seeds that the best settings and the defaults run with; 0 for none.
        search_space: Ranges in place of the package's, as a config has them.
        accept_unreliable: Whether to tune against a reference whose gates failed.
        results: The folder of tables, studies and the report.
        parsl_config: A file that defines `fresh_config()`, for workers of their own; by default
            trials run one after the other in a thread of this process.

    Raises:
        ConfigError: A setting is none, or the study was begun with others.
        NotTuned: No method has a result: the reference is unreliable, say.
        KeyboardInterrupt: You asked for it; everything is kept, and the same call goes on.
    """
    check_judge(problem, reference)
    results = as_path("results", results)
    several = isinstance(methods, Iterable) and not isinstance(methods, str)
    budget = BUDGET_SEC if reference is None else reference.result.budget_sec
    settings = {} if reference is None else asdict(reference.settings)
    section = {
        "max_trials": trials,
        "batch_size": batch_size,
        "method_budget_sec": trial_budget,
        "hmc_budget_sec": budget,
        "seed": whole_seed(seed),
        "objective": objective,
        "confirm_seeds": confirm_seeds,
    }
    plan = study_plan(
        {
            "problems": [problem.item.spec],
            "methods": list(methods) if several else [methods],
            "optuna": section,
            "reference": {**settings, "accept_unreliable": accept_unreliable},
            "search_space": search_space,
            "artifacts_dir": str(problem.artifacts),
            "results_dir": str(results),
        },
        folder=Path.cwd(),
        where="tune",
    )
    return _run(plan, problem, parsl_config)


def read_trials(path: Path | str) -> pd.DataFrame:
    """The table of all trials, one row each.

    Args:
        path: `optuna_trials.parquet`, or the results folder that it is in.

    Raises:
        ConfigError: There is no such table.
    """
    import pandas as pd

    path = as_path("path", path)
    path = Store.at(path, path).trials_table if path.is_dir() else path
    if not path.exists():
        raise ConfigError([f"`path` must be a table of trials, but there is no {path}."])
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            [f"`path` must be a table of trials, but {path} is none: {error}"]
        ) from None


def _run(plan: StudyPlan, problem: Problem, parsl_config: Path | str | None) -> Study:
    functions = parsl_optuna.checked_functions(plan)
    with ExitStack() as stack:
        workers = _workers(parsl_config, plan, stack)
        make_folders(plan.store)
        console = Console()
        stack.enter_context(lock_folder(plan.store.results))
        console.keep_log(plan.store, ["lambda_hat.tune"])
        outcome, studies = parsl_optuna.tune(plan, functions, console, workers)
    if outcome.interrupted:
        raise KeyboardInterrupt("Everything is kept; the same call goes on.")
    if not any(study.progress.num_ended for study in studies):
        raise NotTuned("\n".join(outcome.failures))
    return Study(problem, plan.methods, plan.store, outcome.failures)


def _workers(path: Path | str | None, plan: StudyPlan, stack: ExitStack) -> Path | None:
    """The Parsl file, checked; workers get the environment that the commands give them.

    Raises:
        ConfigError: It is no such file.
    """
    if path is None:
        return None
    if not isinstance(path, str | Path):
        rule = "`parsl_config` must be the path of a Python file that defines fresh_config()"
        raise ConfigError([f"{rule}, but got a {type(path).__name__}."])
    stack.enter_context(defined_environment())
    # Parsl forks only to start another program, so that no thread of JAX can be missed there.
    stack.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", r"os.fork\(\) was called", RuntimeWarning)
    trial_sec = deadline_of(plan.settings.method_budget)
    return checked_workers(Path(path), run_dir=plan.store.logs, trial_sec=trial_sec)
