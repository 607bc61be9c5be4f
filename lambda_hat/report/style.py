"""Style of the figures: colours, markers and axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from textwrap import wrap
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lambda_hat.conf.search_space import SEARCH_SPACE
from lambda_hat.report.formatting import format_number

WIDTH = 8.2
"""Width of every figure in inches: that of the page's column."""
TEXT, MUTED, GRID, BAND, BACKGROUND = "#1d2228", "#5b6672", "#e2e6ea", "#c3cad2", "#fffffe"
COLOURS: tuple[str, ...] = ("#d55e00", "#0072b2", "#009e73", "#a6488a", "#9a7400", "#4b4fb3")
"""Based on the palette of Okabe and Ito, which colour-blind readers can tell apart."""
MARKERS = "osD^vP"
DARK_COLOURS: dict[str, str] = dict(
    zip(
        (TEXT, MUTED, GRID, BAND, BACKGROUND, *COLOURS),
        ("#e4e7ea", "#9da8b4", "#2c333b", "#49535e", "#14181d")
        + ("#f58a3c", "#56b4e9", "#34c79b", "#e08cc6", "#d9b13b", "#9a9df0"),
        strict=True,
    )
)
"""The colour that replaces each of these on a dark page."""

_STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "font.family": "DejaVu Sans",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": TEXT,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": TEXT,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "figure.titlesize": 10.5,
    "figure.titleweight": "bold",
    "lines.markersize": 5.5,
}
_MANY = 500
"""Series of more markers than this are rasterized in the SVG."""


def with_report_style(figure: Callable[..., Figure]) -> Callable[..., Figure]:
    """Decorator: draws a figure with the report's style and leaves the caller's style alone."""

    @wraps(figure)
    def drawn(*args: Any, **kwargs: Any) -> Figure:
        with mpl.rc_context(rc={**mpl.rcParamsDefault, **_STYLE, "backend": "agg"}):
            return figure(*args, **kwargs)

    return drawn


def new_figure(title: str, height: float) -> Figure:
    """An empty figure with a title that states the finding."""
    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(wspace=0.05))
    figure.suptitle("\n".join(wrap(title, 92)), x=0.01, ha="left")
    return figure


def footnote(figure: Figure, notes: Sequence[str]) -> None:
    """Writes notes below the axes, such as the meaning of markers; empty notes are left out."""
    text = "; ".join(note for note in notes if note)
    if text:
        figure.supxlabel("\n".join(wrap(text, 120)), x=0.01, ha="left", size=8.5, color=MUTED)


def legend(axes: Axes, handles: Sequence[Any]) -> None:
    """Draws the legend in one line between title and axes."""
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.2,
        borderpad=0.0,
        ncols=6,
        handletextpad=0.5,
        columnspacing=1.6,
    )


def log_axis(axes: Axes, low: float, high: float, *, most: int = 6, which: str = "x") -> None:
    """Makes the x or y axis logarithmic over [low, high], with at most `most` tick labels."""
    pad = (high / low) ** 0.06 if high > low else 1.5
    axes.set(**{f"{which}scale": "log"})
    axes.set(**{f"{which}lim": (low / pad, high * pad)})
    axis = axes.xaxis if which == "x" else axes.yaxis
    powers = range(math.floor(math.log10(low / pad)), math.ceil(math.log10(high * pad)) + 1)
    ticks: list[float] = []
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**power for power in powers for step in steps]
        ticks = [tick for tick in ticks if low / pad <= tick <= high * pad]
        if len(ticks) <= most:
            break
    if not ticks:
        ticks = sorted({float(f"{end:.2g}") for end in (low, high)})
    ticks = ticks[:: 1 + (len(ticks) - 1) // most]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_plain))


def _plain(value: float, position: int | None = None) -> str:
    if 1e-3 <= value < 1e6:
        return f"{value:,.10g}".replace(",", "\u2009")
    return format_number(value)


def colour_and_marker(method: str, methods: Sequence[str]) -> tuple[str, str]:
    """Colour and marker of a method, the same in every figure and report."""
    known = [*SEARCH_SPACE, *sorted(set(methods) - set(SEARCH_SPACE))]
    index = known.index(method)
    return COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]


