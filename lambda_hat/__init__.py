"""Lambda-Hat: local learning coefficients with references, tuned samplers and honest errors.

Data flows one way. The stops of the line, in order, each a module or a folder:

    YAML -> Config                   lambda_hat.conf
    Config -> Problem                lambda_hat.problems
    Problem -> Target                lambda_hat.target
    Target -> Draws                  lambda_hat.samplers
    Draws -> Diagnostics             lambda_hat.diagnostics
    Draws -> Estimate                lambda_hat.llc
    Problem -> Reference             lambda_hat.references
    TrialSpec -> Future[TrialResult] lambda_hat.execution
    Reference -> Trials              lambda_hat.tuning
    Trials -> Parquet                lambda_hat.tables
    Parquet -> Report                lambda_hat.report

`lambda_hat.entrypoints` holds the commands, each of which is the line, and `lambda_hat.api` the
same for a program, under the names of this module; `lambda_hat.runners` is what a worker calls,
and what a person may call by hand.
"""

from __future__ import annotations

TYPE_CHECKING = False
"""What type checkers take for true. Importing it is left to `entrypoints.start`, which first sees
to it that no file of the current folder stands in for a module."""

if TYPE_CHECKING:
    from typing import Any

    from lambda_hat.api import (
        ConfigError,
        Estimate,
        NotTuned,
        Problem,
        Reference,
        Study,
        estimate,
        problem,
        read_trials,
        reference,
        tune,
    )

__all__ = [
    "ConfigError",
    "Estimate",
    "NotTuned",
    "Problem",
    "Reference",
    "Study",
    "estimate",
    "problem",
    "read_trials",
    "reference",
    "tune",
]


def __getattr__(name: str) -> Any:
    """Imports the functions of `lambda_hat.api` when the first of them is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lambda_hat import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
