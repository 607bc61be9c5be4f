"""Stored targets: trained once, by one process, and read by every later one.

`<artifacts>/problems/<pid>/target.npz` holds the arrays, `target.json` the evidence and the
checksum of the arrays. The JSON is written last, so that it vouches for the arrays.
"""

from __future__ import annotations

import io
import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from lambda_hat.conf.schema import ProblemConfig
from lambda_hat.problems.deadline import TrainingUnfinished, seconds_left
from lambda_hat.problems.families import build_problem, make_form
from lambda_hat.problems.problem import Problem, ProblemRefused, in_float32
from lambda_hat.store import digest_bytes, is_disk_fault, quarantine, write_bytes

_LOG = logging.getLogger(__name__)


class _Broken(Exception):
    """A stored file that cannot be what was written."""


def load_or_build(config: ProblemConfig, artifacts_dir: Path) -> Problem:
    """The problem, from its files if it was ever built here, else built and stored.

    Two processes wanting the same problem build it once: the second waits. Files that are not
    what was written are set aside as `*.broken-<time>`, with a warning, and built again.

    Raises:
        ProblemRefused: Training found no minimum that is one. That is stored too.
        TrainingUnfinished: The deadline of the context (see `lambda_hat.problems.deadline`) passed
            first. Nothing is stored.
    """
    folder = Path(artifacts_dir).resolve() / "problems" / config.pid
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder / "target.lock"):
        record = _load(config, folder)
        if record is None:
            record = _build(config, folder)
    if isinstance(record, Problem):
        return record
    raise ProblemRefused(_refusal(config, record))


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Holds the lock of a target, waited for no longer than until training must have ended."""
    lock, left = FileLock(path), seconds_left()
    try:
        lock.acquire(timeout=-1 if math.isinf(left) else left)
    except Timeout:
        raise TrainingUnfinished(
            f"Training must end within the budget, but after {left:.3g} s of waiting another "
            "process was still training the same target."
        ) from None
    try:
        yield
    finally:
        lock.release()


def _load(config: ProblemConfig, folder: Path) -> Problem | dict | None:
    """The stored problem, or the evidence against it, or None where there is nothing usable."""
    if not (folder / "target.json").exists():
        return None
    try:
        return _read(config, folder)
    except (_Broken, OSError, ValueError, KeyError, TypeError) as error:
        if is_disk_fault(error):
            raise
        _LOG.warning("The stored target %s is broken and is built again: %s", folder, error)
        for name in ("target.json", "target.npz"):
            if (folder / name).exists():
                quarantine(folder / name)
        return None


def _read(config: ProblemConfig, folder: Path) -> Problem | dict:
    record = json.loads((folder / "target.json").read_text())
    if record["problem"] != config.canonical():
        raise _Broken("target.json describes another problem.")
    if record["evidence"]["status"] == "refused":
        return record["evidence"]
    raw = (folder / "target.npz").read_bytes()
    if digest_bytes([raw]) != record["sha256"]:
        raise _Broken("target.npz does not match its checksum.")
    with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
        data = {key.removeprefix("data_"): arrays[key] for key in arrays if key != "w_star"}
        w_star = arrays["w_star"]
    init_loss, evidence = float(record["init_loss"]), record["evidence"]
    problem = Problem(config, make_form(config), data, w_star, init_loss, init_loss, evidence)
    stored = record.get("init_loss_float32")  # Earlier versions did not store it.
    return replace(problem, init_loss_float32=in_float32(problem) if stored is None else stored)


def _build(config: ProblemConfig, folder: Path) -> Problem | dict:
    problem = build_problem(config)
    record: dict[str, Any] = {
        "pid": config.pid,
        "target": problem.target_id,
        "problem": config.canonical(),
        "init_loss": problem.init_loss,
        "init_loss_float32": problem.init_loss_float32,
        "num_params": len(problem.w_star),
        "evidence": problem.evidence,
        "versions": _versions(),
    }
    buffer = io.BytesIO()
    arrays = {f"data_{key}": leaf for key, leaf in problem.data.items()}
    np.savez(buffer, allow_pickle=False, w_star=problem.w_star, **arrays)
    record["sha256"] = digest_bytes([buffer.getvalue()])
    write_bytes(folder / "target.npz", buffer.getvalue())
    write_bytes(folder / "target.json", json.dumps(record, indent=1, allow_nan=False).encode())
    return problem.evidence if problem.evidence["status"] == "refused" else problem


def _refusal(config: ProblemConfig, evidence: dict) -> str:
    return f"Problem {config.pid} is refused: {' '.join(evidence['reasons'])}"


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("jax", "jaxlib", "numpy")}
