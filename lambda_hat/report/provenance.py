"""Provenance for the report: how reference and trials were computed, and the reference's gates."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lambda_hat.references import gates
from lambda_hat.references.gates import Gate, check_gates, check_gibbs_gates, check_smc_gates
from lambda_hat.report.findings import Finding
from lambda_hat.report.formatting import (
    format_duration,
    format_estimate,
    format_number,
    format_percent,
)
from lambda_hat.store import BrokenFile, Store, read_json

Facts = dict[str, str]

_PASSED: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "rhat": lambda d: f"The chains agree: R-hat is {d['rhat']:.4f}, at most {gates.RHAT}.",
    "ess_bulk": lambda d: (
        f"The chains mix: bulk ESS is {d['ess_bulk']:,.0f}, at least {gates.ESS_BULK:.0f}."
    ),
    "relative_se": lambda d: (
        f"It is precise: the relative standard error is {format_percent(d['se'] / d['llc'])}, "
        f"at most {100 * gates.RELATIVE_SE:g} %."
    ),
    "divergences": lambda d: (
        f"{format_percent(d['divergence_rate'])} of the transitions diverged, less than "
        f"{100 * gates.DIVERGENCE_RATE:g} %."
    ),
    "positive": lambda d: "The LLC is positive.",
    "virial": lambda d: (
        f"The draws are from the posterior: the virial ratio is {d['virial_ratio']:.4f} ± "
        f"{d['virial_se']:.4f}, within {gates.VIRIAL_SIGMAS:.0f} standard errors of 1."
    ),
    "below_minimum": lambda d: (
        f"w* is the minimum within reach: {format_percent(d['below_minimum_fraction'])} of "
        f"the draws have a smaller loss, at most {100 * gates.BELOW_MINIMUM:g} %."
    ),
    "float64": lambda d: "The draws were made in float64.",
    "diversity": lambda d: (
        f"The particles descend from {d['unique_ancestors']} draws, at least "
        f"{gates.UNIQUE_ANCESTORS}."
    ),
    "acceptance": lambda d: (
        f"Moves are accepted at a rate of {d['acceptance_rate']:.2f}, at least {gates.ACCEPTANCE}."
    ),
    "moves": lambda d: (
        f"Particles forget where they were: correlation {d['leftover_correlation']:.2f}, at most "
        f"{gates.LEFTOVER}."
    ),
}
"""What a gate that holds says."""

_ASK: dict[str, Callable[..., list[Gate]]] = {"smc": check_smc_gates, "gibbs": check_gibbs_gates}
"""The gates of the methods other than HMC."""


def read_if_present(path: Path) -> dict[str, Any]:
    """Reads a JSON file; an empty mapping if it is missing or damaged."""
    try:
        return read_json(path)
    except (FileNotFoundError, BrokenFile):
        return {}


def passed_gates(reference: Mapping[str, Any]) -> list[str]:
    """What speaks for a reference, a sentence for each gate that holds.

    Empty where the reference does not tell enough, as one that ended before there was a number.
    """
    numbers = dict(reference.get("diagnostics") or {})
    numbers |= {"llc": reference.get("llc_ref"), "se": reference.get("se_ref")}
    evidence = reference.get("evidence") or {}
    given: dict[str, Any] = {"diagnostics": numbers, "evidence": evidence}
    given |= {"llc": numbers["llc"], "se": numbers["se"]}
    try:
        if reference.get("method") in _ASK:
            asked = _ASK[reference["method"]](**given)
        else:
            in_float64 = bool((reference.get("versions") or {}).get("x64"))
            asked = check_gates(**given, float64=in_float64)
        return [_sentence(gate, numbers, evidence) for gate in asked if gate.passed]
    except (KeyError, TypeError):
        return []  # A diagnostic that a gate needs is missing or null.


def _sentence(gate: Gate, numbers: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    if gate.name == "shift_bias":
        return _minimum(numbers["llc"], evidence)
    return _PASSED[gate.name](numbers) if gate.name in _PASSED else f"{gate.name} holds."


def _minimum(llc: float, evidence: Mapping[str, Any]) -> str:
    """Why w* passes for a minimum."""
    if evidence.get("status") == "exact":
        return "w* is a minimum in closed form."
    if evidence.get("status") == "kink":
        return "w* sits on a kink of the loss, where descent has stalled."
    if evidence.get("shift_bias") is None:
        return "Nothing is known against w*."
    return (
        f"w* is stationary: the gradient left there shifts the LLC by "
        f"{format_percent(abs(evidence['shift_bias']) / llc)}, "
        f"at most {100 * gates.SHIFT_BIAS:g} %."
    )


def describe_reference(reference: Mapping[str, Any]) -> str:
    """How a reference was computed, in a phrase; empty if its file is missing."""
    numbers, settings = reference.get("diagnostics") or {}, reference.get("settings") or {}
    method = reference.get("method") or settings.get("method")
    if not method:
        return ""
    words = [str(method).upper()]
    if numbers.get("num_draws"):
        words.append(f"{numbers['num_draws']:,} draws of {settings.get('num_chains')} chains")
    if numbers.get("num_runs"):
        particles = f"{settings.get('num_particles'):,} particles"
        words.append(f"{numbers['num_runs']} runs of {particles}")
    if reference.get("runtime_sec"):
        words.append(format_duration(reference["runtime_sec"]))
    work = reference.get("work")
    if isinstance(work, Mapping) and work.get("full_gradients"):
        words.append(f"{format_number(work['full_gradients'])} full gradients")
    return ", ".join(words)


def other_values(reference: Mapping[str, Any]) -> Facts:
    """Exact and asymptotic values and the results of single methods, where known."""
    facts: Facts = {}
    if reference.get("llc_exact") is not None:
        facts["exact value at this n"] = f"{reference['llc_exact']:.5g}"
    if limit := reference.get("rlct"):
        facts["limit for large n"] = f"{limit['value']:.5g}, multiplicity {limit['multiplicity']}"
    methods = reference.get("methods") or {}
    for name, part in methods.items() if len(methods) > 1 else ():
        facts[f"by {name.upper()} alone"] = format_estimate(part.get("llc"), part.get("se"))
    return facts


def describe_computation(
    reference: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]
) -> Facts:
    """The estimand, its constants, and the versions of the software that computed it.

    Args:
        reference: Content of ref.json.
        metrics: Contents of the metrics.json files of the best trials.
    """
    facts: Facts = {}
    names = {"n": "n", "d": "d", "beta": "β", "nbeta": "nβ", "gamma": "γ", "init_loss": "L_n(w*)"}
    values = [(sign, reference[name]) for name, sign in names.items() if _number(reference, name)]
    if values:
        facts["estimand"] = "nβ (E[L_n(w)] − L_n(w*)) under p(w) ∝ exp(−nβ L_n(w) − γ/2 |w − w*|²)"
        facts["constants"] = ", ".join(f"{sign} = {value:.6g}" for sign, value in values)
    if versions := reference.get("versions"):
        facts["reference by"] = _versions(versions)
    for versions in {_versions(one["versions"]): None for one in metrics if one.get("versions")}:
        facts.setdefault("trials by", versions)
    return facts


def _number(reference: Mapping[str, Any], name: str) -> bool:
    return isinstance(reference.get(name), int | float)


def _versions(versions: Mapping[str, Any]) -> str:
    """Precision, platform and versions, such as `float64 on cpu: jax 0.10.2, ..`."""
    precision = "float64" if versions.get("x64") else "float32"
    named = [f"{k} {v}" for k, v in versions.items() if k not in ("x64", "platform")]
    return f"{precision} on {versions.get('platform', 'an unknown platform')}: {', '.join(named)}"


def problem_json(reference: Mapping[str, Any]) -> str:
    """The composed problem as YAML; empty if it is not known."""
    problem = reference.get("problem")
    return yaml.safe_dump(problem, sort_keys=False, default_flow_style=None) if problem else ""


def confirmation_config(store: Store, found: Sequence[Finding]) -> str:
    """A `parsl-llc` config that runs each method's best settings with three other seeds.

    Empty if the artifacts folder has no manifest, which holds the problem as the user wrote it.
    """
    problem, samplers, budget = None, [], 0.0
    for one in found:
        if one.best is None:
            continue
        best = one.best
        manifest = read_if_present(store.manifest(best.pid, best.method, best.trial_id))
        problem = problem or manifest.get("problem")
        budget = max(budget, float(best.budget_sec))
        settings = {name: _plain(value) for name, value in best.hyperparams.items()}
        samplers += [{"name": one.method, "seed": s, "overrides": settings} for s in (1, 2, 3)]
    if not problem:
        return ""
    config = {"problems": [problem], "samplers": samplers, "llc": {"method_budget_sec": budget}}
    return "\n".join(_lines(config))


def _lines(config: Mapping[str, Any]) -> list[str]:
    """YAML with one entry per line; entries are JSON, which is also YAML."""
    lines = []
    for key, value in config.items():
        if isinstance(value, list):
            lines += [f"{key}:", *(f"  - {json.dumps(entry)}" for entry in value)]
        else:
            lines.append(f"{key}: {json.dumps(value)}")
    return lines


def _plain(value: Any) -> Any:
    """A plain Python value: pandas may have made it a NumPy scalar."""
    return value.item() if hasattr(value, "item") else value
