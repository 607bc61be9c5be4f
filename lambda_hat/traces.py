"""Draws of a run as a file that ArviZ opens: trace.nc, beside ref.json and metrics.json."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5netcdf  # noqa: F401 - so that no run's budget pays for it when it writes.
import numpy as np
import xarray

from lambda_hat.samplers.base import Draws
from lambda_hat.store import write_bytes

with warnings.catch_warnings():  # ArviZ 0.23 announces its next version at every import.
    warnings.simplefilter("ignore", FutureWarning)
    import arviz

MOST_DRAWS = 40_000
"""Draws of all chains that a file holds; of more, every second one is kept, or third, and so on."""
DIMS = ("chain", "draw")
EXACT = ("llc", "weight")
"""Kept in double precision: with these the estimate is found again. All else is in single."""


@dataclass(frozen=True)
class Trace:
    """What is kept of each draw, as arrays [draws, chains].

    Attributes:
        llc: nbeta (L_n(w) - L_n(w*)), whose mean over the posterior is the LLC.
        distance: |w - w*|^2; None where it is not known.
        stats: what else is known of the draws, in ArviZ's names where it has one.
    """

    llc: np.ndarray
    distance: np.ndarray | None
    stats: Mapping[str, np.ndarray]


def trace_of(draws: Draws, *, nbeta: float, init_loss: float) -> Trace:
    """The trace of a sampler's run; what its method does not know is left out.

    Args:
        draws: all draws after warm-up.
        nbeta: n * beta.
        init_loss: L_n(w*), in the draws' own precision.
    """
    known = {
        "virial": draws.virial,
        "energy": draws.energy,
        "acceptance_rate": draws.acceptance,
    }
    stats = {name: values for name, values in known.items() if np.isfinite(values).all()}
    stats["diverging"] = draws.divergence > 0
    if np.ptp(draws.weight) > 0:
        stats["weight"] = draws.weight
    return Trace(nbeta * (draws.loss - init_loss), draws.distance, stats)


def write_trace(path: Path, trace: Trace, about: Mapping[str, str | float | int | None]) -> None:
    """Writes a trace, whole or not at all.

    Args:
        path: the file.
        trace: the draws.
        about: whose it is; None is left out.
    """
    step = max(1, math.ceil(trace.llc.size / MOST_DRAWS))
    draws, chains = trace.llc.shape
    coords = {"chain": np.arange(chains), "draw": np.arange(0, draws, step)}

    def dataset(**values: np.ndarray | None) -> xarray.Dataset:
        known = {name: array[::step].T for name, array in values.items() if array is not None}
        return xarray.Dataset({n: (DIMS, _kept(n, array)) for n, array in known.items()}, coords)

    tree = xarray.DataTree.from_dict(
        {
            "/": xarray.Dataset(attrs={name: v for name, v in about.items() if v is not None}),
            "/posterior": dataset(llc=trace.llc, distance=trace.distance),
            "/sample_stats": dataset(**trace.stats),
        }
    )
    write_bytes(path, bytes(tree.to_netcdf(engine="h5netcdf")), sync=False)


def read_trace(path: Path) -> Any:
    """A trace as ArviZ takes it: its InferenceData, or xarray's DataTree from ArviZ 1 on.

    Raises:
        FileNotFoundError: There is none.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"The draws must lie beside their result, but there is no {path}. What failed has "
            "none, nor has what an earlier version made: remove its folder and compute it again."
        )
    return arviz.from_netcdf(str(path))


def _kept(name: str, values: np.ndarray) -> np.ndarray:
    """An array in the precision that the file has it in."""
    rough = values.dtype != bool and name not in EXACT
    return np.ascontiguousarray(values.astype(np.float32) if rough else values)
