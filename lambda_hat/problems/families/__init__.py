"""What the module of every model family provides, and how it is found.

The names are those of `lambda_hat.conf.families.FAMILIES`; `lambda_hat.problems.families.<name>` is
the module of a family: its form (a class of its own, or a network's), then the functions of
`Family`, in that order.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from lambda_hat.conf.schema import ProblemConfig
from lambda_hat.problems.forms import ProblemForm

if TYPE_CHECKING:
    from lambda_hat.problems.problem import Problem


@runtime_checkable
class Family(Protocol):
    """What a module of this package gives."""

    def make_form(self, config: ProblemConfig) -> ProblemForm:
        """The program that computes the loss."""
        ...

    def build(self, config: ProblemConfig) -> Problem:
        """Draws the data and finds the minimum."""
        ...

    def llc_exact(self, problem: Problem) -> float | None:
        """The finite-n value of llc_hat, what a sampler can be scored on; None where unknown."""
        ...

    def rlct(self, config: ProblemConfig) -> tuple[float, int] | None:
        """Its limit, the real log canonical threshold, and the multiplicity; None where unknown.

        Where the multiplicity is above 1, it is far from the value at any n.
        """
        ...


def load_family(config: ProblemConfig) -> Family:
    """The module of a problem's family."""
    return cast(Family, importlib.import_module(f"{__name__}.{config.model.family}"))


def make_form(config: ProblemConfig) -> ProblemForm:
    """The program that computes a problem's loss."""
    return load_family(config).make_form(config)


def build_problem(config: ProblemConfig) -> Problem:
    """Draws the data of a problem and finds its minimum."""
    return load_family(config).build(config)


def llc_exact(problem: Problem) -> float | None:
    """The exact finite-n LLC of a problem, or None where it is not known."""
    return load_family(problem.config).llc_exact(problem)


def rlct(config: ProblemConfig) -> tuple[float, int] | None:
    """The asymptotic coefficient and its multiplicity, or None where they are not known."""
    return load_family(config).rlct(config)
