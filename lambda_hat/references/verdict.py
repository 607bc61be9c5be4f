"""Estimates -> Reference: HMC, SMC, both, or Gibbs, and which of them gives the number."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lambda_hat.conf.samplers import ReferenceConfig
from lambda_hat.problem import Problem
from lambda_hat.references.gates import MIXING, Gate, check_agreement
from lambda_hat.references.gibbs import sample_gibbs
from lambda_hat.references.hmc import sample_hmc
from lambda_hat.references.smc import sample_smc

NAMES = {"hmc": "HMC", "smc": "SMC"}


def sample_reference(
    problem: Problem, config: ReferenceConfig, *, budget_sec: float, seed: int, folder: Path
) -> dict[str, Any]:
    """Runs what `config.method` asks for and decides.

    With `both`, HMC has the first half of the budget and SMC what is left.

    Args:
        problem: what to sample.
        config: methods and their settings.
        budget_sec: wall time of all, that of earlier runs counted.
        seed: of chains and particles.
        folder: where the chains' and the runs' checkpoints lie.

    Returns:
        The sampled part of ref.json: {llc_ref, se_ref, method, status, reasons,
        fixable_by_more_draws, diagnostics, work, seconds, methods}.
    """
    began, parts = time.monotonic(), {}
    if config.method in ("hmc", "both"):
        share = 1.0 if config.method == "hmc" else 0.5
        parts["hmc"] = sample_hmc(
            problem,
            config,
            budget_sec=share * budget_sec,
            seed=seed,
            checkpoint=folder / "hmc_chains.ckpt",
        )
    if config.method in ("smc", "both"):
        parts["smc"] = sample_smc(
            problem,
            config,
            budget_sec=budget_sec - (time.monotonic() - began),
            seed=seed,
            checkpoint=folder / "smc_runs.json",
        )
    if config.method == "gibbs":
        parts["gibbs"] = sample_gibbs(
            problem,
            config,
            budget_sec=budget_sec,
            seed=seed,
            checkpoint=folder / "gibbs_chains.ckpt",
        )
    return decide(parts)


def decide(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The verdict on one method's result, or on both.

    Of two, HMC gives the number and both must pass and agree; where only HMC's chains mix too
    slowly and SMC passes, SMC takes over.

    Args:
        parts: method -> what `sample_hmc`, `sample_smc` or `sample_gibbs` gave.
    """
    method, failed = _choose(parts)
    chosen = parts[method]
    seconds: dict[str, float] = {}
    for part in parts.values():
        for name, value in part["seconds"].items():
            seconds[name] = seconds.get(name, 0.0) + value
    llc = chosen["llc"]
    return {
        "llc_ref": llc if llc is not None and math.isfinite(llc) else None,
        "se_ref": chosen["se"],
        "method": method,
        "status": "unreliable" if failed else "ok",
        "reasons": [gate.reason for gate in failed],
        "fixable_by_more_draws": all(gate.fixable_by_more_draws for gate in failed),
        "diagnostics": chosen["diagnostics"],
        "work": {"full_gradients": sum(part["work"] for part in parts.values())},
        "seconds": seconds,
        "methods": {name: _told(part) for name, part in parts.items()},
    }


def _choose(parts: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[Gate]]:
    """Which method gives the number, and the gates that speak against it."""
    failed = {name: _failed(part) for name, part in parts.items()}
    if len(parts) == 1:
        return next(iter(failed.items()))
    if not failed["hmc"] and not failed["smc"]:
        hmc, smc = ((parts[name]["llc"], parts[name]["se"]) for name in ("hmc", "smc"))
        agreement = check_agreement(hmc, smc)
        return "hmc", [] if agreement.passed else [agreement]
    if not failed["smc"] and all(gate.name in MIXING for gate in failed["hmc"]):
        return "smc", []
    return "hmc", [
        Gate(gate.name, False, gate.fixable_by_more_draws, f"{NAMES[name]}: {gate.reason}")
        for name, gates in failed.items()
        for gate in gates
    ]


def _failed(part: Mapping[str, Any]) -> list[Gate]:
    return [gate for gate in part["gates"] if not gate.passed]


def _told(part: Mapping[str, Any]) -> dict[str, Any]:
    """One method's own result, in JSON types."""
    told = {name: part[name] for name in ("llc", "se", "draws", "seconds", "diagnostics")}
    told["work"] = {"full_gradients": part["work"]}
    return {**told, "failed_gates": [gate.name for gate in _failed(part)]}
