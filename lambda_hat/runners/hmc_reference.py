"""Computes the reference of one problem in a worker, and writes ref.json."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from lambda_hat.conf import check_reference, compose_problem, compose_reference
from lambda_hat.conf.samplers import ReferenceConfig, is_as_precise
from lambda_hat.conf.schema import ProblemConfig
from lambda_hat.problems import (
    Problem,
    ProblemRefused,
    TrainingUnfinished,
    llc_exact,
    rlct,
    training_until,
)
from lambda_hat.references.engine import EngineResult
from lambda_hat.references.outlook import progress
from lambda_hat.references.result import ReferenceResult
from lambda_hat.references.verdict import Verdict, sample_reference
from lambda_hat.runners.boundary import artifacts_of, load_problem, noted, pinned_jax, versions
from lambda_hat.store import (
    is_disk_fault,
    partial_beside,
    read_or_quarantine,
    strict,
    trace_beside,
    write_json,
)
from lambda_hat.traces import write_trace

_LOG = logging.getLogger(__name__)

SCHEMA = 2
"""Part of a reference's settings; raised when the same settings come to mean other draws."""


@pinned_jax()
def run_hmc_reference(
    problem_spec: dict,
    out_ref_json: str,
    budget_sec: float = 36000,
    seed: int = 42,
    settings: dict | None = None,
    artifacts_dir: str | None = None,
) -> dict:
    """Computes the reference of one problem, or goes on with it, and writes ref.json.

    A reference that is stored with the same settings and passed its gates is returned as it is;
    one that failed them for want of draws goes on from its chains if the budget leaves time. If the
    target had to be built again and is another one, so is its reference.

    Args:
        problem_spec: {model, data, teacher, seed, overrides, ..} as in a config's `problems`.
        out_ref_json: where it goes; the chains' checkpoints lie beside it, and, while they run,
            `ref.json.partial`, which says how they stand.
        budget_sec: wall time, earlier runs of the same chains counted.
        seed: of the chains and particles.
        settings: the config's `reference:` mapping (see `ReferenceConfig`).
        artifacts_dir: where targets are stored; by default where the output path lies, if it is
            `<artifacts>/problems/<pid>/ref.json`, else `./artifacts`.

    Returns:
        What was written. Every failure is a reference with status "unreliable" and its reasons.

    Raises:
        ConfigError: if the problem or the settings are none.
    """
    began = time.monotonic()
    out = Path(out_ref_json)
    config = compose_problem(problem_spec)
    reference = compose_reference(settings or {})
    check_reference(reference, config, where="settings")
    artifacts = artifacts_of(out, "problems/*/*", artifacts_dir)
    asked = _asked(config, _identity(reference, seed), budget_sec)
    with noted() as notices:
        stored = _stored(out, asked)
        if stored and stored.is_final(budget_sec):
            if _target_stands(stored, config, artifacts, began + budget_sec):
                return replace(stored, notices=notices).to_json()
        watch = partial(_tell, partial_beside(out), budget_sec)
        given = {"config": reference, "seed": seed, "folder": out.parent, "watch": watch}
        sample = partial(sample_reference, **given)
        result = _attempt(asked, lambda: _compute(asked, config, artifacts, sample, began, out))
    result = replace(result, notices=notices, runtime_sec=sum(result.seconds.values()))
    write_json(out, written := result.to_json())
    partial_beside(out).unlink(missing_ok=True)
    return written


def _tell(path: Path, budget_sec: float, name: str, result: EngineResult) -> None:
    write_json(path, strict(progress(name, result, budget_sec)))


def _compute(
    asked: ReferenceResult,
    config: ProblemConfig,
    artifacts: Path,
    sample: Callable[..., Verdict],
    began: float,
    out: Path,
) -> ReferenceResult:
    """The reference, within its budget."""
    budget_sec = asked.budget_sec or 0.0
    try:
        with training_until(began + budget_sec):
            problem = load_problem(config, artifacts)
    except TrainingUnfinished as unfinished:
        reason = f"{unfinished} Raise --hmc-budget, which counts training as well."
        return replace(asked, reasons=(reason,), seconds={"setup": time.monotonic() - began})
    known = _with_problem(asked, problem)
    setup = time.monotonic() - began

    def sampled() -> ReferenceResult:
        verdict = sample(problem, budget_sec=budget_sec - setup)
        _write_trace(trace_beside(out), known, verdict)
        return _with_verdict(known, verdict, setup)

    return _attempt(known, sampled)


