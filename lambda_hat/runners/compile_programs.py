"""Compiles a program that trials will need, in a worker that has nothing else to do.

The worker's compilation cache has it then for all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from lambda_hat.conf import compose_problem
from lambda_hat.conf.checks import ConfigError
from lambda_hat.conf.samplers import SamplerConfig
from lambda_hat.conf.schema import ProblemConfig
from lambda_hat.plugin import build_settings
from lambda_hat.problems.untrained import untrained
from lambda_hat.runners.boundary import load_target, pinned_jax
from lambda_hat.runners.run_method import settings_builder
from lambda_hat.samplers import load_method
from lambda_hat.samplers.base import Method
from lambda_hat.samplers.loop import Runner
from lambda_hat.store import Store
from lambda_hat.target import Target

FEWEST = 2
"""Settings that a program must serve, of those that are given; the first's is worth it alone."""


@pinned_jax()
def compile_programs(
    problem_spec: dict,
    method: str,
    settings: Sequence[Mapping[str, Any]],
    number: int,
    artifacts_dir: str,
    plugin: Mapping[str, str] | None = None,
) -> dict[str, int | None]:
    """Compiles one of the programs that a study's first trials will have.

    Args:
        problem_spec: {model, data, teacher, seed, overrides, ..} as in a config's `problems`.
        method: the sampler's name.
        settings: hyperparameters that trials may have, the likeliest first.
        number: which program; each call compiles one, so that no task waits for several.
        artifacts_dir: where targets are stored.
        plugin: as `run_method_trial` has it.

    Returns:
        `programs`: how many there are; 0 where JAX keeps none, None where the problem's shapes
        are not known before its target is stored.
    """
    if not _keeps_programs():
        return {"programs": 0}
    chosen = load_method(method)
    with jax.enable_x64(chosen.DTYPE == "float64"):
        target = _target(compose_problem(problem_spec), Path(artifacts_dir), chosen.DTYPE)
        if target is None:
            return {"programs": None}
        build = settings_builder(plugin)
        configs = _worth_it(chosen, target, [_built(build, method, one) for one in settings])
        if number < len(configs):
            Runner(chosen, target, configs[number], key=jax.random.key(0))
    return {"programs": len(configs)}


def _keeps_programs() -> bool:
    """Whether JAX writes what it compiles where trials will look for it."""
    needed = ("jax_enable_compilation_cache", "jax_compilation_cache_dir")
    return all(getattr(jax.config, name) for name in needed)


def _target(config: ProblemConfig, artifacts: Path, dtype: str) -> Target | None:
    """The stored target, or until it is there one of the same shapes."""
    if Store.at(artifacts, artifacts).target(config.pid).exists():
        return load_target(config, artifacts, dtype)[0]
    problem = untrained(config)
    return None if problem is None else problem.target(dtype)


def _built(build: Any, method: str, settings: Mapping[str, Any]) -> SamplerConfig | None:
    try:
        return build_settings(build, {"name": method, **settings})
    except ConfigError:
        return None  # The trial that has them will say so.


def _worth_it(
    method: Method, target: Target, configs: Sequence[SamplerConfig | None]
) -> list[SamplerConfig]:
    """One config for each program that serves several of these, or the first of them."""
    able = [c for c in configs if c is not None and method.refusal(target, c) is None]
    served: Counter[Hashable] = Counter()
    first: dict[Hashable, SamplerConfig] = {}
    for config in able:
        structure = method.structure_of(config, target)
        served[structure] += 1
        first.setdefault(structure, config)
    each = list(first)
    kept = [one for one in each if one == each[0] or served[one] >= FEWEST]
    return [first[one] for one in sorted(kept, key=lambda one: (one != each[0], -served[one]))]
