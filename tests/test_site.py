"""The site's pages: what they quote is in the code, and what is made for them is whole."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

from lambda_hat.conf.samplers import SAMPLERS
from lambda_hat.entrypoints.plans import OptunaSection
from lambda_hat.problems.exact import product_llc, quadratic_llc

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
HOLE = "\0"
"""Stands for what a message has from case to case."""


def made(name: str) -> ModuleType:
    """A module of docs/made/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"made_{name}", DOCS / "made" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def cells(page: str) -> list[list[str]]:
    """The cells of all tables of a page, without those of heads."""
    lines = (DOCS / f"{page}.md").read_text().splitlines()
    rows, told = [], False
    for before, line in zip(["", *lines], lines, strict=False):
        if not line.startswith("|"):
            told = False
        elif set(line) <= set("|- "):
            told = before.startswith("|")
        elif told:
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


# Messages.


def texts() -> Iterator[str]:
    """Every text of the package that is no docstring, with holes where values go."""
    for path in sorted((ROOT / "lambda_hat").rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%[sd]", HOLE, node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else HOLE for p in node.values]
                yield "".join(map(str, parts))


TEXTS = [" ".join(text.replace("`", "").split()) for text in texts()]
QUOTED = [row[0] for row in cells("troubleshooting")]


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_one_of_the_program(message: str) -> None:
    parts = [part.strip(" .()") for part in message.replace("`", "").split("..")]
    pattern = re.compile(".*".join(re.escape(part) for part in parts if part), re.S)
    assert any(pattern.search(without_values(text)) for text in TEXTS), message


def without_values(text: str) -> str:
    """What `A key must be one of` is made from has its first words in a hole."""
    return text.replace(f"{HOLE} must be one of", "A key must be one of")


# Numbers.


def test_exact_values_by_gamma() -> None:
    nbeta = 1000 / np.log(1000)
    rows = [row for row in cells("which_gamma") if len(row) == 5]
    assert len(rows) == 5
    for row in rows:
        gamma = float(row[0])
        expected = [
            quadratic_llc(np.array([1.0, 1.0]), nbeta, gamma),
            quadratic_llc(np.array([1.0, 0.001]), nbeta, gamma),
            product_llc(nbeta, gamma, dims=(1, 1), powers=(1, 1)),
        ]
        assert row[2:] == [f"{value:.4f}" for value in expected]
        assert float(row[1]) == pytest.approx(gamma / nbeta, rel=0.02)


def test_exact_values_by_number_of_data() -> None:
    rows = [row for row in cells("which_gamma") if len(row) == 3]
    assert len(rows) == 4
    for row in rows:
        nbeta = int(row[0]) / np.log(int(row[0]))
        expected = [
            product_llc(nbeta, gamma, dims=(1, 1), powers=(1, 1)) for gamma in (1.0, 0.05 * nbeta)
        ]
        assert row[1:] == [f"{value:.4f}" for value in expected]


def test_the_picture_tends_to_its_limits() -> None:
    exact = made("picture").exact(np.array([1e3, 1e12]))
    assert exact["singular"][0] == pytest.approx(0.3614, abs=1e-4)
    assert exact["regular"][1] == pytest.approx(1.0, abs=1e-6)
    assert 0.45 < exact["singular"][1] < 0.5


# What is made for the site.


def test_the_configuration_reference_has_every_key() -> None:
    text = made("configuration").reference()
    for field in fields(OptunaSection):
        assert f"| `{field.name}` |" in text
    for name, config in SAMPLERS.items():
        section = text.split(f"### `{name}`")[1].split("\n###")[0]
        told = re.findall(r"^\| `(\w+)` \|", section, re.M)
        assert told == [field.name for field in fields(config)]
    assert "| `eta0` | number | `0.001` | `> 0` | Initial step size" in text


def test_links_to_sources_are_names_in_the_site() -> None:
    links = made("links")
    page = (
        "[loop](../lambda_hat/samplers/loop.py) [`lambda_hat/llc.py`](../lambda_hat/llc.py) "
        "[target](target.md#definitions) [why](../plans/optuna.md) [x](https://example.org)\n"
        "```\n[kept](../lambda_hat/llc.py)\n```\n"
    )
    told = links.for_the_site(page, DOCS / "line.md", {"design.md": "plans/optuna.md"})
    assert told == (
        "loop (`lambda_hat/samplers/loop.py`) `lambda_hat/llc.py` "
        "[target](target.md#definitions) [why](design.md) [x](https://example.org)\n"
        "```\n[kept](../lambda_hat/llc.py)\n```\n"
    )


def test_the_menu_has_every_page() -> None:
    groups = [entry for entry in SITE["nav"] if isinstance(next(iter(entry.values())), list)]
    assert [next(iter(group)) for group in groups] == [
        "Tutorial",
        "How-to",
        "Reference",
        "Explanation",
    ]
    listed = re.findall(r": (\w+\.md)", (ROOT / "mkdocs.yml").read_text())
    pages = {path.name for path in DOCS.glob("*.md")}
    assert pages == set(listed) - {"design.md", "changes.md", "contributing.md", "tutorial.md"}


def test_nothing_of_the_site_is_loaded_from_elsewhere() -> None:
    assert SITE["theme"]["font"] is False and SITE["strict"] is True
    # With --quiet, mkdocs counts no warnings.
    assert "mkdocs build --strict\n" in (ROOT / ".ci" / "run").read_text()
    assert not {"extra_javascript", "site_url", "repo_url"} & set(SITE)
    assert all((DOCS / sheet).exists() for sheet in SITE["extra_css"])
