"""Keeps compiled programs from run to run, such that a crash never leaves half of one.

JAX writes an entry in place and never repairs a truncated one. So each worker process writes to
a private folder and, when a task has ended, links the finished entries into the shared one: a
link appears whole or not at all. Entries of another jaxlib or CPU can crash a process, so both
are part of the shared folder's name.
"""

from __future__ import annotations

import logging
import os
import platform
import shutil
import socket
from importlib import metadata
from pathlib import Path

import psutil

from lambda_hat.store.content import digest_bytes

logger = logging.getLogger(__name__)

SETTINGS = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    # Otherwise the folder's path is part of every entry's name, and nobody finds another's.
    "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
}


def cache_root() -> Path:
    """Where compiled programs are kept: the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lambda-hat" / "xla"


def machine_key() -> str:
    """Names the machines whose compiled programs this one may run."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu += "".join(next((x for x in lines if x.startswith(("flags", "Features"))), ""))
    flags = digest_bytes([cpu.encode()])[:8]
    platforms = os.environ.get("JAX_PLATFORMS") or "any"
    parts = ("jaxlib", metadata.version("jaxlib"), platform.machine(), flags, platforms)
    return "-".join(parts).replace(",", "+").replace("/", "_")


class CompileCache:
    """The private folder of this process, brought up to date on entry and published on exit."""

    def __init__(self, shared: Path | None, private: Path | None):
        self._shared = shared
        self._private = private

    @classmethod
    def for_this_process(cls) -> CompileCache:
        """Points JAX at a private folder, unless the user has chosen one; never fails."""
        if "JAX_COMPILATION_CACHE_DIR" in os.environ:
            return cls(None, None)
        shared = cache_root() / machine_key()
        private = shared / "private" / f"{socket.gethostname()}-{os.getpid()}"
        try:
            _remove_orphans(private.parent)
            shutil.rmtree(private, ignore_errors=True)
            private.mkdir(parents=True)
        except OSError as error:
            logger.warning("programs are compiled anew in each process: %s", error)
            return cls(None, None)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(private)
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        return cls(shared, private)

    def __enter__(self) -> None:
        if self._shared and self._private:
            _link_missing(self._shared, self._private)

    def __exit__(self, *exc_info: object) -> None:
        if self._shared and self._private:
            _link_missing(self._private, self._shared)


def _link_missing(source: Path, target: Path) -> None:
    """Links the files of `source` that `target` lacks."""
    try:
        present = set(os.listdir(target))
        for entry in os.scandir(source):
            if entry.name not in present and entry.is_file():
                _link(entry.path, target / entry.name)
    except OSError as error:
        logger.warning("compiled programs were not exchanged with %s: %s", target, error)


def _link(source: str, target: Path) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        pass  # Another worker has published the same program.


def _remove_orphans(folder: Path) -> None:
    """Removes the private folders of this host's processes that are no more."""
    host = socket.gethostname()
    for path in folder.glob(f"{host}-*"):
        pid = path.name.removeprefix(f"{host}-")
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(path, ignore_errors=True)
