"""Loads a Parsl Config from a file, checks it, and makes it survive what kills processes."""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import socket
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from lambda_hat.conf.checks import ConfigError
from lambda_hat.execution import local
from lambda_hat.execution.blocks import is_known
from lambda_hat.execution.monitoring import add_monitoring
from lambda_hat.execution.parsl_internals import (
    stop_when_no_block_starts,
    use_addresses,
    use_interchange,
)

if TYPE_CHECKING:
    from parsl.config import Config

LOOPBACK = ("127.0.0.1", "::1", "localhost")
ANY_ADDRESS = "0.0.0.0"
"""An executor with this address has its workers try each address of this machine."""
PLAIN_PATH = re.compile(r"[\w.,:/@%+=-]+")
"""Parsl writes its run folder unquoted into shell scripts."""
TOKEN = re.compile("[0-9a-f]{12}")
DRAIN_MARGIN_SEC = 60.0
"""Kept free at the end of a block, beyond the longest trial."""


def local_config_path() -> Path:
    """What `--local` loads: ./parsl_config_local.py where there is one, else the built-in."""
    here = Path.cwd() / "parsl_config_local.py"
    return here if here.is_file() else Path(local.__file__)


def load_parsl_config(path: Path) -> Config:
    """A fresh Parsl Config from a Python file that defines `fresh_config()`.

    Raises:
        ConfigError: The file is missing, fails, or defines no Config; one sentence each.
    """
    from parsl.config import Config

    make = getattr(_run_file(Path(path)), "fresh_config", None)
    if not callable(make):
        raise ConfigError(
            [f"{path} must define a function fresh_config() that returns a parsl Config."]
        )
    try:
        config = make()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError([f"fresh_config() in {path} failed: {_sentence(error)}"]) from error
    if not isinstance(config, Config):
        kind = type(config).__name__
        raise ConfigError([f"fresh_config() in {path} must return a parsl Config, but got {kind}."])
    add_monitoring(config)
    return config


def _run_file(path: Path) -> object:
    if not path.is_file():
        raise ConfigError([f"The Parsl configuration {path} must be a file, but there is none."])
    spec = importlib.util.spec_from_file_location(f"parsl_config_{abs(hash(path))}", path)
    if spec is None or spec.loader is None:
        raise ConfigError([f"The Parsl configuration must be a Python file, but got {path}."])
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ConfigError:
        raise
    except Exception as error:
        where = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)
        ]
        line = f" (line {where[-1]})" if where else ""
        raise ConfigError([f"{path} could not be loaded{line}: {_sentence(error)}"]) from error
    return module


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def check_config(config: Config, *, run_dir: Path, trial_sec: float | None) -> None:
    """Refuses, before anything starts, what would hang or could be abused later.

    Raises:
        ConfigError: With one sentence for each fault.
    """
    from parsl.executors import HighThroughputExecutor

    faults = []
    if config.strategy in (None, "none"):
        faults.append("strategy must be 'simple', or a block that dies is never replaced.")
    for executor in config.executors:
        name = f"executor {executor.label!r}"
        if not isinstance(executor, HighThroughputExecutor):
            kind = type(executor).__name__
            faults.append(f"{name} must be a HighThroughputExecutor, but is a {kind}.")
            continue
        if not executor.encrypted and executor.address not in LOOPBACK:
            faults.append(f"{name} must have encrypted=True, since it leaves this machine.")
        provider: Any = executor.provider
        if provider.label != "local" and not _is_plain(run_dir):
            faults.append(
                f"{name} must have a run folder without spaces and other shell characters, since "
                f"Parsl hands it to a shell, but got {run_dir}."
            )
        faults += _provider_faults(name, provider, trial_sec)
    if faults:
        raise ConfigError(faults)


