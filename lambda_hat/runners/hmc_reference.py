"""Problem -> Reference: ref.json of one problem, trusted only if it passes its gates."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lambda_hat.conf import check_reference, compose_problem, compose_reference
from lambda_hat.conf.samplers import ReferenceConfig
from lambda_hat.conf.schema import ProblemConfig
from lambda_hat.problem import (
    Problem,
    ProblemRefused,
    TrainingUnfinished,
    llc_exact,
    rlct,
    training_until,
)
from lambda_hat.references.verdict import Verdict, sample_reference
from lambda_hat.runners.boundary import artifacts_of, load_problem, noted, strict, versions
from lambda_hat.store import is_disk_fault, read_or_quarantine, write_json

_LOG = logging.getLogger(__name__)

SCHEMA = 2
"""Part of a reference's settings; raised when the same settings come to mean other draws."""


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
        out_ref_json: where it goes; the chains' checkpoint lies beside it.
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
    identity = _identity(reference, seed)
    artifacts = artifacts_of(out, "problems/*/*", artifacts_dir)
    result = _blank(config, identity, budget_sec)
    with noted() as result["notices"]:
        stored = _stored(out, config, identity)
        if stored and (stored["status"] == "ok" or _final(stored, budget_sec)):
            if _target_stands(stored, config, artifacts, began + budget_sec):
                return {**stored, "notices": result["notices"]}
        _compute(result, config, reference, artifacts, began=began, seed=seed, folder=out.parent)
    result["runtime_sec"] = sum(result["seconds"].values())
    result = strict(result)
    write_json(out, result)
    return result


def _compute(
    result: dict[str, Any],
    config: ProblemConfig,
    reference: ReferenceConfig,
    artifacts: Path,
    *,
    began: float,
    seed: int,
    folder: Path,
) -> None:
    """Fills the result within its budget, or with why there is no number."""
    deadline = began + result["budget_sec"]
    try:
        with training_until(deadline):
            problem = load_problem(config, artifacts)
        result |= _known(problem)
        setup = time.monotonic() - began
        left = result["budget_sec"] - setup
        given = {"budget_sec": left, "seed": seed, "folder": folder}
        result |= _sampled(sample_reference(problem, reference, **given))
        result["seconds"]["setup"] = setup
    except ProblemRefused as refusal:
        result |= {"reasons": [str(refusal)], "fixable_by_more_draws": False}
    except TrainingUnfinished as unfinished:
        result["reasons"] = [f"{unfinished} Raise --hmc-budget, which counts training as well."]
        result["seconds"] = {"setup": time.monotonic() - began}
    except Exception as error:  # The boundary: what is unforeseen is told, and kept in full.
        if is_disk_fault(error):
            raise
        result |= {"reasons": [f"{type(error).__name__}: {error}"], "fixable_by_more_draws": False}
        result["traceback"] = traceback.format_exc()


def _identity(reference: ReferenceConfig, seed: int) -> dict[str, Any]:
    """What a reference depends on, besides its problem and its budget."""
    settings = asdict(reference)
    settings.pop("accept_unreliable")
    return {"schema": SCHEMA, "seed": seed, **settings}


def _stored(out: Path, config: ProblemConfig, identity: Mapping[str, Any]) -> dict | None:
    """The reference at `out`, if it is of this problem and these settings."""
    stored = read_or_quarantine(out, ("status", "settings", "pid"), _LOG.warning)
    if stored and stored["pid"] == config.pid and stored["settings"] == dict(identity):
        return stored
    return None


def _target_stands(
    stored: Mapping[str, Any], config: ProblemConfig, artifacts: Path, deadline: float
) -> bool:
    """Whether the target of a reference is there, or comes out the same when built again."""
    if (target := stored.get("target")) is None:
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


def _final(stored: Mapping[str, Any], budget_sec: float) -> bool:
    """Whether an unreliable reference would come out the same again."""
    if "traceback" in stored:
        return False  # A fault of the machine or of the code, and not of the draws.
    return not stored.get("fixable_by_more_draws", False) or budget_sec <= stored["budget_sec"]


def _blank(config: ProblemConfig, identity: dict, budget_sec: float) -> dict[str, Any]:
    return {
        "pid": config.pid,
        "target": None,
        "llc_ref": None,
        "se_ref": None,
        "method": None,
        "methods": {},
        "llc_exact": None,
        "rlct": None,
        "status": "unreliable",
        "reasons": [],
        "notices": [],
        "fixable_by_more_draws": True,
        "gates": [],
        "diagnostics": {},
        "settings": identity,
        "budget_sec": budget_sec,
        "runtime_sec": 0.0,
        "seconds": {},
        "work": {"full_gradients": 0.0},
        "n": config.data.n,
        "d": None,
        "beta": config.nbeta / config.data.n,
        "nbeta": config.nbeta,
        "gamma": config.posterior.gamma,
        "init_loss": None,
        "problem": config.canonical(),
        "versions": versions("float64"),
    }


def _sampled(verdict: Verdict) -> dict[str, Any]:
    """What the engines found."""
    llc, se = verdict.number
    return {
        "llc_ref": llc,
        "se_ref": se,
        "method": verdict.method,
        "status": "unreliable" if verdict.failed else "ok",
        "reasons": [gate.sentence for gate in verdict.failed],
        "fixable_by_more_draws": all(gate.fixable_by_more_draws for gate in verdict.failed),
        "gates": [gate.to_json() for gate in verdict.gates],
        "diagnostics": dict(verdict.parts[verdict.method].diagnostics),
        "work": {"full_gradients": verdict.cost.work},
        "seconds": dict(verdict.cost.seconds),
        "methods": {name: part.to_json() for name, part in verdict.parts.items()},
    }


def _known(problem: Problem) -> dict[str, Any]:
    """What is known before any draw."""
    limit = rlct(problem.config)
    return {
        "target": problem.target_id,
        "d": len(problem.w_star),
        "init_loss": problem.init_loss,
        "evidence": problem.evidence,
        "llc_exact": llc_exact(problem),
        "rlct": {"value": limit[0], "multiplicity": limit[1]} if limit else None,
    }
