"""What a program calls: problems, references, estimates and studies, as the commands make them."""

from lambda_hat.api.estimates import Estimate, estimate
from lambda_hat.api.problems import Problem, problem
from lambda_hat.api.references import Reference, reference
from lambda_hat.api.studies import NotTuned, Study, read_trials, tune
from lambda_hat.conf import ConfigError

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
