"""TrialSpec -> TrialResult: one method on one problem within a budget, in a worker or by hand."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from lambda_hat.conf import compose_problem, compose_sampler
from lambda_hat.conf.samplers import SamplerConfig
from lambda_hat.conf.schema import ConfigError
from lambda_hat.diagnostics import diagnose
from lambda_hat.llc import NoEstimate, estimate_llc
from lambda_hat.problem import ProblemRefused, TrainingUnfinished, training_until
from lambda_hat.runners.boundary import artifacts_of, load_target, noted, strict, versions
from lambda_hat.samplers import load_method
from lambda_hat.samplers.base import Method
from lambda_hat.samplers.loop import Runner
from lambda_hat.store import digest, is_disk_fault, write_json
from lambda_hat.target import Target, loss

MARGIN = 0.02
"""Share of the budget kept for the estimate itself, after the last draw."""


class TrialFailed(Exception):
    """A trial that ends without an estimate; the text says why."""


def run_method_trial(
    problem_spec: dict,
    method_cfg: dict,
    ref_llc: float,
    out_metrics_json: str,
    budget_sec: float = 6000,
    seed: int | None = None,
    artifacts_dir: str | None = None,
) -> dict:
    """Runs one trial and writes its metrics.

    Args:
        problem_spec: {model, data, teacher, seed, overrides, ..} as in a config's `problems`.
        method_cfg: {"name": method, **hyperparams}; the rest are the method's defaults.
        ref_llc: the reference LLC, for `error`.
        out_metrics_json: where the metrics go, whole or not at all.
        budget_sec: wall time of everything, compilation included. The sampler stops before.
        seed: of the sampler; by default one that the settings determine.
        artifacts_dir: where targets are stored; by default where the output path lies, if it is
            `<artifacts>/runs/<pid>/<method>/<trial_id>/metrics.json`, else `./artifacts`.

    Returns:
        What was written. A numerical failure is a result with status "failed" and a sentence.
    """
    began = time.monotonic()
    out = Path(out_metrics_json)
    artifacts = artifacts_of(out, "runs/*/*/*/*", artifacts_dir)
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
        _compute(result, problem_spec, method_cfg, artifacts, began=began)
    if result["llc_hat"] is not None:
        result |= {"status": "complete", "error": abs(result["llc_hat"] - ref_llc)}
    result["runtime_sec"] = time.monotonic() - began
    result = strict(result)
    write_json(out, result)
    return result


def _compute(
    result: dict[str, Any],
    problem_spec: dict,
    method_cfg: dict,
    artifacts: Path,
    *,
    began: float,
) -> None:
    """Fills the result, or with why there is none."""
    try:
        config = _build_sampler_cfg(method_cfg)
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


def _build_sampler_cfg(method_cfg: Mapping[str, Any]) -> SamplerConfig:
    """The checked settings of a method: its defaults with these hyperparameters.

    Raises:
        ConfigError: for an unknown method or a setting that is unknown, mistyped or out of range.
    """
    if "name" not in method_cfg:
        raise ConfigError(["`method_cfg` must hold the method's `name`, but has none. Add it."])
    settings = {key: value for key, value in method_cfg.items() if key != "name"}
    return compose_sampler(method_cfg["name"], settings, where="method_cfg")


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
