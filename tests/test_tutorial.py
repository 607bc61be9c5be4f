"""The tutorial is a notebook that runs: what it prints holds, and bars leave no mess behind."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
WIDGET = "application/vnd.jupyter.widget-view+json"
RUN = (
    "import tutorial, nbformat, pathlib; nbformat.write(tutorial.executed(pathlib.Path()), {out!r})"
)
REFERENCE = r"<Reference of .* (p_\w+): LLC ([\d.]+) ± ([\d.]+), ok>"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The cells of the notebook, run now in an empty folder."""
    here = tmp_path_factory.mktemp("tutorial")
    code = f"import sys; sys.path.insert(0, {str(DOCS / 'made')!r}); " + RUN.format(out="ran.ipynb")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=here, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return cells(here / "ran.ipynb")


def cells(path: Path) -> list[dict[str, Any]]:
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


def printed(of: list[dict[str, Any]]) -> str:
    """What the cells printed."""
    outputs = (output for cell in of for output in cell["outputs"])
    return "".join("".join(output.get("text", [])) for output in outputs)


def shown(cell: dict[str, Any]) -> Iterator[dict[str, str]]:
    """What a cell shows beside that, by type."""
    for output in cell["outputs"]:
        yield {kind: "".join(text) for kind, text in output.get("data", {}).items()}


@pytest.mark.slow
def test_the_tutorial_says_what_its_page_says(ran: list[dict[str, Any]]) -> None:
    kept = cells(DOCS / "tutorial.ipynb")
    assert [cell["source"] for cell in ran] == [cell["source"] for cell in kept]
    (now, *_), (then, *_) = (re.findall(REFERENCE, printed(one)) for one in (ran, kept))
    assert now[0] == then[0], "The problem has changed: run docs/made/tutorial.py again."
    assert abs(float(now[1]) - float(then[1])) < 4 * (float(now[2]) + float(then[2]))
    assert "FAIL" not in printed(ran) and "sgld: LLC" in printed(ran)
    assert sum("image/png" in data for cell in ran for data in shown(cell)) == 1


@pytest.mark.slow
def test_a_call_has_one_bar_and_what_is_shown_has_no_control_sequences(
    ran: list[dict[str, Any]],
) -> None:
    bars = [sum(WIDGET in data for data in shown(cell)) for cell in ran]
    assert set(bars) == {0, 1} and sum(bars) == 3  # A reference, an estimate and a study.
    assert "\x1b" not in printed(ran) and "\r" not in printed(ran)
    assert not [data for cell in ran for data in shown(cell) if "\x1b" in data.get("text/html", "")]


def test_the_page_has_the_notebook_s_cells_and_no_bars() -> None:
    text = (DOCS / "tutorial.ipynb").read_text()
    assert WIDGET not in text and "Traceback" not in text
    for cell in cells(DOCS / "tutorial.ipynb"):
        assert cell["outputs"] or "import" in "".join(cell["source"])
