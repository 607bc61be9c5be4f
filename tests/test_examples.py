"""The examples run, and what they print is what they promise."""

from __future__ import annotations

import re
import runpy
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


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PROMISED)