class Markers(Line2D):
    """Markers without a line, each with a text that the page shows when it is pointed at."""

    tips: tuple[str, ...] = ()


def draw_markers(axes: Axes, x: Any, y: Any, *, tips: Iterable[str] = (), **kwargs: Any) -> None:
    """Draws markers without a line; many markers are rasterized, and have no tips."""
    if len(x):
        kwargs = {"linestyle": "none", "rasterized": len(x) > _MANY, **kwargs}
        line = Markers(np.asarray(x, float), np.asarray(y, float), **kwargs)
        line.tips = tuple(tips)
        axes.add_line(line)
        axes.autoscale_view()


def jitter(numbers: pd.Series) -> pd.Series:
    """Offsets in [-0.5, 0.5) that depend on the trial number only, to separate markers."""
    return (0.618 * numbers) % 1 - 0.5


def marker_size(count: int) -> float:
    """Marker size in points: smaller if there are many."""
    return 5.5 if count <= 200 else 3.5


class ErrorScale:
    """A logarithmic y axis for relative errors, with extra rows for outliers and failed trials.

    Errors above 1000 % are drawn as triangles at the upper end, and failed trials as crosses
    above them, so that one diverged chain does not compress all other errors.

    Args:
        errors: Relative errors; NaN for failed trials.
    """

    LEAST, MOST = 1e-6, 10.0

    def __init__(self, errors: pd.Series):
        shown = errors[(errors > self.LEAST) & (errors <= self.MOST)]
        low = float(shown.min()) if len(shown) else 0.1
        high = float(shown.max()) if len(shown) else 1.0
        above = bool((errors > self.MOST).any())
        self.low = 10 ** math.floor(math.log10(low * 0.8))
        self.top = self.MOST if above else min(self.MOST, max(high * 1.4, 10 * self.low))
        self._off = 10 ** (0.05 * math.log10(self.top / self.low))
        self.failed = self.top * self._off**2
        """y position of failed trials."""
        self.fails = bool(errors.isna().any())
        self.high = self.failed * self._off if self.fails else self.top * self._off

    def format_axis(self, axes: Axes, label: str = "error relative to the reference") -> None:
        """Applies this scale to the y axis."""
        axes.set_yscale("log")
        axes.set_ylim(self.low, self.high)
        first, last = round(math.log10(self.low)), math.floor(math.log10(self.top))
        ticks = [10.0**power for power in range(first, last + 1)]
        if len(ticks) < 3:
            steps = (2.0, 5.0)
            ticks += [s * t for t in ticks for s in steps if s * t <= self.top]
        axes.yaxis.set_major_locator(FixedLocator([*sorted(ticks), *[self.failed] * self.fails]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(self._tick))
        axes.set_ylabel(label)

    def _tick(self, value: float, position: int | None = None) -> str:
        return "failed" if math.isclose(value, self.failed) else f"{100 * value:g} %"

    def draw(
        self, axes: Axes, x: pd.Series, errors: pd.Series, tips: pd.Series, **kwargs: Any
    ) -> None:
        """Draws trials as markers, outliers as triangles and failed trials as crosses."""
        kwargs.setdefault("markersize", marker_size(len(errors)))
        inside = errors.le(self.MOST)
        shown = np.clip(errors[inside], self.low, None)
        draw_markers(axes, x[inside], shown, tips=list(tips[inside]), **kwargs)
        bare = {"color": kwargs["color"], "alpha": 0.8, "clip_on": False}
        above, failed = errors.gt(self.MOST), errors.isna()
        bare |= {"tips": list(tips[above])}
        draw_markers(axes, x[above], [self.top] * int(above.sum()), marker=6, markersize=7, **bare)
        bare |= {"tips": list(tips[failed])}
        bare |= {"markersize": kwargs["markersize"], "marker": "x"}
        draw_markers(axes, x[failed], [self.failed] * int(failed.sum()), **bare)

    def outlier_note(self, errors: pd.Series) -> str:
        """A footnote on errors above the scale; empty if there are none."""
        above = np.asarray(errors[errors > self.MOST])
        if not len(above):
            return ""
        return (
            f"▲ off the scale: {len(above)}, up to {format_number(above.max())} times the reference"
        )
