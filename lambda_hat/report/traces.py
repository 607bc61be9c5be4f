"""Pictures of the draws behind a number: trace, ranks and autocorrelation, from a trace.nc."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import rankdata

from lambda_hat.report.figures import Drawing
from lambda_hat.report.formatting import format_count
from lambda_hat.report.style import COLOURS, MUTED, new_figure, with_report_style
from lambda_hat.store import Store

POINTS = 200
"""Draws of each chain that are drawn as a line."""
BINS = 20
LAGS = 100
CAPTION = (
    "Left: the LLC of each draw by chain, at even distances. Middle: ranks of each chain's draws "
    "among those of all chains, flat where the chains agree. Right: how soon draws forget one "
    "another. Chains that have mixed look alike in all three."
)


def draw_traces(
    store: Store, pid: str, reference: Mapping[str, Any], best: Iterable[Any]
) -> list[Drawing]:
    """The draws of a problem's reference and of each method's best trial, where they were kept.

    Args:
        store: Where the traces are.
        pid: The problem.
        reference: Content of its ref.json.
        best: The row of the best trial of each method.
    """
    told = f"{str(reference.get('method') or '').upper()} reference".strip()
    pages = [("Draws of the reference", told, store.reference_trace(pid), reference)]
    for row in best:
        trace = store.trace(pid, row.method, row.trial_id)
        title, told = f"Draws of the best {row.method}", f"{row.method}, trial {row.trial_number}"
        pages.append((title, told, trace, {"diagnostics": row.diagnostics}))
    return [
        Drawing(title, CAPTION, trace_figure(path, told, known.get("diagnostics") or {}))
        for title, told, path, known in pages
        if path.exists()
    ]


@with_report_style
def trace_figure(path: Path, told: str, diagnostics: Mapping[str, Any]) -> Figure:
    """Trace, ranks and autocorrelation of the LLC of one run's draws.

    Args:
        path: A trace.nc.
        told: Whose draws they are.
        diagnostics: R-hat and ESS of the same draws.
    """
    with xarray.open_dataset(path, engine="h5netcdf", group="posterior") as posterior:
        llc, draw = posterior["llc"].values, posterior["draw"].values
    figure = new_figure(f"{told}: {_finding(llc, diagnostics)}", 2.3)
    panels = figure.subplots(1, 3, width_ratios=(2.2, 1, 1))
    _draw_lines(panels[0], draw, llc)
    _draw_ranks(panels[1], llc)
    _draw_correlation(panels[2], llc, step=int(draw[1] - draw[0]))
    return figure


def _finding(llc: np.ndarray, diagnostics: Mapping[str, Any]) -> str:
    rhat, ess = diagnostics.get("rhat"), diagnostics.get("ess_bulk")
    known = [] if rhat is None else [f"R-hat {rhat:.3f}"]
    known += [] if ess is None else [f"ESS {ess:,.0f}"]
    return ", ".join([format_count(len(llc), "chain"), *known])


def _draw_lines(axes: Axes, draw: np.ndarray, llc: np.ndarray) -> None:
    step = max(1, llc.shape[1] // POINTS)
    for colour, chain in zip(_colours(llc), llc, strict=True):
        axes.plot(draw[::step], chain[::step], color=colour, linewidth=0.6, alpha=0.8)
    axes.set(xlabel="draw", ylabel="LLC of the draw")


def _draw_ranks(axes: Axes, llc: np.ndarray) -> None:
    ranks = rankdata(llc).reshape(llc.shape) / llc.size
    for colour, chain in zip(_colours(llc), ranks, strict=True):
        counts, edges = np.histogram(chain, bins=BINS, range=(0.0, 1.0))
        axes.stairs(counts * BINS / chain.size, edges, color=colour, linewidth=1.0)
    axes.axhline(1.0, color=MUTED, linewidth=0.8, linestyle=":")
    axes.set(xlabel="rank", ylabel="share, even = 1", xlim=(0, 1))
    axes.set_ylim(bottom=0.0)


def _draw_correlation(axes: Axes, llc: np.ndarray, *, step: int) -> None:
    lags = np.arange(min(LAGS, llc.shape[1] // 2))
    for colour, chain in zip(_colours(llc), llc, strict=True):
        axes.plot(lags * step, autocorrelation(chain)[: len(lags)], color=colour, linewidth=1.0)
    axes.axhline(0.0, color=MUTED, linewidth=0.8, linestyle=":")
    axes.set(xlabel="lag", ylabel="autocorrelation")


def autocorrelation(chain: np.ndarray) -> np.ndarray:
    """Of one chain at every lag; 1 at lag 0, and 0 elsewhere for a chain that never moves."""
    centred = chain - chain.mean()
    spectrum = np.fft.rfft(centred, 2 * len(chain))
    found = np.fft.irfft(spectrum * spectrum.conj())[: len(chain)]
    return found / found[0] if found[0] > 0 else np.eye(1, len(chain))[0]


def _colours(llc: np.ndarray) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(len(llc))]
