"""Provenance for the report: how reference and trials were computed, and the reference's gates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lambda_hat.report.findings import Finding
from lambda_hat.report.formatting import format_duration, format_estimate, format_number
from lambda_hat.store import BrokenFile, Store, read_json

Facts = dict[str, str]


def read_if_present(path: Path) -> dict[str, Any]:
    """Reads a JSON file; an empty mapping if it is missing or damaged."""
    try:
        return read_json(path)
    except (FileNotFoundError, BrokenFile):
        return {}


def passed_gates(reference: Mapping[str, Any]) -> list[str]:
    """What speaks for a reference, a sentence for each gate that holds.

    Empty for one that ended before there was a number, or that was stored without its gates.
    """
    gates = reference.get("gates") or []
    return [str(gate["sentence"]).replace("+-", "±") for gate in gates if gate["passed"]]


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
