"""The reference of a problem: the number that samplers are compared with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lambda_hat.api.budget import BUDGET_SEC, waiting
from lambda_hat.api.given import check_budget, check_made, whole_seed
from lambda_hat.api.problems import Problem, describe
from lambda_hat.conf import ConfigError, check_reference, compose_reference
from lambda_hat.conf.samplers import ReferenceConfig
from lambda_hat.references.gate import Gate
from lambda_hat.references.result import ReferenceResult


@dataclass(frozen=True)
class Reference:
    """The reference LLC of a problem, with the gates that it rests on."""

    problem: Problem
    settings: ReferenceConfig
    result: ReferenceResult
    """Everything that ref.json holds."""

    @property
    def llc(self) -> float | None:
        """The LLC; None where there is no number."""
        return self.result.llc_ref

    @property
    def se(self) -> float | None:
        """Its standard error."""
        return self.result.se_ref

    @property
    def status(self) -> str:
        """`ok`, or `unreliable`: `reasons` says why."""
        return self.result.status

    @property
    def reasons(self) -> tuple[str, ...]:
        """A sentence for each gate that failed, or why there is no number."""
        return tuple(self.result.reasons)

    @property
    def gates(self) -> tuple[Gate, ...]:
        """Every gate, with value, threshold and verdict."""
        return tuple(self.result.gates)

    def to_arviz(self) -> Any:
        """Its draws, as ArviZ has them: `az.summary` gives their R-hat and ESS.

        Returns:
            ArviZ's InferenceData, or xarray's DataTree from ArviZ 1 on; `posterior` has `llc`
            and `distance` (squared, from w*).

        Raises:
            FileNotFoundError: They were not kept: it failed, or an earlier version made it.
        """
        from lambda_hat.traces import read_trace

        return read_trace(self.problem.store.reference_trace(self.problem.pid))

    def __repr__(self) -> str:
        number = (self.llc, self.se)
        return describe("Reference", self.problem, number, self.status, *self.reasons)


def check_judge(of: Problem, judge: Reference | None) -> None:
    """Whether a problem, and the reference that is to judge it, are what they must be.

    Raises:
        ConfigError: One is none, or the reference is another problem's.
    """
    check_made("problem", of, Problem)
    if judge is None:
        return
    check_made("reference", judge, Reference)
    if judge.problem.pid != of.pid:
        got = f"of {judge.problem.pid}, and not of {of.pid}"
        raise ConfigError([f"`reference` must be of the same problem, but it is {got}."])


def reference(
    problem: Problem, *, budget: float = BUDGET_SEC, method: str = "auto", seed: int = 42
) -> Reference:
    """The reference of a problem: stored, gone on with, or computed now, in this process.

    Args:
        problem: The problem.
        budget: Seconds until which it goes on while its gates fail, earlier calls counted.
        method: `auto`, `hmc`, `tempering`, `smc`, `gibbs` or `both`.
        seed: Of the chains.

    Returns:
        A reference; where its gates fail it is `unreliable` and says why.

    Raises:
        ConfigError: A setting is none.
        ProblemRefused: w* is no minimum; the text says by how much, and what to do.
    """
    check_made("problem", problem, Problem)
    check_budget(budget)
    seed = whole_seed(seed)
    settings = compose_reference({"method": method})
    check_reference(settings, problem.config, where="method")
    from lambda_hat.problems import ProblemRefused
    from lambda_hat.runners.hmc_reference import run_hmc_reference

    store = problem.store
    with waiting(f"{problem.item.label}: reference", budget):
        written = run_hmc_reference(
            dict(problem.item.spec),
            str(store.reference(problem.pid)),
            budget_sec=budget,
            seed=seed,
            settings=asdict(settings),
            artifacts_dir=str(problem.artifacts),
        )
    result = ReferenceResult.from_json(written)
    if result.target is None and not (result.fixable_by_more_draws or result.traceback):
        raise ProblemRefused(" ".join(result.reasons))
    return Reference(problem, settings, result)
