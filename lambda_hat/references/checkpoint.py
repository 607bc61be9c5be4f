"""Files that a reference goes on from when it was killed, or had too little time.

A file is NumPy's archive of arrays and a JSON header, behind a checksum; nothing is pickled.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lambda_hat.references.engine import Attempt, Cost
from lambda_hat.samplers.base import Draw, Info
from lambda_hat.samplers.loop import Progress
from lambda_hat.store import digest_bytes, quarantine, write_bytes

_LOG = logging.getLogger(__name__)
CHECKPOINT_SECONDS = 30.0
"""Time between two checkpoints of chains that run."""
_DIGEST = 64
"""Hex digits of the checksum that stands before the content."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file held.

    Attributes:
        tuning: what these chains were run with, where that was found by trying.
        attempts: chains with other tunings before these.
        cost: what all of them have cost so far.
        rebuild: gives the progress, from a state of the same structure.
    """

    tuning: dict[str, Any]
    attempts: tuple[Attempt, ...]
    cost: Cost
    rebuild: Callable[[Any], Progress]


def save_checkpoint(
    path: Path,
    *,
    identity: str,
    tuning: dict[str, Any],
    attempts: Sequence[Attempt],
    progress: Progress,
) -> None:
    """Writes the progress of the chains called `identity`, whole or not at all.

    Args:
        path: the file.
        identity: what the chains are of; only the same is loaded again.
        tuning: what they were run with, where that was found by trying.
        attempts: chains with other tunings before these.
        progress: where they stand.
    """
    leaves = jax.tree.leaves(progress.state)
    arrays = {f"state_{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    for part, blocks in (("rows", progress.rows), ("warmup", progress.warmup_rows)):
        for name in blocks[0] if blocks else ():
            arrays[f"{part}_{name}"] = np.concatenate([block[name] for block in blocks])
    header = {
        "identity": identity,
        "tuning": tuning,
        "attempts": [attempt.to_json() for attempt in attempts],
        "step": progress.step,
        "seconds": progress.seconds,
        "warmup_cut": progress.warmup_cut,
    }
    save_arrays(path, header, arrays)


def load_checkpoint(path: Path, *, identity: str) -> Checkpoint | None:
    """The stored chains called `identity`, or None where there are none (see `load_arrays`)."""
    if (stored := load_arrays(path, identity=identity)) is None:
        return None
    header, arrays = stored
    attempts = tuple(Attempt.from_json(attempt) for attempt in header.get("attempts", ()))
    return Checkpoint(
        tuning=header["tuning"],
        attempts=attempts,
        cost=sum((attempt.cost for attempt in attempts), Cost(header["seconds"])),
        rebuild=lambda like: _progress(header, arrays, like),
    )


def save_arrays(path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays behind a JSON header, which has the `identity` they go by."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, header=np.array(json.dumps(header)), **arrays)
    content = buffer.getvalue()
    write_bytes(path, digest_bytes([content]).encode() + content)


def load_arrays(
    path: Path, *, identity: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Header and arrays of a file, or None where there is none of that identity.

    A damaged file is set aside with a warning; one of another identity is left to be overwritten.
    """
    if not path.exists():
        return None
    raw = path.read_bytes()
    content = raw[_DIGEST:]
    if digest_bytes([content]).encode() != raw[:_DIGEST]:
        _LOG.warning("The checkpoint %s is damaged; kept as %s.", path, quarantine(path).name)
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    header = json.loads(str(arrays.pop("header")))
    return (header, arrays) if header["identity"] == identity else None


def _progress(header: dict[str, Any], arrays: dict[str, np.ndarray], like: Any) -> Progress:
    leaves, tree = jax.tree.flatten(like)
    state = [jax.numpy.asarray(arrays[f"state_{i}"], x.dtype) for i, x in enumerate(leaves)]
    rows, warmup_rows = _block(arrays, "rows_"), _block(arrays, "warmup_")
    return Progress(
        state=jax.tree.unflatten(tree, state),
        step=header["step"],
        rows=[rows] if rows else [],
        warmup_rows=[warmup_rows] if warmup_rows else [],
        seconds=header["seconds"],
        warmup_cut=header["warmup_cut"],
    )


def _block(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    found = {
        name.removeprefix(prefix): values
        for name, values in arrays.items()
        if name.startswith(prefix)
    }
    if not found:
        return {}
    # A file of an earlier version lacks the fields that there were not; no chain needs them.
    nothing = np.full_like(found["loss"], np.nan)
    return {**dict.fromkeys((*Draw._fields, *Info._fields), nothing), **found}
