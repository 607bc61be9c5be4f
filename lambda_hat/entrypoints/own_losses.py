"""A user's own losses and data: where they lie, and a try of each loss before anything starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LONGEST_SEC = 600
"""Seconds that the trial of all losses may take."""


def is_own(spec: Mapping[str, Any]) -> bool:
    """Whether a problem's loss is a user's."""
    return any(model.get("family") == "external" for model in _models(spec))


def located(spec: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """The problem with the folder of its files in full, so that every worker finds it.

    Args:
        spec: As the user wrote it; a relative `path` begins at the config's folder.
        folder: That folder.
    """
    own = is_own(spec)

    def placed(groups: Mapping[str, Any]) -> dict[str, Any]:
        given = {group: groups[group] for group in ("model", "data") if group in groups}
        return {**groups, **{g: _placed(g, value, folder, own) for g, value in given.items()}}

    spec = placed(spec)
    over = spec.get("overrides")
    return {**spec, "overrides": placed(over)} if isinstance(over, Mapping) else spec


def _placed(group: str, given: Any, folder: Path, own: bool) -> Any:
    """A group with its `path` in full, where it has files that lie there."""
    if not isinstance(given, Mapping):
        return given
    if group == "model" and given.get("family") != "external":
        return given
    if group == "data" and (given.get("file") is None or (own and given.get("path") is None)):
        return given
    path = given.get("path") or "."
    if not isinstance(path, str):
        return given
    return {**given, "path": str((folder / os.path.expanduser(path)).resolve())}


def _models(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    over = spec.get("overrides")
    given = [spec.get("model"), over.get("model") if isinstance(over, Mapping) else None]
    return [model for model in given if isinstance(model, Mapping)]


def check_own_losses(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the losses of these problems, each called in a process with JAX."""
    if not specs:
        return []
    command = [sys.executable, "-m", "lambda_hat.runners.check_own"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps([dict(spec) for spec in specs]),
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            timeout=LONGEST_SEC,
        )
    except subprocess.TimeoutExpired:
        return [f"A loss must return, but did not in {LONGEST_SEC} s. Try it on fewer rows."]
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return [f"A loss must be callable in a process of its own, but that ended: {said}"]
    return [fault for faults in json.loads(done.stdout) for fault in faults]
