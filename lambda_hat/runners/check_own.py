"""Tries users' own losses in a process of its own: specs on stdin, faults on stdout.

The command asks this before anything starts. It needs JAX, which the command itself must not
have in it when Parsl forks.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from typing import Any

from lambda_hat.conf import ConfigError, compose_problem
from lambda_hat.problems.data import read_data
from lambda_hat.problems.families.external import make_form, read_params
from lambda_hat.problems.own_loss import check_loss, flat
from lambda_hat.runners.boundary import pinned_jax


@pinned_jax()
def faults_of(spec: dict[str, Any]) -> list[str]:
    """A sentence for each thing that is wrong with the loss of an external problem."""
    config = compose_problem(spec)
    try:
        data, w = read_data(config), flat(read_params(config))
        check_loss(make_form(config), data, w, config.model.loss.partition("@")[0])
    except ConfigError as error:
        return error.faults
    return []


def main() -> None:
    """Reads a list of specs, and writes a list of faults for each."""
    specs = json.load(sys.stdin)
    with redirect_stdout(sys.stderr):  # What a user's module prints is no answer.
        found = [faults_of(spec) for spec in specs]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
