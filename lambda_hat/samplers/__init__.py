"""Target -> Draws: the samplers, by name.

The names are those of `lambda_hat.conf.samplers.SAMPLERS`; `lambda_hat.samplers.<name>` is the
module that samples, except where `_MODULES` says otherwise.
"""

from __future__ import annotations

import importlib
from typing import cast

from lambda_hat.conf.samplers import SAMPLERS
from lambda_hat.samplers.base import Method

_MODULES = {"vi": "vi_mfa"}


def load_method(name: str) -> Method:
    """The module of the sampler called `name`.

    Raises:
        KeyError: if no sampler has that name.
    """
    if name not in SAMPLERS:
        raise KeyError(f"`method` must be one of {', '.join(SAMPLERS)}, but got {name!r}.")
    module = importlib.import_module(f"lambda_hat.samplers.{_MODULES.get(name, name)}")
    return cast(Method, module)
