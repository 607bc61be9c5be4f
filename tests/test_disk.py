"""Folders that fill up or turn read-only: one sentence, nothing corrupt, and the same command
goes on. They are real file systems of their own, which only root may make."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml
from instant import InstantPool, use_instant_runners

from lambda_hat.entrypoints import parsl_llc, parsl_optuna

CONFIG = {
    "problems": [{"model": "quadratic"}],
    "methods": ["vi", "sgld"],
    "optuna": {"max_trials": 40, "batch_size": 4, "confirm_seeds": 0},
}
LLC_CONFIG = {
    "problems": [{"model": "quadratic"}],
    "samplers": [{"name": "vi", "seed": seed} for seed in range(20)],
}


class Disk:
    """A mounted tmpfs."""

    def __init__(self, folder: Path):
        self.folder = folder

    def mount(self, options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"tmpfs cannot be mounted here: {done.stderr.strip()}")

    def remount(self, options: str) -> None:
        command = ["mount", "-o", f"remount,{options}", str(self.folder)]
        subprocess.run(command, check=True, capture_output=True)

    def files(self) -> set[str]:
        return {path.name for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A disk in the current folder, where both commands run with instant runners."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    monkeypatch.chdir(tmp_path)
    use_instant_runners(monkeypatch)
    Path("c.yaml").write_text(yaml.safe_dump(CONFIG))
    Path("llc.yaml").write_text(yaml.safe_dump(LLC_CONFIG))
    disk = Disk(tmp_path / "disk")
    disk.folder.mkdir()
    yield disk
    subprocess.run(["umount", str(disk.folder)], capture_output=True)


def stops_with(code: int, said: str, *argv: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs a command and expects one sentence."""
    main = parsl_llc.main if "llc.yaml" in argv else parsl_optuna.main
    assert main(["--local", "--config", *argv]) == code
    err = capsys.readouterr().err
    assert said in err and len(err.strip().splitlines()) == 1, err


def goes_on(*argv: str, capsys: pytest.CaptureFixture[str]) -> str:
    main = parsl_llc.main if "llc.yaml" in argv else parsl_optuna.main
    assert main(["--local", "--config", *argv]) == 0
    out = capsys.readouterr().out
    assert "damaged" not in out.replace("has a damaged end", "")
    return out


def check_table(path: str, count: int) -> None:
    table = pd.read_parquet(path)
    assert len(table) == count and table.trial_id.is_unique
    assert set(table.status) == {"complete"}


@pytest.mark.parametrize("folder", ["results", "artifacts"])
@pytest.mark.parametrize("kilobytes", [16, 48, 96, 160])
def test_a_full_disk_stops_a_study_which_goes_on_when_there_is_space(
    disk: Disk, capsys: pytest.CaptureFixture[str], folder: str, kilobytes: int
) -> None:
    disk.mount(f"size={kilobytes}k")
    argv = ("c.yaml", f"--{folder}-dir", str(disk.folder))
    main_code = parsl_optuna.main(["--local", "--config", *argv])
    err = capsys.readouterr().err
    assert main_code in (1, 2) and "No space left on device" in err
    assert len(err.strip().splitlines()) == 1
    assert not any(name.startswith(".part-") for name in disk.files())
    disk.remount("size=64m")
    goes_on(*argv, capsys=capsys)
    results = disk.folder if folder == "results" else Path("results")
    check_table(f"{results}/optuna_trials.parquet", 80)


def test_a_full_disk_stops_runs_without_tuning(
    disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    disk.mount("size=48k")
    argv = ("llc.yaml", "--artifacts-dir", str(disk.folder))
    stops_with(1, "No space left on device", *argv, capsys=capsys)
    disk.remount("size=64m")
    goes_on(*argv, capsys=capsys)
    check_table("results/llc_runs.parquet", 20)


@pytest.mark.parametrize("folder", ["results", "artifacts"])
@pytest.mark.parametrize("config", ["c.yaml", "llc.yaml"])
def test_a_read_only_disk_is_bad_input(
    disk: Disk, capsys: pytest.CaptureFixture[str], folder: str, config: str
) -> None:
    disk.mount("ro")
    argv = (config, f"--{folder}-dir", str(disk.folder / "deep"))
    stops_with(2, "must be a folder to write to", *argv, capsys=capsys)
    disk.remount("rw")
    goes_on(*argv, capsys=capsys)


def test_a_disk_that_turns_read_only_stops_a_study_which_goes_on_later(
    disk: Disk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.mount("size=64m")
    calls: list[int] = []

    def turn() -> None:
        calls.append(1)
        if len(calls) == 20:
            disk.remount("ro")

    monkeypatch.setattr(InstantPool, "on_trial", staticmethod(turn))
    argv = ("c.yaml", "--artifacts-dir", str(disk.folder))
    stops_with(1, "Read-only file system", *argv, capsys=capsys)
    disk.remount("rw")
    monkeypatch.setattr(InstantPool, "on_trial", None)
    assert "trials from earlier runs" in goes_on(*argv, capsys=capsys)
    check_table("results/optuna_trials.parquet", 80)
