"""This machine, as `--local` uses it; edit it, or copy it and name it with `--parsl-config`.

The environment variable LAMBDA_HAT_WORKERS goes before WORKERS.
"""

from parsl.config import Config

from lambda_hat.execution import local_config

WORKERS = None
"""Worker processes; None for one a physical core."""


def fresh_config() -> Config:
    """A new Config at each call, since Parsl loads each one only once."""
    return local_config(workers=WORKERS)
