"""YAML -> Config: presets of every group, composed with a user's overrides and checked."""

from lambda_hat.conf.compose import (
    check_reference,
    compose_problem,
    compose_reference,
    compose_sampler,
)
from lambda_hat.conf.schema import ConfigError, ProblemConfig

__all__ = [
    "ConfigError",
    "ProblemConfig",
    "check_reference",
    "compose_problem",
    "compose_reference",
    "compose_sampler",
]