def _write_trace(path: Path, known: ReferenceResult, verdict: Verdict) -> None:
    """Writes the draws of the engine that gives the number, if it has any."""
    path.unlink(missing_ok=True)
    if (trace := verdict.parts[verdict.method].trace) is not None:
        names = ("pid", "target", "nbeta", "init_loss")
        about = {name: getattr(known, name) for name in names}
        write_trace(path, trace, {**about, "method": verdict.method})


def _attempt(known: ReferenceResult, step: Callable[[], ReferenceResult]) -> ReferenceResult:
    """What the step gives; where it fails, what was known before, and why there is no number."""
    try:
        return step()
    except ProblemRefused as refusal:
        return replace(known, reasons=(str(refusal),), fixable_by_more_draws=False)
    except Exception as error:  # The boundary: what is unforeseen is told, and kept in full.
        if is_disk_fault(error):
            raise
        return replace(
            known,
            reasons=(f"{type(error).__name__}: {error}",),
            fixable_by_more_draws=False,
            traceback=traceback.format_exc(),
        )


def _identity(reference: ReferenceConfig, seed: int) -> dict[str, Any]:
    """What a reference depends on, besides its problem and its budget."""
    settings = asdict(reference)
    settings.pop("accept_unreliable")
    return {"schema": SCHEMA, "seed": seed, **settings}


def _stored(out: Path, asked: ReferenceResult) -> ReferenceResult | None:
    """The reference at `out`, if it is of this problem and these settings."""
    content = read_or_quarantine(out, ("status", "settings", "pid"), _LOG.warning)
    stored = ReferenceResult.from_json(content or {})
    precision = {"relative_se": asked.settings["relative_se"]}
    same = stored.pid == asked.pid and {**stored.settings, **precision} == asked.settings
    return stored if content and same and is_as_precise(stored.settings, asked.settings) else None


def _target_stands(
    stored: ReferenceResult, config: ProblemConfig, artifacts: Path, deadline: float
) -> bool:
    """Whether the target of a reference is there, or comes out the same when built again."""
    if (target := stored.target) is None:
        return True  # There was none to sample.
    try:
        with training_until(deadline):
            found = load_problem(config, artifacts).target_id
    except (ProblemRefused, TrainingUnfinished) as reason:
        found = str(reason)
    if found != target:
        _LOG.warning(
            "The target %s that %s is the reference of is gone; built again, it is %s. The "
            "reference is computed again.",
            target,
            config.pid,
            found,
        )
    return found == target


def _asked(
    config: ProblemConfig, settings: Mapping[str, Any], budget_sec: float
) -> ReferenceResult:
    """What is known before the problem is built."""
    return ReferenceResult(
        pid=config.pid,
        settings=settings,
        budget_sec=budget_sec,
        n=config.data.n,
        beta=config.nbeta / config.data.n,
        nbeta=config.nbeta,
        gamma=config.posterior.gamma,
        problem=config.canonical(),
        versions=versions("float64"),
    )


def _with_problem(asked: ReferenceResult, problem: Problem) -> ReferenceResult:
    """What is known before any draw."""
    limit = rlct(problem.config)
    return replace(
        asked,
        target=problem.target_id,
        d=len(problem.w_star),
        init_loss=problem.init_loss,
        evidence=problem.evidence,
        llc_exact=llc_exact(problem),
        rlct={"value": limit[0], "multiplicity": limit[1]} if limit else None,
    )


def _with_verdict(known: ReferenceResult, verdict: Verdict, setup: float) -> ReferenceResult:
    """The reference, once its engines have run; `setup` is the seconds before they did."""
    llc, se = verdict.number
    reasons = [gate.sentence for gate in verdict.failed]
    needed = verdict.needed_budget if verdict.failed else None
    if needed is not None:
        needed += setup
        reasons.append(f"At the rate so far the gates would hold within --hmc-budget {needed:.0f}.")
    return replace(
        known,
        llc_ref=llc,
        se_ref=se,
        method=verdict.method,
        methods={name: part.to_json() for name, part in verdict.parts.items()},
        status="unreliable" if verdict.failed else "ok",
        reasons=reasons,
        needed_budget_sec=needed,
        fixable_by_more_draws=all(gate.fixable_by_more_draws for gate in verdict.failed),
        gates=verdict.gates,
        diagnostics=verdict.parts[verdict.method].diagnostics,
        seconds={**verdict.cost.seconds, "setup": setup},
        work={"full_gradients": verdict.cost.work},
    )
