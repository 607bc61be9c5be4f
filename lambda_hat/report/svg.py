"""Figures as SVG whose colours follow light and dark pages, and whose marks say what they are."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from lambda_hat.report.style import DARK_COLOURS, Markers

_WRITING: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "lambda-hat"}
_FONTS = "'DejaVu Sans', Verdana, 'Bitstream Vera Sans', Arial, sans-serif"
"""Text stays text. Verdana has nearly the widths of DejaVu Sans, for which text is placed."""


def to_svg(figure: Figure, name: str) -> str:
    """Renders a figure as an SVG element whose colours follow the page's.

    Args:
        figure: The figure.
        name: Prefix of the element's ids, which must be unique in a page.
    """
    file = io.StringIO()
    marked: dict[str, tuple[str, ...]] = {}
    for place, line in enumerate(figure.findobj(Markers)):
        if isinstance(line, Markers):
            line.set_gid(f"tips{place}")
            marked[f"tips{place}"] = line.tips
    with mpl.rc_context(rc=_WRITING):
        figure.savefig(file, format="svg", dpi=200, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    for gid, tips in marked.items():
        text = _with_tips(text, gid, tips)
    text = re.sub(r"font: ([^;\"]*?)'DejaVu Sans'[^;\"]*", rf"font: \g<1>{_FONTS}", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", text)
    text = re.sub(r"(<svg [^>]*?)width=\"[^\"]*\" ", r"\1", text, count=1)
    text = re.sub(r"(<svg [^>]*?)height=\"[^\"]*\" ", r"\1", text, count=1)
    for colour in DARK_COLOURS:
        text = text.replace(colour, f"var(--{css_name(colour)})")
    return text


def _with_tips(svg: str, gid: str, tips: Sequence[str]) -> str:
    """Gives each marker of a series its tip, unless the SVG has not all of them."""
    found = re.search(rf'<g id="{gid}">.*?</g>\s*</g>', svg, re.S)
    if found is None or found[0].count("<use ") != len(tips):
        return svg
    parts = found[0].split("<use ")
    marks = [f'data-tip="{escape(tip)}" {part}' for tip, part in zip(tips, parts[1:], strict=True)]
    return svg.replace(found[0], "<use ".join([parts[0], *marks]), 1)


def css_name(colour: str) -> str:
    """The CSS variable of a colour."""
    return f"c{list(DARK_COLOURS).index(colour)}"


def style_sheet() -> str:
    """CSS that defines the colours as variables, for light and dark pages and print."""
    light = "".join(f"--{css_name(colour)}:{colour};" for colour in DARK_COLOURS)
    dark = "".join(f"--{css_name(colour)}:{other};" for colour, other in DARK_COLOURS.items())
    return (
        f":root{{color-scheme:light dark;{light}}}"
        f"@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
        f"@media print{{:root{{{light}}}}}"
    )