def _provider_faults(name: str, provider: Any, trial_sec: float | None) -> list[str]:
    faults = []
    command = {"slurm": "sbatch", "pbspro": "qsub", "torque": "qsub"}.get(provider.label)
    if command and shutil.which(command) is None:
        faults.append(f"{name} needs the command {command}, which is not on PATH here.")
    walltime = walltime_sec(provider)
    if walltime and trial_sec and walltime < trial_sec + DRAIN_MARGIN_SEC:
        faults.append(
            f"{name} must have a walltime that exceeds the budget of a trial ({trial_sec:.0f} s) "
            f"by {DRAIN_MARGIN_SEC:.0f} s, but got {walltime:.0f} s."
        )
    return faults


def walltime_sec(provider: Any) -> float | None:
    """Seconds that a block lives, or None where its provider sets no limit that we can read.

    Raises:
        ConfigError: The walltime is not in hours, minutes and seconds.
    """
    text = getattr(provider, "walltime", None)
    if not text:
        return None
    parts = str(text).split(":")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        if not is_known(provider):
            return None  # It may count otherwise, and looks after its blocks itself.
        raise ConfigError([f"A walltime must read HH:MM:SS, but got {text!r}."])
    hours, minutes, seconds = map(int, parts)
    return 3600.0 * hours + 60.0 * minutes + seconds


def prepare_config(config: Config, run_dir: Path, *, trial_sec: float | None) -> str:
    """Gives a checked Config its folder and what our pool relies on.

    Retries are the pool's own: Parsl cannot tell a deadline from a lost worker. Labels carry a
    token of `run_dir`, and block names carry the label, so that the next start finds left-overs.

    Returns:
        The token.
    """
    token = run_token(run_dir)
    config.run_dir = str(run_dir if _is_plain(run_dir) else _plain_alias(run_dir))
    config.initialize_logging = False  # The pool logs, and closes its file.
    config.retries = 0
    config.retry_handler = None
    for executor in config.executors:
        _prepare_executor(executor, token, trial_sec, run_dir)
    return token


def run_token(run_dir: Path) -> str:
    """The name of `run_dir` on any scheduler: random, made once, kept in the folder.

    A damaged one is made anew: whatever carries the token is ended, and all names carry "".
    """
    path = run_dir / "token"
    run_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists() or not TOKEN.fullmatch(path.read_text(errors="replace")):
        fresh = run_dir / f"token.{secrets.token_hex(4)}"
        fresh.write_text(secrets.token_hex(6))
        fresh.replace(path)
    return path.read_text()


def _is_plain(path: Path) -> bool:
    return PLAIN_PATH.fullmatch(str(path)) is not None


def _plain_alias(run_dir: Path) -> Path:
    """A symbolic link to `run_dir` whose own path a shell reads as one word."""
    alias = Path(tempfile.mkdtemp(prefix="lambda-hat-")) / "run"
    alias.symlink_to(run_dir)
    return alias


def _prepare_executor(executor: Any, token: str, trial_sec: float | None, run_dir: Path) -> None:
    executor.label = f"{executor.label}-{token}"
    log = run_dir / f"{executor.label}.interchange.err"
    use_interchange(executor, "lambda_hat.execution.interchange", str(os.getpid()), log=log)
    if executor.address == ANY_ADDRESS:
        use_addresses(executor, own_addresses())
    executor.block_error_handler = stop_when_no_block_starts
    walltime = walltime_sec(executor.provider)
    if walltime and trial_sec and executor.drain_period is None:
        # A block takes no trial that it could not finish.
        executor.drain_period = int(walltime - trial_sec - DRAIN_MARGIN_SEC) or 1


def own_addresses() -> set[str]:
    """This machine's IPv4 addresses that others can reach; loopback where it has no other."""
    found = [a for addresses in psutil.net_if_addrs().values() for a in addresses]
    numbers = {a.address for a in found if a.family == socket.AF_INET}
    return {n for n in numbers if not n.startswith("127.")} or {LOOPBACK[0]}
