"""Config -> Problem: data, loss and a trained minimum, stored under the problem's address."""

from lambda_hat.problems.deadline import TrainingUnfinished, training_until
from lambda_hat.problems.families import build_problem, llc_exact, rlct
from lambda_hat.problems.problem import Problem, ProblemRefused
from lambda_hat.problems.store import load_or_build

__all__ = [
    "Problem",
    "ProblemRefused",
    "TrainingUnfinished",
    "build_problem",
    "llc_exact",
    "load_or_build",
    "rlct",
    "training_until",
]
