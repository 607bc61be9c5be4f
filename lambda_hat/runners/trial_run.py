"""Settings -> TrialResult: what a worker does for one trial, from its target to its metrics."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from lambda_hat.conf import compose_problem
from lambda_hat.conf.samplers import SamplerConfig
from lambda_hat.conf.schema import ConfigError
from lambda_hat.diagnostics import diagnose
from lambda_hat.llc import NoEstimate, estimate_llc
from lambda_hat.problem import ProblemRefused, TrainingUnfinished, training_until
from lambda_hat.runners.boundary import load_target, noted, strict, versions
from lambda_hat.samplers import load_method
from lambda_hat.samplers.base import Method
from lambda_hat.samplers.loop import Runner
from lambda_hat.store import digest, is_disk_fault, write_json
from lambda_hat.target import Target, loss

MARGIN = 0.02
"""Share of the budget kept for the estimate itself, after the last draw."""


BuildConfig = Callable[[Mapping[str, Any]], SamplerConfig]


class TrialFailed(Exception):
    """A trial that ends without an estimate; the text says why."""


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
) -> dict[str, Any]:
    """Runs one trial and writes its metrics; `run_method_trial` says what its arguments mean.

    Args:
        build: makes the checked settings of a method from `method_cfg`.
        artifacts: where targets are stored.
        began: when the budget began, in monotonic seconds.
    """
    settings = {key: value for key, value in method_cfg.items() if key != "name"}
    result: dict[str, Any] = {
        "status": "failed",
        "llc_hat": None,
        "se_hat": None,
        "llc_ref": ref_llc,
        "objective": None,
        "error": None,
        "runtime_sec": 0.0,
        "seconds": {},
        "work": {"full_gradients": None},
        "budget_sec": budget_sec,
        "budget_exhausted": False,
        "diagnostics": {},
        "method": method_cfg.get("name"),
        "hyperparams": settings,
        "seed": seed,
        "error_msg": None,
        "notices": [],
        "target": None,
        "versions": None,
    }
    with noted() as result["notices"]:
        _compute(result, problem_spec, method_cfg, artifacts, build=build, began=began)
    if result["llc_hat"] is not None:
        result["status"] = "complete"
        result["error"] = None if ref_llc is None else abs(result["llc_hat"] - ref_llc)
    result["runtime_sec"] = time.monotonic() - began
    result = strict(result)
    write_json(out, result)
    return result


def _compute(
    result: dict[str, Any],
    problem_spec: Mapping[str, Any],
    method_cfg: Mapping[str, Any],
    artifacts: Path,
    *,
    build: BuildConfig,
    began: float,
) -> None:
    """Fills the result, or with why there is none."""
    try:
        config = build(method_cfg)
        result["hyperparams"] = asdict(config)
        problem = compose_problem(problem_spec)
        if (seed := result["seed"]) is None:
            seed = int(digest([problem.pid, method_cfg["name"], asdict(config)])[:7], 16)
        method = load_method(method_cfg["name"])
        result |= {"pid": problem.pid, "seed": seed, "versions": versions(method.DTYPE)}
        deadline = began + (1.0 - MARGIN) * result["budget_sec"]
        with jax.enable_x64(method.DTYPE == "float64"):
            with training_until(deadline):
                target, result["target"] = load_target(problem, artifacts, method.DTYPE)
            if refusal := method.refusal(target, config):
                raise TrialFailed(refusal)
            _sample(result, method, target, config, seed=seed, began=began, deadline=deadline)
    except (ConfigError, ProblemRefused, NoEstimate, TrialFailed) as reason:
        result["error_msg"] = str(reason)
    except TrainingUnfinished as unfinished:
        result["budget_exhausted"] = True
        result["error_msg"] = (
            f"{unfinished} Raise --method-budget, or have the target made before: a reference "
            "and parsl-llc store it."
        )
    except MemoryError:
        result["error_msg"] = "The trial ran out of memory. Lower its batch or the problem's n."
    except Exception as error:  # The boundary: what is unforeseen is told, and kept in full.
        if is_disk_fault(error):
            raise
        result["error_msg"] = _sentence(error)
        result["traceback"] = traceback.format_exc()


def _sample(
    result: dict[str, Any],
    method: Method,
    target: Target,
    config: SamplerConfig,
    *,
    seed: int,
    began: float,
    deadline: float,
) -> None:
    """Runs the sampler and fills the result, as far as it gets."""
    ready = time.monotonic()
    init_loss = float(
        jax.jit(loss, static_argnums=0)(target.form, target.arrays, target.arrays.w_star)
    )
    runner = Runner(method, target, config, key=jax.random.key(seed))
    progress = runner.run(deadline=deadline)
    sampled = time.monotonic()
    draws = runner.draws()
    seconds = {"setup": ready - began, **progress.seconds}
    result |= {"seconds": seconds, "work": {"full_gradients": draws.work_total}}
    result["budget_exhausted"] = progress.warmup_cut or (
        sampled >= deadline - 1.0 and progress.num_draws < runner.plan.num_draws
    )
    if progress.diverged:
        raise TrialFailed(
            f"The losses must stay finite, but diverged by step {progress.step} of "
            f"{runner.plan.num_warmup + runner.plan.num_draws * runner.plan.thin}. "
            "Take a smaller step or learning rate."
        )
    estimate = estimate_llc(
        draws, nbeta=target.nbeta, init_loss=init_loss, trim=method.TRIM_TRANSIENT
    )
    result["diagnostics"] = diagnose(draws, target=target, init_loss=init_loss)
    result["diagnostics"] |= runner.summary()
    result["diagnostics"] |= {"burn_in": estimate.burn_in, "warmup_cut": progress.warmup_cut}
    seconds["estimate"] = time.monotonic() - sampled
    if left := result["diagnostics"]["chains_left_basin"]:
        raise TrialFailed(
            f"Every chain must stay in the basin of w*, but {left} of {draws.loss.shape[1]} left "
            f"it (their mean: LLC {estimate.llc_hat:.4g} at d = {target.d}). "
            "Take a smaller step or learning rate."
        )
    result |= {"llc_hat": estimate.llc_hat, "se_hat": estimate.se_hat}


def _sentence(error: Exception) -> str:
    text = str(error).strip().splitlines()
    first = text[0] if text else "no message"
    if "RESOURCE_EXHAUSTED" in first:
        return f"The trial ran out of memory: {first[:300]}. Lower its batch or the problem's n."
    return f"{type(error).__name__}: {first[:300]}"
