"""Claims about compiled programs that are kept: shared between workers, and never torn."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lambda_hat.execution.compile_cache import CompileCache, machine_key

COMPILE = """
from lambda_hat.execution.compile_cache import CompileCache
cache = CompileCache.for_this_process()
with cache:
    import jax, os, sys
    jax.jit(lambda x: x * 3 + 1)(1.0)
    if sys.argv[1] == "crash":
        os._exit(0)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this machine's programs are shared, in a cache folder of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "to be undone after the test")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    return tmp_path / "lambda-hat" / "xla" / machine_key()


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_programs_are_shared_when_a_task_has_ended(home: Path) -> None:
    cache = CompileCache.for_this_process()
    private = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    with cache:
        (private / "mine").write_text("whole")
        assert _names(home) == set()
    assert _names(home) == {"mine"}
    (home / "theirs").write_text("whole")
    with cache:
        assert _names(private) == {"mine", "theirs"}


def test_jax_finds_what_another_process_compiled(home: Path) -> None:
    """And what a crashed process compiled is not shared, since it may be torn."""
    seen = []
    for end in ("crash", "well", "well"):
        subprocess.run([sys.executable, "-c", COMPILE, end], check=True)
        seen.append(_names(home))
    after_crash, after_one, after_two = seen
    assert after_crash == set()
    assert after_one == after_two != set()


def test_folders_of_dead_processes_are_removed(home: Path) -> None:
    subprocess.run([sys.executable, "-c", COMPILE, "crash"], check=True)
    (left,) = (home / "private").iterdir()
    CompileCache.for_this_process()
    assert not left.exists()


def test_a_folder_that_the_user_chose_is_used_as_it_is(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    with CompileCache.for_this_process():
        assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "/elsewhere"
    assert not home.exists()


def test_a_cache_that_cannot_be_written_is_done_without(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lambda-hat").write_text("a file where a folder should be")
    with CompileCache.for_this_process():
        assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_a_machine_runs_only_programs_made_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    assert machine_key().endswith("-cuda+cpu")
    assert "/" not in machine_key()
