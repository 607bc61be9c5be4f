"""Studies -> one storage: what `parsl-optuna export-studies` makes, and what Optuna's tools see."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import optuna
import pandas as pd
import pytest
import yaml
from instant import use_instant_runners
from optuna.storages import RDBStorage

from lambda_hat.entrypoints import export_studies, parsl_optuna
from lambda_hat.store import Store, lock_folder

PROBLEMS = [{"model": "quadratic"}, {"model": "linear"}]
CONFIG = {"problems": PROBLEMS, "methods": ["vi", "sgld"]}
WARM = {"enqueue": [{"method": "vi", "params": {"lr": 0.02}}]}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which four studies have run, one of them with a guess."""
    home = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        use_instant_runners(patch)
        tune()
    yield home


@pytest.fixture
def store(tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The same in a folder of its own, to be run in."""
    shutil.copytree(tuned, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    use_instant_runners(monkeypatch)
    return Store.at("artifacts", "results")


def tune(max_trials: int = 3) -> None:
    config = {**CONFIG, "optuna": {**WARM, "max_trials": max_trials}}
    Path("c.yaml").write_text(yaml.safe_dump(config))
    assert parsl_optuna.main(["--config", "c.yaml", "--local"]) == 0


def export(name: str = "all.db") -> int:
    return export_studies.main(["export-studies", name])


def get(url: str) -> dict:
    """What the dashboard answers, once it does."""
    for _ in range(300):
        try:
            with urllib.request.urlopen(url) as answer:
                return json.load(answer)
        except urllib.error.URLError:
            time.sleep(0.1)
    raise AssertionError(f"nobody answers at {url}")


def test_the_dashboard_shows_every_study_by_the_command_that_is_printed(
    store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    assert export() == 0
    said, command = capfd.readouterr().out.splitlines()
    assert said.startswith("all.db has 4 studies")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [*shlex.split(command), "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        api = f"http://127.0.0.1:{port}/api/studies"
        shown = get(api)["study_summaries"]
        table = pd.read_parquet("results/optuna_trials.parquet")
        wanted = sorted(set(table.pid + ":" + table.method))
        assert sorted(study["study_name"] for study in shown) == wanted
        for study in shown:
            trials = get(f"{api}/{study['study_id']}")["trials"]
            assert [trial["state"] for trial in trials] == ["Complete"] * 3
    finally:
        server.terminate()
        server.wait()


def test_an_exported_study_has_every_trial_and_attribute(
    store: Store, request: pytest.FixtureRequest
) -> None:
    assert export() == 0
    storage = RDBStorage("sqlite:///all.db")
    request.addfinalizer(storage.engine.dispose)
    request.addfinalizer(storage.remove_session)  # Before the engine: finalizers run backwards.
    for journal in store.journals():
        pid, method = journal.stem.split(".")
        snapshot = pd.read_pickle(store.snapshot(pid, method))
        copied = optuna.load_study(study_name=snapshot.study_name, storage=storage)
        assert copied.user_attrs == snapshot.user_attrs
        pairs = list(zip(copied.trials, snapshot.trials, strict=True))
        assert pairs and all(
            (a.params, a.values, a.user_attrs, a.state)
            == (b.params, b.values, b.user_attrs, b.state)
            for a, b in pairs
        )


def test_a_file_that_is_there_is_not_written_over(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("all.db").write_text("mine")
    assert export() == 2
    assert capsys.readouterr().err == "all.db must be a new file, but exists. Give another name.\n"
    assert Path("all.db").read_text() == "mine"


def test_a_folder_without_studies_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert export() == 2
    assert re.match(r".*must hold studies, but has none.*--results-dir", capsys.readouterr().err)
    assert not Path("results").exists() and not Path("all.db").exists()


def test_a_place_that_cannot_be_written_to_is_refused(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export("c.yaml/all.db") == 2
    assert "c.yaml is a file" in capsys.readouterr().err


def test_studies_that_a_run_writes_are_not_exported(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with lock_folder(store.results):
        assert export() == 2
    assert "One run at a time" in capsys.readouterr().err
    assert not Path("all.db").exists()


def test_a_damaged_journal_is_a_sentence_and_leaves_no_file(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = store.journals()[0]
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:4], b"{broken\n", *lines[4:]]))
    assert export() == 2
    assert "damaged" in capsys.readouterr().err
    assert not Path("all.db").exists() and not list(Path().glob(".part-*"))
    tune()
    assert export() == 0


def test_journals_have_names_that_any_system_takes(store: Store) -> None:
    names = {path.name for path in store.journals()}
    assert len(names) == 4 and not any(set(name) & set('<>:"/\\|?*') for name in names)


def test_a_journal_of_an_earlier_version_is_gone_on_with_under_its_name(
    store: Store,
) -> None:
    for path in store.journals():
        path.rename(path.with_name(path.name.replace(".", ":", 1)))
    tune(max_trials=4)
    assert all(":" in path.name for path in store.journals()) and len(store.journals()) == 4
    table = pd.read_parquet("results/optuna_trials.parquet")
    assert table.groupby(["pid", "method"]).trial_number.apply(list).tolist() == [[0, 1, 2, 3]] * 4
    assert export() == 0
