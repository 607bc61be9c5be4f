"""The examples run, and what they print is what they promise."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PROMISED = {
    "two_unit_toy": r"exact LLC is (\d\.\d+)",
    "equinox_network": None,
    "flax_network": None,
    "digits": None,
}
"""What holds the known answer, where there is one; each prints a reference and an estimate."""
LARGE = "digits_convolution"
"""What has no reference."""
NUMBER = r"LLC ([\d.]+) ± ([\d.]+), "


@pytest.mark.slow
@pytest.mark.parametrize("name", PROMISED)
def test_an_example_s_reference_holds_and_a_sampler_agrees(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    said = capsys.readouterr().out
    llc, se = map(float, re.findall(f"<Reference .*{NUMBER}ok>", said)[0])
    other, other_se = map(float, re.findall(f"<(?:sgld|mclmc) .*{NUMBER}complete>", said)[0])
    assert abs(llc - other) < 4 * (se**2 + other_se**2) ** 0.5 + 0.05 * llc, said
    if (known := PROMISED[name]) is not None:
        assert abs(float(re.findall(known, said)[0]) - llc) < 4 * se, said


@pytest.mark.slow
def test_a_network_of_1e5_parameters_has_no_reference_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shortened = [f"{LARGE}.py", "60", "250", "3", "80"]
    monkeypatch.setattr(sys, "argv", shortened)
    runpy.run_path(str(EXAMPLES / f"{LARGE}.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "98926 parameters" in said and "There is no reference." in said
    assert re.search(r"<Reference .*: no LLC, unreliable>\n  \S", said), said
    numbers = [float(llc) for llc in re.findall(r"  SGLD, .*: LLC ([\d.]+) ±", said)]
    assert len(numbers) == 3 and max(numbers) < 98926 / 200, said
    assert "No number to report" in said or "with that spread" in said


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*PROMISED, LARGE}
