"""Trains and stores a problem's target in a worker, before runs without a reference."""

from __future__ import annotations

from pathlib import Path

from lambda_hat.conf import compose_problem
from lambda_hat.problems import load_or_build
from lambda_hat.runners.boundary import noted, pinned_jax


@pinned_jax()
def build_problem(problem_spec: dict, artifacts_dir: str) -> list[str]:
    """Trains and stores a problem's target, in a worker; returns what was found damaged."""
    with noted() as notices:
        load_or_build(compose_problem(problem_spec), Path(artifacts_dir))
    return notices
