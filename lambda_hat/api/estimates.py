"""One sampler run on a problem, with settings that are given."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any

from lambda_hat.api.budget import BUDGET_SEC, waiting
from lambda_hat.api.given import check_budget, whole_seed
from lambda_hat.api.problems import Problem, describe
from lambda_hat.api.references import Reference, check_judge
from lambda_hat.conf import compose_sampler
from lambda_hat.execution.pool import TaskFunction
from lambda_hat.execution.trials import LostTrial, Trials, TrialTask
from lambda_hat.execution.worker import call
from lambda_hat.references.gate import Gate
from lambda_hat.terminal.printing import Terminal
from lambda_hat.trial import TrialResult, TrialSpec


@dataclass(frozen=True)
class Estimate:
    """What one sampler made of a problem."""

    problem: Problem
    spec: TrialSpec
    """What was run: method, settings, seed and budget."""
    result: TrialResult
    """Everything that metrics.json holds."""

    @property
    def llc(self) -> float | None:
        """The LLC; None for a run that failed."""
        return self.result.estimate

    @property
    def se(self) -> float | None:
        """Its standard error."""
        return self.result.se_hat

    @property
    def status(self) -> str:
        """`complete`; `noisy`, where a gate failed; or `failed`: `reason` says why."""
        return self.result.status

    @property
    def reason(self) -> str | None:
        """Why it is noisy, or failed."""
        return self.result.error_msg

    @property
    def gates(self) -> tuple[Gate, ...]:
        """What `complete` and `noisy` rest on."""
        return tuple(self.result.gates)

    @property
    def diagnostics(self) -> Mapping[str, Any]:
        """Numbers that speak for or against its draws."""
        return self.result.diagnostics

    def to_arviz(self) -> Any:
        """Its draws, as ArviZ has them, those of its burn-in included.

        Returns:
            ArviZ's InferenceData, or xarray's DataTree from ArviZ 1 on; `burn_in` of its attrs
            is the number of first draws that the estimate leaves out.

        Raises:
            FileNotFoundError: They were not kept: it failed, or a study keeps its best alone.
        """
        from lambda_hat.traces import read_trace

        store, spec = self.problem.store, self.spec
        return read_trace(store.trace(spec.pid, spec.method, spec.trial_id))

    def __repr__(self) -> str:
        doubts = [self.reason] if self.reason else []
        number = (self.llc, self.se)
        return describe(str(self.result.method), self.problem, number, self.status, *doubts)


def estimate(
    problem: Problem,
    method: str,
    *,
    seed: int = 0,
    budget: float = BUDGET_SEC,
    reference: Reference | None = None,
    **settings: Any,
) -> Estimate:
    """Runs one sampler on a problem, in this process; what is stored is not run again.

    Args:
        problem: The problem.
        method: `sgld`, `vi`, `mclmc` or another sampler.
        seed: Of the sampler.
        budget: Seconds it may take, compilation included.
        reference: Judges the estimate, too.
        settings: The sampler's own, as `steps=20_000, num_chains=4`; its defaults are the rest.

    Returns:
        An estimate; one that failed has no number and says why.

    Raises:
        ConfigError: A setting is none, or the reference is another problem's.
    """
    check_judge(problem, reference)
    check_budget(budget)
    composed = compose_sampler(method, settings, where=f"{method} settings")
    spec = TrialSpec(
        pid=problem.pid,
        problem=problem.item.spec,
        method=method,
        hyperparams=asdict(composed),
        seed=whole_seed(seed),
        budget_sec=budget,
    )
    store = problem.store
    llc_ref = reference.llc if reference else None
    task = TrialTask(spec, llc_ref, store.target_id(problem.pid))
    run = "lambda_hat.runners.run_method:run_method_trial"
    trials = Trials(store, _ThisThread(), run, Terminal().warn)
    with waiting(f"{problem.item.label}: {method}", budget):
        outcome = trials.outcome_of(task, trials.submit(task))
    if isinstance(outcome, LostTrial):
        outcome = spec.failure(outcome.reason, llc_ref=llc_ref)
    judged = outcome.judged(llc_ref, reference.se if reference else None)
    return Estimate(problem, spec, judged)


class _ThisThread:
    """A pool that runs a task at once where it is asked to, so that Ctrl-C ends it."""

    num_workers = 1

    def submit(
        self,
        function: TaskFunction,
        /,
        *args: Any,
        deadline_sec: float | None = None,
        **kwargs: Any,
    ) -> Future[Any]:
        """See `TaskPool.submit`; there is no deadline besides the task's own."""
        future: Future[Any] = Future()
        try:
            future.set_result(call(str(function), args, kwargs))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self, *, cancel: bool = False) -> None:
        """There is nothing to close."""
