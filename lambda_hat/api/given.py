"""The arguments of a call, checked before anything starts: a sentence for what cannot be."""

from __future__ import annotations

import math
import operator
import os
from pathlib import Path
from typing import Any, SupportsIndex

from lambda_hat.conf import ConfigError


def check_made(name: str, value: object, kind: type) -> None:
    """Whether an argument is what another function of this package returned.

    Raises:
        ConfigError: It is not.
    """
    if not isinstance(value, kind):
        maker = f"lambda_hat.{kind.__name__.lower()}(..)"
        raise ConfigError([f"`{name}` must be what {maker} returned, but got {value!r}."])


def whole_seed(seed: SupportsIndex) -> int:
    """A seed as a whole number, NumPy's taken.

    Raises:
        ConfigError: It is none from 0 to 2**63 - 1.
    """
    try:
        number = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < 2**63:
        raise ConfigError(
            [f"`seed` must be a whole number from 0 to 2**63 - 1, but got seed={seed!r}."]
        )
    return number


def as_path(name: str, value: Any) -> Path:
    """An argument as a path.

    Raises:
        ConfigError: It is none.
    """
    if not isinstance(value, str | os.PathLike):
        raise ConfigError([f"`{name}` must be a path, but got {name}={value!r}."])
    return Path(value)


def check_budget(budget: float) -> None:
    """Whether a budget is a number of seconds.

    Raises:
        ConfigError: It is none.
    """
    is_number = isinstance(budget, int | float) and not isinstance(budget, bool)
    if not (is_number and math.isfinite(budget) and budget > 0):
        raise ConfigError(
            [f"`budget > 0` must hold, in finite seconds, but got budget={budget!r}."]
        )
