"""Defines the environment that a command's processes inherit, whatever the user's shell has in it.

A number under an id must not depend on a shell's variables, and no file of the current folder may
stand in for one of Python's modules. What a user does want, such as XLA_FLAGS for the workers of
a cluster, a Parsl file's `worker_init` sets: it runs after this.
"""

from __future__ import annotations

import getpass
import locale
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path

try:
    import resource
except ImportError:  # Windows has no limits to raise.
    resource = None

CHANGES_NUMBERS = re.compile("JAX_|XLA_FLAGS$")
WHERE_TO_RUN = re.compile(
    r"JAX_(PLATFORMS|PLATFORM_NAME|(CUDA|ROCM)_VISIBLE_DEVICES|TRACEBACK_FILTERING"
    r"|ENABLE_COMPILATION_CACHE|COMPILATION_CACHE_\w+|PERSISTENT_CACHE_\w+)$"
)
"""What stays of JAX's variables: where programs run and are kept, not what they compute."""
STOPS_PROCESSES = re.compile(
    "PYTHON(WARNINGS|INSPECT|OPTIMIZE|DEBUG|VERBOSE|PROFILEIMPORTTIME|DEVMODE|IOENCODING|STARTUP)$"
    "|MPLBACKEND$|MATPLOTLIBRC$|GIT_|SQUEUE_|SLURM_"
)
"""What changes how Python, Matplotlib, git and SLURM's commands behave, as in a job's own shell."""
KEPT_OF_SLURM = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JOB_ID")
PLAIN_FOLDER = re.compile(r"[\w.,:@%+=/-]{1,70}")
"""A folder that a shell reads as one word, and in which a socket's path keeps within 107 bytes."""
TEMPORARY = ("TMPDIR", "TEMP", "TMP")
OPEN_FILES = 4096


@contextmanager
def defined_environment() -> Iterator[list[str]]:
    """The environment of children, for the time of a command; then all is as it was.

    Yields:
        The names of the variables that were left out and would have changed numbers.
    """
    before, mask, folder = dict(os.environ), os.umask(0o077), tempfile.tempdir
    os.umask(mask & ~0o700)  # Whoever writes a file must be able to read it.
    children = defined(before)  # It asks for home and name, and so for what is cleared next.
    os.environ.clear()
    os.environ.update(children)
    tempfile.tempdir = None  # It is looked for anew.
    _raise_open_files()
    try:
        yield sorted(name for name in before if _changes_numbers(name))
    finally:
        os.environ.clear()
        os.environ.update(before)
        os.umask(mask)
        tempfile.tempdir = folder


def defined(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that children inherit."""
    kept = {name: value for name, value in environ.items() if not _is_left_out(name)}
    for name in TEMPORARY:
        if name in kept and not _is_usable(kept[name]):
            del kept[name]
    if "XDG_CACHE_HOME" in kept and not _can_be_made(kept["XDG_CACHE_HOME"]):
        del kept["XDG_CACHE_HOME"]
    paths = [path for path in kept.get("PYTHONPATH", "").split(os.pathsep) if path]
    kept["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in paths)
    if not kept["PYTHONPATH"]:
        del kept["PYTHONPATH"]  # An empty entry is the current folder.
    if not os.path.isdir(os.path.expanduser("~")):
        kept["HOME"] = tempfile.gettempdir()  # A container's user may have none,
    try:
        getpass.getuser()
    except (KeyError, OSError):
        kept["USER"] = f"user{os.getuid()}"  # nor a name, which Parsl asks for.
    return kept | {"PYTHONSAFEPATH": "1", "PYTHONUTF8": "1", "MPLBACKEND": "agg"}


def platform_fault() -> str | None:
    """What is wrong with the platform that JAX's variables name, found out in another process."""
    named = [os.environ.get(name) for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")]
    platform = next((name for name in named if name), "cpu")
    if platform == "cpu":
        return None
    command = [sys.executable, "-P", "-c", "import jax; jax.devices()"]
    if subprocess.run(command, capture_output=True).returncode == 0:
        return None
    return (
        f"JAX must find a device of the platform that JAX_PLATFORMS names, but finds none for "
        f"{platform!r} on this machine. Unset it to run on what there is."
    )


def _is_left_out(name: str) -> bool:
    stops = STOPS_PROCESSES.match(name) is not None and name not in KEPT_OF_SLURM
    return stops or _changes_numbers(name)


def _changes_numbers(name: str) -> bool:
    return CHANGES_NUMBERS.match(name) is not None and WHERE_TO_RUN.match(name) is None


def _is_usable(folder: str) -> bool:
    """Whether programs can keep temporary files and sockets in a folder."""
    plain = PLAIN_FOLDER.fullmatch(folder) is not None and os.path.isabs(folder)
    return plain and Path(folder).is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _can_be_made(folder: str) -> bool:
    """Whether a folder is there to be written to, or was made just now."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.path.isabs(folder) and os.access(folder, os.W_OK | os.X_OK)


def _raise_open_files() -> None:
    """As many open files as a study with many workers needs, if the system grants them."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def use_utf8() -> None:
    """Starts this command again in Python's UTF-8 mode where the shell's locale says otherwise."""
    if not sys.flags.utf8_mode and locale.getencoding().lower() not in ("utf-8", "utf8"):
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")  # PYTHONIOENCODING says else.
