"""Which engine runs when: HMC first, then what else is needed until the gates hold.

HMC is the cheapest where it works. Where its chains mix so slowly that the gates would hold
late, or diverge however small their steps, replica exchange has its turn; and where their gates
hold, but short chains that begin elsewhere show that a part of the posterior was missed. From then
on the engine goes on that is nearest to its gates, going by its own rate. A turn is as long as all
of an engine's turns before, so that a wrong choice costs a factor and no more. SMC is tried where
both have given up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from lambda_hat.references.engine import EngineResult
from lambda_hat.references.gates import OF_THE_TARGET
from lambda_hat.references.outlook import seconds_to_gates
from lambda_hat.references.stopping import FIRST_LOOK

ORDER = ("hmc", "tempering")
LAST = "smc"
FIRST_TURN = 60.0
"""Seconds of an engine's first turn."""
CHECKED = "hmc"
"""The engine whose chains all begin around w*, so that others must confirm it."""
RESERVE = 0.25
"""Share of what it has by the end of its last turn that is kept for this."""
PATIENCE = 4.0
"""An engine is not tried as long as those before need less than so many times what they cost."""


def run_in_turns(
    sample: Callable[[str, float], EngineResult],
    confirm: Callable[[EngineResult, float], EngineResult],
    settled: Callable[[Mapping[str, EngineResult]], bool],
    budget_sec: float,
) -> dict[str, EngineResult]:
    """Runs engines until one passes its gates, none can, or the budget is spent.

    Args:
        sample: runs the engine of a name until it has cost so many seconds in all, those of
            earlier runs counted; it may end before.
        confirm: adds to the result of `CHECKED`, whose gates hold, the gate that chains from
            elsewhere give it, within so many seconds.
        settled: whether what engines gave holds together, where one has passed.
        budget_sec: wall time of all.

    Returns:
        The last result of each engine that ran, in the order of their first turns.
    """
    began, given_up = time.monotonic(), set[str]()
    parts: dict[str, EngineResult] = {}
    while True:
        left, name = _left(parts, began, budget_sec), _next(parts, given_up)
        if name is None or (parts and left <= 0.0):
            return parts
        before = parts[name].cost.total if name in parts else 0.0
        turn = math.inf if name == LAST else max(FIRST_TURN, before)  # Its runs can't be cut.
        last, length = left <= turn, min(max(left, 0.0), turn)
        early = max(before, (1.0 - RESERVE) * (before + length))
        if last and length > 0.0 and name == CHECKED and _ends(result := sample(name, early)):
            length = early - before
        else:
            result = sample(name, before + length)
        parts[name] = result
        if holds := not result.failed and (result.finished or last):
            if name == CHECKED:
                parts[name] = result = confirm(result, _left(parts, began, budget_sec))
            if not result.failed and settled(parts):
                return parts
        if any(gate.name in OF_THE_TARGET for gate in result.failed if _is_certain(result)):
            return parts
        if holds or (result.hopeless and result.finished):
            given_up.add(name)


def nearest(parts: Mapping[str, EngineResult]) -> str:
    """The engine that passed, or else has a number and is nearest to its gates."""
    return min(parts, key=lambda name: (parts[name].llc is None, _remaining(parts[name])))


def _ends(result: EngineResult) -> bool:
    """Whether no draw is missing, or none would help."""
    return not result.failed or result.hopeless


def _left(parts: Mapping[str, EngineResult], began: float, budget_sec: float) -> float:
    spent = sum(part.cost.total for part in parts.values())
    return budget_sec - max(time.monotonic() - began, spent)


def _next(parts: Mapping[str, EngineResult], given_up: set[str]) -> str | None:
    live = [name for name in ORDER if name not in given_up]
    if not live:
        return None if LAST in given_up or not all(parts[name].failed for name in ORDER) else LAST
    spent = sum(part.cost.total for part in parts.values())
    untried = max(FIRST_TURN, PATIENCE * spent)
    return min(live, key=lambda name: _remaining(parts[name]) if name in parts else untried)


def _remaining(part: EngineResult) -> float:
    """Seconds to the gates; as many as were spent where there is nothing yet to go by.

    Chains that a turn cut before their first look have not spread yet: gates say nothing of them.
    Nor does one that draws cannot fix, while there are to be more: a rate of divergences, say.
    """
    unread = not part.finished and (part.draws < FIRST_LOOK or part.hopeless)
    more = None if unread else seconds_to_gates(part)
    return part.cost.total if more is None else more


def _is_certain(part: EngineResult) -> bool:
    """Whether chains mixed well enough to be believed about the target."""
    return not any(gate.name in ("rhat", "ess_bulk") for gate in part.failed)
