"""Exact families -> the picture of the first page: two parameters each, and what they come to."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lambda_hat.problems.exact import product_llc, quadratic_llc

NAME = "llc.svg"
GAMMA = 1.0
SHOWN_N = 1000
COLOURS = {"regular": "#3b5b92", "singular": "#c0562b"}
WORDS = (
    "Left: where two losses of two parameters are nearly as low as at their minimum. Right: their "
    "exact LLC by the number of data, with the limits of the theory dashed: 1 and 1/2."
)


def embed() -> str:
    """The picture as Markdown, with its caption."""
    return f"![{WORDS}]({NAME})\n\n*{WORDS}*"


@cache
def draw() -> bytes:
    """The picture, an SVG."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.5])
    w1, w2 = np.meshgrid(*[np.linspace(-1.5, 1.5, 201)] * 2)
    _valley(left, 0.5 * (w1**2 + w2**2), "L = (w₁² + w₂²) / 2", COLOURS["regular"])
    _valley(middle, w1**2 * w2**2, "L = w₁² w₂²", COLOURS["singular"])
    _curves(right)
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def exact(n: np.ndarray) -> dict[str, list[float]]:
    """The exact LLC of both losses at each number of data."""
    nbeta = n / np.log(n)
    return {
        "regular": [quadratic_llc(np.ones(2), x, GAMMA) for x in nbeta],
        "singular": [product_llc(x, GAMMA, dims=(1, 1), powers=(1, 1)) for x in nbeta],
    }


def _valley(axes: Any, loss: np.ndarray, title: str, colour: str) -> None:
    """The set where nbeta L is below 1, 2 and 4."""
    nbeta = SHOWN_N / np.log(SHOWN_N)
    levels = [0, 1, 2, 4]
    shades = [(colour, alpha) for alpha in (1.0, 0.55, 0.25)]
    axes.contourf(nbeta * loss, levels, colors=shades, extent=(-1.5, 1.5, -1.5, 1.5))
    axes.set(title=title, xlabel="w₁", ylabel="w₂", aspect="equal")


def _curves(axes: Any) -> None:
    n = np.logspace(1, 8, 60)
    limits = {"regular": 1.0, "singular": 0.5}
    for name, values in exact(n).items():
        axes.semilogx(n, values, color=COLOURS[name])
        axes.axhline(limits[name], color=COLOURS[name], linestyle="--", linewidth=0.8)
    axes.set(title="LLC", xlabel="number of data", ylim=(0, 1.1))
