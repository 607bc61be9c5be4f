"""Helps a reference that another worker computes, for as long as that one draws."""

from __future__ import annotations

import time
from pathlib import Path

from lambda_hat.conf import compose_problem, compose_reference
from lambda_hat.references.verdict import ENGINES
from lambda_hat.runners.boundary import artifacts_of, load_problem, pinned_jax
from lambda_hat.store import wanted_beside


@pinned_jax()
def help_reference(
    problem_spec: dict,
    out_ref_json: str,
    budget_sec: float = 30.0,
    seed: int = 42,
    settings: dict | None = None,
    artifacts_dir: str | None = None,
) -> dict:
    """Goes on with chains of a reference that `run_hmc_reference` computes elsewhere.

    Args:
        problem_spec: as that one has it, like all that follows but the budget.
        out_ref_json: where that one's result goes.
        budget_sec: wall time after which this one ends; it ends before where it is not needed.
        seed: of the chains.
        settings: the config's `reference:` mapping.
        artifacts_dir: where targets are stored.

    Returns:
        `moments`: how many times it went on with a chain, or a ladder.
    """
    out = Path(out_ref_json)
    if not wanted_beside(out).exists():
        return {"moments": 0}
    problem = load_problem(
        compose_problem(problem_spec), artifacts_of(out, "problems/*/*", artifacts_dir)
    )
    deadline, reference = time.monotonic() + budget_sec, compose_reference(settings or {})
    moments = 0
    for engine in ENGINES.values():
        if engine.help is not None:
            moments += engine.help(
                problem,
                reference,
                budget_sec=deadline - time.monotonic(),
                seed=seed,
                checkpoint=out.with_name(engine.checkpoint),
            )
    return {"moments": moments}
