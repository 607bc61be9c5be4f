"""When chains have been drawn for long enough: once their number is as precise as was asked for.

Fixed-width stopping: draws end when their own relative standard error is small enough (Glynn &
Whitt 1992, Ann. Appl. Probab. 2:180; Flegal & Jones 2010, Ann. Stat. 38:1034). An error that is
looked at often is sometimes small by luck, so that it is looked at a few times only, and other
gates must hold with room to spare. When, is a matter of the number of draws alone: a run that is
killed, cut into pieces or on a slow machine ends at the same draw, with the same number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from lambda_hat.references.engine import EngineResult
from lambda_hat.references.gates import GROWTH

FIRST_LOOK = 1_000
"""Draws of each chain, as many as HMC's pilot has."""
RHAT = 1.005
"""Half of what its gate leaves."""
ESS = 1_000.0
"""Of bulk and tail: from so many draws a standard error is itself right to a twentieth."""


def looks(wanted: int) -> Iterator[int]:
    """Numbers of draws at which chains may end: before `wanted`, at it, and on while a gate fails.

    Args:
        wanted: draws of each chain that are asked for where precision ends nothing.
    """
    look = FIRST_LOOK
    while look < wanted:
        yield look
        look = math.ceil(look * GROWTH)
    while True:
        yield wanted
        wanted = math.ceil(wanted * GROWTH)


def is_precise(result: EngineResult, relative_se: float) -> bool:
    """Whether further draws are not worth their time.

    Args:
        result: as the gates judge all draws so far.
        relative_se: what the standard error may be of the LLC; 0 is never small enough.
    """
    if result.failed or result.llc is None or result.se is None:
        return False
    found = result.diagnostics
    mixed = found["rhat"] <= RHAT and min(found["ess_bulk"], found["ess_tail"]) >= ESS
    return mixed and result.se <= relative_se * result.llc
