"""Claims about the report in a browser: it draws everything, at both widths, without an error."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from test_report import STUDY, rows_of

from lambda_hat.report import write_report
from lambda_hat.store import Store
from lambda_hat.tables.trials import write_table

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
REQUIRED = os.environ.get("LAMBDA_HAT_TEST_CHROMIUM") == "required"
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not REQUIRED, reason="Chromium is not installed (apt-get install chromium)"
)

PROBE = """{
const all = (selector) => [...document.querySelectorAll(selector)];
const table = all("table.sortable")[0], titles = all("table.sortable")[0].querySelectorAll("th");
const error = [...titles].findIndex((title) => title.textContent === "error %");
titles[error].querySelector("button").click();
all("[data-tip]")[0].dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
const box = (one) => one.getBoundingClientRect(), shown = document.getElementById("tip");
const found = {
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  pictures: all("figure svg").map((svg) => [box(svg).width, box(svg).height]),
  silent: all("figure svg").filter((svg) => !svg.querySelector("text")).length,
  scrolls: all(".scroll").filter((one) => one.scrollWidth > one.clientWidth).length,
  sorted: [...table.tBodies[0].rows].map((row) => row.cells[error].textContent),
  names: [...table.tBodies[0].rows].map((row) => box(row.cells[0]).width),
  tip: shown.hidden ? null : shown.textContent,
  width: document.documentElement.clientWidth,
};
console.log("PROBE" + JSON.stringify(found) + "PROBE");
}"""
"""Sorts the first table, points at a mark, and logs what it sees."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of two problems, one of them with enough trials for importances."""
    home = tmp_path_factory.mktemp("browser")
    store = Store.at(home / "artifacts", home / "results")
    many = {"mclmc": [(5.0 + 0.05 * i, 0.1) for i in range(12)], "vi": [(None, None)]}
    label = (
        "linear/small data.n=100000 data.input.kind=uniform data.input.low=-10 data.input.high=10"
    )
    rows = [*rows_of(STUDY), *rows_of(many, pid="p_2", label=label)]
    write_table(store.trials_table, rows)
    write_table(store.llc_table, rows[:3])
    return write_report(store, command="parsl-optuna --local").read_text()


def look(page: str, width: int, folder: Path) -> tuple[dict[str, Any], str]:
    """Opens a page; returns what the probe found, and what the browser's console said."""
    assert CHROMIUM, "Chromium must be installed, but is not: apt-get install chromium."
    (folder / "page.html").write_text(page.replace("</body>", f"<script>{PROBE}</script></body>"))
    frame = folder / "frame.html"  # A window has 500 pixels or more, a frame what it is given.
    frame.write_text(f'<iframe src="page.html" style="width:{width}px;height:2000px;border:0">')
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking"
    flags += f" --dump-dom --enable-logging=stderr --user-data-dir={folder}/profile"
    done = subprocess.run(
        [CHROMIUM, *flags.split(), frame.as_uri()], capture_output=True, text=True, timeout=300
    )
    lines = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    found = [line for line in lines if "PROBE" in line]
    assert found, done.stderr[-2000:]
    return json.loads(found[0].split("PROBE")[1]), "\n".join(set(lines) - set(found))


@pytest.mark.parametrize("width", [1200, 400])
def test_the_page_is_drawn_without_an_error(page: str, width: int, tmp_path: Path) -> None:
    found, console = look(page, width, tmp_path)
    assert console == ""
    assert found["width"] in (width, width - 15) and found["overflow"] <= 0
    assert len(found["pictures"]) == page.count("<figure>") > 8 and found["silent"] == 0
    assert all(across > 300 and down > 30 for across, down in found["pictures"])
    assert (found["scrolls"] > 0) == (width == 400)
    assert max(found["names"]) < 350, "A problem's long name leaves no room for its numbers."


def test_tables_sort_and_marks_have_tips(page: str, tmp_path: Path) -> None:
    found, _ = look(page, 1200, tmp_path)
    errors = [float(cell.split()[0]) for cell in found["sorted"] if cell.endswith("%")]
    assert len(errors) > 2 and errors == sorted(errors)
    assert re.match(r"\w+, trial \d+: LLC ", found["tip"])
