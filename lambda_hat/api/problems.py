"""What a program asks about: a problem of the presets, or one with a loss of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lambda_hat.api.given import as_path, whole_seed
from lambda_hat.conf import ConfigError, ProblemConfig, compose_problem
from lambda_hat.entrypoints.labels import item_of
from lambda_hat.entrypoints.own_losses import is_own, located
from lambda_hat.report.formatting import format_estimate
from lambda_hat.store import Store
from lambda_hat.trial import ProblemItem

if TYPE_CHECKING:
    from lambda_hat.problems import Problem as BuiltProblem


@dataclass(frozen=True)
class Problem:
    """One problem: what references, estimates and studies are of."""

    item: ProblemItem
    """Its id, and what workers compose it from."""
    config: ProblemConfig
    """The same, composed: everything that defines the data, w* and the estimand."""
    artifacts: Path
    """The folder that its files are in, and those of its reference and its runs."""

    @property
    def pid(self) -> str:
        """The hash of its content."""
        return self.item.pid

    @property
    def store(self) -> Store:
        """Where its files are; what is of one problem writes no results."""
        return Store.at(self.artifacts, self.artifacts)

    def built(self) -> BuiltProblem:
        """The data, w* and the evidence that it is a minimum: stored, or else made now.

        Raises:
            ProblemRefused: There is no such minimum; the text says by how much, and what to do.
        """
        from lambda_hat.runners.boundary import load_problem

        return load_problem(self.config, self.artifacts)

    def __repr__(self) -> str:
        facts = f"n={self.config.data.n}, gamma={self.config.posterior.gamma:.4g}"
        return f"<Problem {self.item.label} {self.pid}: {facts}>"


def describe(
    what: str, of: Problem, number: tuple[float | None, float | None], status: str, *doubts: str
) -> str:
    """A result in a line, with a line for each doubt about it."""
    llc, se = number
    value = "no LLC" if llc is None else f"LLC {format_estimate(llc, se)}"
    lines = "".join(f"\n  {doubt}" for doubt in doubts)
    return f"<{what} of {of.item.label} {of.pid}: {value}, {status}>{lines}"


def problem(
    spec: Mapping[str, Any] | None = None,
    *,
    loss: Callable[..., Any] | None = None,
    params: Any = None,
    data: Any = None,
    gamma: float | Literal["auto"] = "auto",
    beta0: float = 1.0,
    polish: bool = False,
    seed: int = 0,
    artifacts: Path | str = "artifacts",
) -> Problem:
    """A problem, checked; nothing is trained or sampled yet.

    A function is known by its content: its text, with all that it refers to. What you edit is
    another problem, and what you restart is the same.

    Args:
        spec: A problem as a config has it, `{"model": "small", "data": "small", "seed": 0}`; then
            all that follows but `artifacts` belongs in it.
        loss: `loss(params, batch)`, a JAX function with one number for each row of the batch.
        params: The trained parameters, w*: any pytree of floating-point arrays.
        data: What it was trained on: any pytree of arrays, each with its rows first.
        gamma: The tether; `auto` is 0.05 nbeta.
        beta0: beta = beta0 / log n.
        polish: Whether w* descends from the given point to the minimum nearby.
        seed: Of what is drawn where w* is examined.
        artifacts: The folder for its files, shared by all problems.

    Raises:
        ConfigError: A ValueError with a sentence for every fault.
    """
    folder = as_path("artifacts", artifacts).absolute()
    seed = whole_seed(seed)
    posterior = {"gamma": gamma} if gamma != "auto" else {}
    posterior |= {"beta0": beta0} if beta0 != 1.0 else {}
    if spec is None:
        spec = _own(loss, params, data, polish, folder) | {"posterior": posterior, "seed": seed}
    elif not (loss is None and params is None and data is None):
        raise ConfigError(["A problem must be a spec or a loss, but got both. Leave one out."])
    elif not isinstance(spec, Mapping):
        raise ConfigError([f"`spec` must be a mapping (model, data, ..), but got {spec!r}."])
    elif apart := _as_spec(posterior, polish, seed):
        rule = "All of a problem with a spec must be in the spec"
        raise ConfigError([f"{rule}, but got some apart from it. Add to it: {apart}."])
    spec = located(spec, Path.cwd())
    config = compose_problem(spec)
    if is_own(spec):
        _check(spec)
    return Problem(item_of(spec, config), config, folder)


def _as_spec(posterior: Mapping[str, Any], polish: bool, seed: int) -> dict[str, Any]:
    """What was given of these, as a spec has it."""
    groups = {"posterior": dict(posterior), "model": {"polish": polish} if polish else {}}
    overrides = {name: group for name, group in groups.items() if group}
    spec = {"seed": seed, "overrides": overrides}
    return {name: value for name, value in spec.items() if value}


def _own(
    loss: Callable[..., Any] | None, params: Any, data: Any, polish: bool, folder: Path
) -> dict[str, Any]:
    """The groups of a problem whose loss, parameters and data are given."""
    from lambda_hat.api.own_problem import write_own

    given = {"loss": loss, "params": params, "data": data}
    if missing := [name for name, value in given.items() if value is None]:
        rule = "`problem` must have a spec, or loss, params and data"
        raise ConfigError([f"{rule}, but got no {' and no '.join(missing)}."])
    groups = write_own(loss, params, data, folder / "own")  # type: ignore[arg-type]
    return {**groups, "model": {**groups["model"], "polish": polish}}


def _check(spec: Mapping[str, Any]) -> None:
    """Calls the loss, as the commands have it called before anything starts."""
    from lambda_hat.runners.check_own import faults_of

    if faults := faults_of(dict(spec)):
        raise ConfigError(faults)
