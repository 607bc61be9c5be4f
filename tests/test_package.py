"""The package outside a clone: what its wheel holds, and that its commands start at once."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from lambda_hat.entrypoints import parsl_llc, parsl_optuna, start
from lambda_hat.entrypoints.shipped import here_or_shipped, shipped_files

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGE = "lambda_hat"
MAINS = {"parsl-optuna": parsl_optuna.main, "parsl-llc": parsl_llc.main}
SLOW = ("jax", "numpy", "optuna", "pandas", "parsl", "rich", "yaml")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs, and nothing else."""
    wheels, target = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    for command in (
        ["uv", "build", "--wheel", "--no-build-isolation", "--offline", "-o", wheels, ROOT],
        ["uv", "pip", "install", "--no-deps", "--offline", "--target", target],
    ):
        command += sorted(wheels.glob("*.whl")) if "pip" in command else []
        python = ["--python", sys.executable]
        done = subprocess.run([*command, *python], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return target


def run_installed(installed: Path, here: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of the installed wheel in a folder; the rest comes from this environment."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    script = installed / "bin" / argv[0]
    return subprocess.run(
        [sys.executable, script, *argv[1:]],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
    )


# Outside a clone.


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["parsl-optuna", "--local"], "config/optuna_demo.yaml"),
        (["parsl-llc", "--local"], "config/experiments.yaml"),
        (["parsl-optuna", "--config", "config/quickstart.yaml"], "config/quickstart.yaml"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_wheel_runs_in_an_empty_folder(
    installed: Path, tmp_path: Path, argv: list[str], name: str
) -> None:
    done = run_installed(installed, tmp_path, *argv, "--dry-run")
    assert done.returncode == 0, done.stderr
    own = installed / PACKAGE / "shipped" / name
    first, found = done.stdout.splitlines()[:2]
    assert first == f"Reading {name} .."
    assert found.endswith(f"the one that came with the package is used: {own}")
    assert not list(tmp_path.iterdir())


def test_the_wheel_brings_what_a_person_runs(installed: Path) -> None:
    brought = installed / PACKAGE / "shipped"
    told = {p.relative_to(brought).as_posix() for p in brought.rglob("*") if p.suffix != ".pyc"}
    assert told - {"config"} == set(shipped_files())
    assert len(shipped_files()) >= 6
    for name, path in shipped_files().items():
        assert (brought / name).read_bytes() == path.read_bytes()


def test_the_wheel_brings_its_types_and_presets(installed: Path) -> None:
    assert (installed / PACKAGE / "py.typed").exists()
    presets = {p.relative_to(ROOT) for p in (ROOT / PACKAGE / "conf").rglob("*.yaml")}
    assert not [path for path in presets if not (installed / path).exists()]


# Files that came with the package.


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_that_lies_here_comes_before_the_packages(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Path("config/optuna_demo.yaml")
    own.parent.mkdir()
    own.touch()
    assert here_or_shipped(own) == own
    assert not capsys.readouterr().out


def test_only_the_packages_own_names_stand_for_its_files(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("optuna_demo.yaml", "config/mine.yaml", str(here / "config/optuna_demo.yaml")):
        assert here_or_shipped(Path(name)) == Path(name)
    assert not capsys.readouterr().out
    assert parsl_optuna.main(["--config", "config/mine.yaml", "--local"]) == 2
    assert "there is no config/mine.yaml here" in capsys.readouterr().err


def test_a_cluster_file_of_the_package_is_found(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "bin").mkdir()
    (here / "bin" / "sbatch").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{here / 'bin'}:{os.environ['PATH']}")
    assert parsl_llc.main(["--parsl-config", "parsl_config_slurm.py", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"is used: {shipped_files()['parsl_config_slurm.py']}" in said


# The first second.


def cpu_seconds(*command: str) -> float:
    """What a command costs in CPU, the least of three runs since others share the machine."""
    costs = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(costs)


@pytest.mark.parametrize("command", MAINS)
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_take_less_than_half_a_second(command: str, option: str) -> None:
    assert cpu_seconds(str(Path(sys.executable).parent / command), option) < 0.5


def test_the_package_is_imported_in_less_than_a_third_of_a_second() -> None:
    assert cpu_seconds(sys.executable, "-c", "import lambda_hat") < 0.3


def test_options_are_read_before_anything_slow_is_imported() -> None:
    code = (
        "import sys; from lambda_hat.entrypoints import options, start;"
        f"sys.exit(str([name for name in {SLOW} if name in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.stderr.strip()


@pytest.mark.parametrize("command", MAINS)
def test_the_version_is_the_packages(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        MAINS[command](["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{command} {PROJECT['project']['version']}\n"


def test_a_misspelt_option_is_refused_before_anything_slow_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["parsl-optuna", "--lokal"])
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"{name} is imported"))
    with pytest.raises(SystemExit) as ended:
        start.parsl_optuna()
    assert ended.value.code == 2
    assert "--lokal" in capsys.readouterr().err


# What is told about it.


def test_the_version_is_one_everywhere() -> None:
    version = PROJECT["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    changes = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert version in changes[:2] and changes[0] in ("Unreleased", version)


def test_what_is_installed_for_development_is_pinned() -> None:
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.M))
    for entry in PROJECT["dependency-groups"]["dev"]:
        name, _, version = entry.partition("==")
        assert pinned[name] == version, entry
    for entry in PROJECT["project"]["optional-dependencies"]["docs"]:
        assert re.match(r"[\w-]+", entry)[0] in pinned, entry  # pyright: ignore
