"""Runs one trial in a worker, from its settings to its metrics.json."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lambda_hat.conf import compose_problem
from lambda_hat.conf.samplers import SamplerConfig
from lambda_hat.conf.schema import ConfigError, ProblemConfig
from lambda_hat.diagnostics import diagnose, weighed
from lambda_hat.llc import MIN_DRAWS, NoEstimate, estimate_llc
from lambda_hat.problems import ProblemRefused, TrainingUnfinished, training_until
from lambda_hat.runners.boundary import load_target, noted, pinned_jax, versions
from lambda_hat.runners.watch import Watch
from lambda_hat.samplers import load_method
from lambda_hat.samplers.base import Method
from lambda_hat.samplers.loop import Runner
from lambda_hat.store import digest, is_disk_fault, trace_beside, write_json
from lambda_hat.store.reports import TrialReports
from lambda_hat.target import Target
from lambda_hat.traces import trace_of, write_trace
from lambda_hat.trial import PRUNED, TrialResult

MARGIN = 0.02
"""Share of the budget kept for the estimate itself, after the last draw."""


BuildConfig = Callable[[Mapping[str, Any]], SamplerConfig]


@pinned_jax()
def run_trial(
    problem_spec: Mapping[str, Any],
    method_cfg: Mapping[str, Any],
    *,
    build: BuildConfig,
    ref_llc: float | None,
    out: Path,
    artifacts: Path,
    budget_sec: float,
    seed: int | None,
    began: float,
    study: str | None = None,
) -> dict[str, Any]:
    """Runs one trial and writes its metrics; `run_method_trial` says what its arguments mean.

    Args:
        build: makes the checked settings of a method from `method_cfg`.
        artifacts: where targets are stored.
        began: when the budget began, in monotonic seconds.
        study: the study that may have the trial stopped, if one may.
    """
    asked = TrialResult(
        llc_ref=ref_llc,
        budget_sec=budget_sec,
        method=method_cfg.get("name"),
        hyperparams={key: value for key, value in method_cfg.items() if key != "name"},
        seed=seed,
    )
    reports = None if study is None else TrialReports(out.parent, study)
    deadline = began + (1.0 - MARGIN) * budget_sec
    call = _Call(artifacts, trace_beside(out), began, deadline, reports)
    call.trace.unlink(missing_ok=True)
    with noted() as notices:
        result = _attempt(asked, lambda: _settle(asked, problem_spec, method_cfg, build, call))
    took = time.monotonic() - began
    # What is left is the estimate's, or what a trial that failed early was busy with.
    rest = {"estimate" if result.seconds else "setup": took - sum(result.seconds.values())}
    seconds = {**result.seconds, **rest}
    result = replace(result, notices=notices, runtime_sec=sum(seconds.values()), seconds=seconds)
    write_json(out, written := result.to_json())
    return written


class _Call(NamedTuple):
    """Where files are, when the budget began and the sampler stops, in monotonic seconds."""

    artifacts: Path
    trace: Path
    began: float
    deadline: float
    reports: TrialReports | None


def _attempt(known: TrialResult, step: Callable[[], TrialResult]) -> TrialResult:
    """What the step gives; where it fails, what was known before, and a sentence that says why."""
    try:
        return step()
    except (ConfigError, ProblemRefused, NoEstimate) as reason:
        return known.failed(str(reason))
    except TrainingUnfinished as unfinished:
        advice = "Raise --method-budget, or have the target made before: a reference and parsl-llc"
        return replace(known.failed(f"{unfinished} {advice} store it."), budget_exhausted=True)
    except MemoryError:
        return known.failed("The trial ran out of memory. Lower its batch or the problem's n.")
    except Exception as error:  # The boundary: what is unforeseen is told, and kept in full.
        if is_disk_fault(error):
            raise
        return replace(known.failed(_sentence(error)), traceback=traceback.format_exc())


def _settle(
    asked: TrialResult,
    problem_spec: Mapping[str, Any],
    method_cfg: Mapping[str, Any],
    build: BuildConfig,
    call: _Call,
) -> TrialResult:
    """Checks what was asked for, and runs it."""
    config = build(method_cfg)
    problem = compose_problem(problem_spec)
    method = load_method(method_cfg["name"])
    seed = asked.seed
    if seed is None:
        seed = int(digest([problem.pid, method_cfg["name"], asdict(config)])[:7], 16)
    known = replace(
        asked,
        hyperparams=asdict(config),
        seed=seed,
        pid=problem.pid,
        versions=versions(method.DTYPE),
    )
    with jax.enable_x64(method.DTYPE == "float64"):
        return _attempt(known, lambda: _run(known, method, config, problem, call))


def _run(
    known: TrialResult,
    method: Method,
    config: SamplerConfig,
    problem: ProblemConfig,
    call: _Call,
) -> TrialResult:
    """Loads the target and samples from it, if the method can."""
    with training_until(call.deadline):
        target, target_id = load_target(problem, call.artifacts, method.DTYPE)
    known = replace(known, target=target_id)
    if refusal := method.refusal(target, config):
        return known.failed(refusal)
    return _attempt(known, lambda: _sample(known, method, target, config, call))


def _sample(
    known: TrialResult, method: Method, target: Target, config: SamplerConfig, call: _Call
) -> TrialResult:
    """Runs the sampler until it is done or the deadline is there."""
    setup = time.monotonic() - call.began
    runner = Runner(method, target, config, key=jax.random.key(int(known.seed or 0)))
    if call.reports is not None:
        call.reports.begin()
    watch = Watch(
        runner.plan,
        target,
        call.began,
        call.deadline,
        ref_llc=known.llc_ref,
        reports=call.reports,
    )
    progress = runner.run(deadline=call.deadline, on_chunk=watch)
    cut = time.monotonic() >= call.deadline - 1.0 and progress.num_draws < runner.plan.num_draws
    known = replace(
        known,
        seconds={"setup": setup, **progress.seconds},
        work={"full_gradients": runner.draws().work_total},
        budget_exhausted=bool(progress.warmup_cut or cut),
    )
    if progress.diverged:
        return known.failed(
            f"The losses must stay finite, but diverged by step {progress.step} of "
            f"{runner.plan.num_warmup + runner.plan.num_draws * runner.plan.thin}. "
            "Take a smaller step or learning rate."
        )
    if watch.pruned_at is not None:
        reason = (
            f"Its study stopped it for its running error at {watch.pruned_at} tenths of its run."
        )
        return replace(known, status=PRUNED, error_msg=reason)
    if watch.lost and progress.num_draws < MIN_DRAWS:  # Too few to tell more of them.
        return _left_basin(known, "one", f"for good within {progress.num_draws} draws")
    return _attempt(known, lambda: _estimate(known, runner, call.trace))


def _estimate(known: TrialResult, runner: Runner, trace: Path) -> TrialResult:
    """The estimate from the draws, unless chains have left the basin that it is of."""
    target = runner.target
    draws, tail = weighed(runner.draws())
    trim, init_loss = runner.method.TRIM_TRANSIENT, target.init_loss
    estimate = estimate_llc(draws, nbeta=target.nbeta, init_loss=init_loss, trim=trim)
    about = {name: getattr(known, name) for name in ("pid", "target", "method", "seed")}
    write_trace(
        trace,
        trace_of(draws, nbeta=target.nbeta, init_loss=init_loss),
        {**about, "burn_in": estimate.burn_in, "nbeta": target.nbeta, "init_loss": init_loss},
    )
    diagnostics = {
        **diagnose(draws, target=target, init_loss=init_loss),
        **runner.summary(),
        **tail,
        "burn_in": estimate.burn_in,
        "warmup_cut": runner.progress.warmup_cut,
    }
    known = replace(known, diagnostics=diagnostics)
    if left := diagnostics["chains_left_basin"]:
        where = f"(their mean: LLC {estimate.llc_hat:.4g} at d = {target.d})"
        return _left_basin(known, f"{left} of {draws.loss.shape[1]}", where)
    return known.completed(estimate.llc_hat, estimate.se_hat)


def _left_basin(known: TrialResult, which: str, how: str) -> TrialResult:
    return known.failed(
        f"Every chain must stay in the basin of w*, but {which} left it {how}. "
        "Take a smaller step or learning rate."
    )


def _sentence(error: Exception) -> str:
    text = str(error).strip().splitlines()
    first = text[0] if text else "no message"
    if "RESOURCE_EXHAUSTED" in first:
        return f"The trial ran out of memory: {first[:300]}. Lower its batch or the problem's n."
    return f"{type(error).__name__}: {first[:300]}"
