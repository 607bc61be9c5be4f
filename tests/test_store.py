"""Spec -> path: files are whole or not there, and damage is seen."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from lambda_hat.store import (
    TEMPORARY,
    BrokenFile,
    FolderBusy,
    Store,
    content_id,
    lock_folder,
    read_json,
    read_or_quarantine,
    remove_leftover_files,
    replacing,
    unwritable,
    write_bytes,
    write_json,
)


def test_json_comes_back_as_it_was_written(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None], "b": {"c": "ü"}, "d": 0.1 + 0.2}
    write_json(tmp_path / "deep" / "x.json", value)
    assert read_json(tmp_path / "deep" / "x.json", ("a", "b")) == value
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x.json"]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused_and_the_old_file_stays(tmp_path: Path, number: float) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": number})
    assert read_json(tmp_path / "x.json") == {"a": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1', "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"", "not JSON"),
        (b'{"a": NaN}', "NaN"),
        (b"[1]", "a list"),
        (b'{"b": 1}', "lacks a"),
        (b'{"a": 1, "checksum": "0"}', "checksum"),
    ],
)
def test_damage_is_said_and_set_aside(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(BrokenFile, match=said):
        read_json(path, ("a",))
    told: list[str] = []
    assert read_or_quarantine(path, ("a",), told.append) is None
    assert len(told) == 1 and str(path) in told[0]
    [kept] = tmp_path.iterdir()
    assert kept.name.startswith("x.json.broken-") and kept.read_bytes() == content


def test_a_changed_digit_is_damage(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"llc": 4.51})
    text = (tmp_path / "x.json").read_text()
    (tmp_path / "x.json").write_text(text.replace("4.51", "4.61"))
    with pytest.raises(BrokenFile, match="checksum"):
        read_json(tmp_path / "x.json")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_bytes(tmp_path / "x", b"old")
    with pytest.raises(OSError, match="disk"), replacing(tmp_path / "x") as temporary:
        temporary.write_bytes(b"half")
        raise OSError("disk full")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    write_bytes(tmp_path / "x", b"")
    (tmp_path / "y").touch()
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "y").stat().st_mode


def _no_flock(*args: object) -> None:
    raise OSError(errno.ENOSYS, "Function not implemented")


def _hold_and_exit(
    folder: str, ready: multiprocessing.Event, go: multiprocessing.Event, *, flock: bool
) -> None:
    if not flock:
        fcntl.flock = _no_flock
    with lock_folder(Path(folder)):
        ready.set()
        go.wait(60)
        os._exit(9)  # As if killed: nothing is released by hand.


@pytest.mark.parametrize("flock", [True, False])
def test_a_folder_is_held_by_one_process_and_free_when_it_dies(
    tmp_path: Path, flock: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not flock:  # As on some Lustre file systems.
        monkeypatch.setattr(fcntl, "flock", _no_flock)
    spawn = multiprocessing.get_context("spawn")
    ready, go = spawn.Event(), spawn.Event()
    other = spawn.Process(
        target=_hold_and_exit, args=(str(tmp_path), ready, go), kwargs={"flock": flock}
    )
    other.start()
    assert ready.wait(60)
    with pytest.raises(FolderBusy, match=f"process {other.pid} on "), lock_folder(tmp_path):
        pass
    go.set()
    other.join(60)
    assert other.exitcode == 9
    with lock_folder(tmp_path):
        assert json.loads((tmp_path / ".holder").read_text())["pid"] == os.getpid()
    assert not (tmp_path / ".holder").exists()


def test_sweep_removes_what_dead_processes_left_and_nothing_else(tmp_path: Path) -> None:
    import socket

    host = socket.gethostname()
    dead = tmp_path / "deep" / f"{TEMPORARY}4194305-{host}~abc-x"
    alive = tmp_path / f"{TEMPORARY}{os.getpid()}-{host}~abc-x"
    remote = tmp_path / f"{TEMPORARY}1-elsewhere~abc-x"
    for path in (dead, alive, remote, tmp_path / "x"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    remove_leftover_files(tmp_path)
    assert not dead.exists()
    assert alive.exists() and remote.exists() and (tmp_path / "x").exists()
    os.utime(remote, (0, 0))
    remove_leftover_files(tmp_path)
    assert not remote.exists()


def test_unwritable_says_why_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert unwritable(tmp_path / "new" / "deep") is None
    assert "is a file" in (unwritable(tmp_path / "file" / "x") or "")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_ids_depend_on_content_and_not_on_spelling() -> None:
    assert content_id("r", {"a": 1, "b": 2}) == content_id("r", {"b": 2, "a": 1})
    assert content_id("r", {"a": 1}) != content_id("r", {"a": 2})
    assert len(content_id("r", {})) == len("r_") + 12


def test_a_store_has_absolute_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store.at("artifacts", "results")
    assert store.journal("p_1", "vi") == tmp_path / "results/studies/optuna_llc/p_1.vi.journal"
    assert store.metrics("p_1", "vi", "r_1") == tmp_path / "artifacts/runs/p_1/vi/r_1/metrics.json"
    assert store.reference("p_1") == tmp_path / "artifacts/problems/p_1/ref.json"
