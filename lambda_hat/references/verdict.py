"""Runs the engines that a reference asks for, and decides which of them gives the number."""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lambda_hat.conf.samplers import ReferenceConfig
from lambda_hat.problems import Problem
from lambda_hat.references.engine import Cost, EngineResult
from lambda_hat.references.gate import Gate
from lambda_hat.references.gates import MIXING, check_agreement
from lambda_hat.references.gibbs import sample_gibbs
from lambda_hat.references.hmc import confirm_hmc, help_hmc, sample_hmc
from lambda_hat.references.outlook import budget_that_would_do
from lambda_hat.references.policy import nearest, run_in_turns
from lambda_hat.references.smc import sample_smc
from lambda_hat.references.tempering import help_tempering, sample_tempering


@dataclass(frozen=True)
class Engine:
    """One way to sample a posterior.

    Attributes:
        label: how sentences call it.
        checkpoint: name of the file beside ref.json that it goes on from.
        sample: runs it, for (problem, config), a budget, a seed, the file, and who watches.
        help: goes on with its chains while another process runs it, for the same but who watches;
            None where it has none that could be shared.
    """

    label: str
    checkpoint: str
    sample: Callable[..., EngineResult]
    help: Callable[..., int] | None = None


ENGINES = {
    "hmc": Engine("HMC", "hmc_chains.ckpt", sample_hmc, help_hmc),
    "tempering": Engine(
        "Replica exchange", "tempering_ladders.ckpt", sample_tempering, help_tempering
    ),
    "smc": Engine("SMC", "smc_runs.json", sample_smc),
    "gibbs": Engine("Gibbs", "gibbs_chains.ckpt", sample_gibbs),
}
"""Engine by its name in `reference.method`."""


@dataclass(frozen=True)
class Verdict:
    """Which engine gives the number, and every gate that this rests on.

    Attributes:
        method: the engine that gives the number.
        gates: what was checked; a reference is `ok` where all of them passed.
        parts: what each engine gave, by its name.
    """

    method: str
    gates: tuple[Gate, ...]
    parts: Mapping[str, EngineResult]

    @property
    def number(self) -> tuple[float | None, float | None]:
        """The estimate and its standard error; None where there is none."""
        chosen = self.parts[self.method]
        return _finite(chosen.llc), _finite(chosen.se)

    @property
    def failed(self) -> tuple[Gate, ...]:
        """The gates that speak against it."""
        return tuple(gate for gate in self.gates if not gate.passed)

    @property
    def cost(self) -> Cost:
        """Of all engines together."""
        return sum((part.cost for part in self.parts.values()), Cost())

    @property
    def needed_budget(self) -> float | None:
        """Seconds that would do, going by the rate so far; None where that cannot be said."""
        return budget_that_would_do(self.parts[self.method], self.cost.total)


WatchAll = Callable[[str, EngineResult], None]
"""Is told the name of an engine that runs, and how it stands."""


def sample_reference(
    problem: Problem,
    config: ReferenceConfig,
    *,
    budget_sec: float,
    seed: int,
    folder: Path,
    watch: WatchAll | None = None,
) -> Verdict:
    """Runs what `config.method` asks for and decides.

    With `auto` engines take turns until one passes its gates, HMC's confirmed by chains that begin
    elsewhere; with `both`, HMC has the first half
    of the budget and SMC what is left.

    Args:
        problem: what to sample.
        config: methods and their settings.
        budget_sec: wall time of all, that of earlier runs counted.
        seed: of chains and particles.
        folder: where the chains' and the runs' checkpoints lie.
        watch: is told from time to time how an engine stands.
    """

    def sample(name: str, seconds: float) -> EngineResult:
        engine = ENGINES[name]
        told = functools.partial(watch, name) if watch else None
        given = {"seed": seed, "checkpoint": folder / engine.checkpoint, "watch": told}
        return engine.sample(problem, config, budget_sec=seconds, **given)

    def confirm(result: EngineResult, seconds: float) -> EngineResult:
        given = {"seed": seed, "checkpoint": folder / ENGINES["hmc"].checkpoint}
        return confirm_hmc(problem, config, result, budget_sec=seconds, **given)

    if config.method == "auto":
        return decide_auto(run_in_turns(sample, confirm, _settled, budget_sec))
    if config.method != "both":
        return decide({config.method: sample(config.method, budget_sec)})
    began = time.monotonic()
    hmc = sample("hmc", budget_sec / 2)
    return decide({"hmc": hmc, "smc": sample("smc", budget_sec - (time.monotonic() - began))})


def decide(parts: Mapping[str, EngineResult]) -> Verdict:
    """The verdict on one engine's result, or on those of HMC and SMC.

    Of two, HMC gives the number and both must pass and agree; where only HMC's chains mix too
    slowly and SMC passes, SMC takes over.

    Args:
        parts: what each engine gave, by its name.
    """
    if len(parts) == 1:
        ((name, part),) = parts.items()
        return Verdict(name, part.gates, parts)
    hmc, smc = parts["hmc"], parts["smc"]
    if hmc.failed and not smc.failed and all(gate.name in MIXING for gate in hmc.failed):
        return Verdict("smc", smc.gates, parts)
    gates = tuple(_labelled(gate, name) for name, part in parts.items() for gate in part.gates)
    if not hmc.failed and not smc.failed:
        gates += _agreements(parts)
    return Verdict("hmc", gates, parts)


def decide_auto(parts: Mapping[str, EngineResult]) -> Verdict:
    """The verdict on engines of which one suffices, if it passes and none contradicts it.

    Args:
        parts: what each engine gave, by its name.
    """
    name = nearest(parts)
    gates, agreements = parts[name].gates, _agreements(parts)
    if len(parts) > 1:
        gates = tuple(_labelled(gate, name) for gate in gates)
    return Verdict(name, (*gates, *agreements), parts)


def _settled(parts: Mapping[str, EngineResult]) -> bool:
    """Whether engines that can be compared agree."""
    return all(gate.passed for gate in _agreements(parts))


def _agreements(parts: Mapping[str, EngineResult]) -> tuple[Gate, ...]:
    """A gate for each two engines whose errors mean something: those that lack draws at most."""
    compared = [
        (ENGINES[name].label, (part.llc, part.se))
        for name, part in parts.items()
        if part.llc is not None
        and part.se is not None
        and all(gate.name == "relative_se" for gate in part.failed)
    ]
    pairs = itertools.combinations(compared, 2)
    return tuple(check_agreement((a, b), one, other) for (a, one), (b, other) in pairs)


def _labelled(gate: Gate, name: str) -> Gate:
    """The gate, with its sentence saying which engine it is of."""
    return replace(gate, sentence=f"{ENGINES[name].label}: {gate.sentence}")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
