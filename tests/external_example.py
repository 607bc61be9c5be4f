"""A user's folder: a logistic regression of its own, in two variants, in a folder of this run."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(tempfile.mkdtemp(prefix="lambda_hat_external_"))
OTHER, WIDE = FOLDER / "other", FOLDER / "wide"
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)

LOSS = """
import jax.numpy as jnp

def loss(params, batch):
    odds = batch["x"] @ params["layer"]["w"] + params["layer"]["b"]
    return jnp.logaddexp(0.0, (1 - 2 * batch["label"]) * odds)

def half(params, batch):
    return 0.5 * loss(params, batch)
"""
ROWS = 30


def write(folder: Path, *, text: str = LOSS, scale: float = 1.0) -> Path:
    """Writes module, parameters and data into a folder."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "own_logistic.py").write_text(text)
    x = rng.standard_normal((ROWS, 2))
    label = (rng.random(ROWS) < 1 / (1 + np.exp(-x[:, 0]))).astype(np.int64)
    for name, size in (("data", scale), ("more", 2 * scale)):
        np.savez(folder / f"{name}.npz", x=size * x, label=label)
    for name, size in (("weights", 0.5), ("others", 0.4)):
        w = {"layer/w": np.array([size, 0.1]), "layer/b": np.array(-0.2)}
        np.savez(folder / f"{name}.npz", allow_pickle=False, **w)
    return folder


write(FOLDER)
write(OTHER, text=LOSS + "\n# Another text.\n")
write(WIDE, scale=3.0)
(FOLDER / "table.csv").write_text("age,grade\n1.0,2.0\n2.0,3.0\n4.0,5.5\n")


def model(**changes: Any) -> dict[str, Any]:
    """`model:` of the example."""
    base = {"family": "external", "loss": "own_logistic:loss", "params": "weights.npz"}
    return {**base, "path": str(FOLDER), "polish": True, **changes}


def spec(data: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """The example as a problem of a config."""
    over = {"model": model(**changes), "data": {"file": "data.npz", **(data or {})}}
    return {"overrides": over}
