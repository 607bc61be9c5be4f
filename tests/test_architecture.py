"""The house: one module a stop, in the order that `lambda_hat.__doc__` tells."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lambda_hat

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lambda_hat"
STOPS = re.findall(r"^    (\S+ -> \S+) +(lambda_hat\.\w+)$", lambda_hat.__doc__ or "", re.M)

NUMERICS = ("problem", "target", "samplers", "llc", "diagnostics", "references")
STEERING = (
    "lambda_hat.conf",
    "lambda_hat.store",
    "lambda_hat.trial",
    "lambda_hat.table",
    "lambda_hat.study",
    "lambda_hat.search_space",
    "lambda_hat.objective",
    "lambda_hat.execution",
    "lambda_hat.entrypoints.parsl_optuna",
    "lambda_hat.entrypoints.parsl_llc",
)


def files(*names: str) -> list[Path]:
    found = [path for name in names for path in (PACKAGE / name).rglob("*.py")]
    return found + [PACKAGE / f"{name}.py" for name in names if (PACKAGE / f"{name}.py").exists()]


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_the_line_has_all_its_stops() -> None:
    assert len(STOPS) == 11
    assert STOPS[0] == ("YAML -> Config", "lambda_hat.conf")
    assert STOPS[-1] == ("Parquet -> Report", "lambda_hat.report")


@pytest.mark.parametrize(("arrow", "module"), STOPS)
def test_a_stop_begins_with_its_arrow(arrow: str, module: str) -> None:
    first = (importlib.import_module(module).__doc__ or "").splitlines()[0]
    assert first.startswith(f"{arrow}:"), f"{module} begins with {first!r}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.name)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


@pytest.mark.parametrize("path", files(*NUMERICS), ids=lambda p: p.name)
def test_numerics_know_nothing_of_studies_and_clusters(path: Path) -> None:
    assert not imports(path) & {"optuna", "parsl"}


@pytest.mark.parametrize("module", STEERING)
def test_steering_starts_without_jax(module: str) -> None:
    code = f"import sys, {module}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_is_called_utils() -> None:
    names = {path.stem for path in PACKAGE.rglob("*.py")}
    assert not names & {"utils", "helpers", "common", "misc"}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
