"""The Parsl Config for this machine: one warm worker process a physical core, each on its own."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from lambda_hat.execution.settings import setting

if TYPE_CHECKING:
    from parsl.config import Config


def fresh_config() -> Config:
    """What `--local` uses where no parsl_config_local.py lies in the current folder."""
    return local_config()


def local_config(*, workers: int | None = None) -> Config:
    """A new Parsl Config for this machine; Parsl loads each one only once.

    Args:
        workers: Worker processes; the environment variable LAMBDA_HAT_WORKERS goes before it,
            and without either there is one a physical core that this process may use.
    """
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    cores = physical_cores()
    count = setting("LAMBDA_HAT_WORKERS", workers or len(cores), least=1)
    threads = max(1, len(cores) // count)
    executor = HighThroughputExecutor(
        label="local",
        address="127.0.0.1",
        max_workers_per_node=count,
        cpu_affinity=deal_cores(cores, count),
        heartbeat_period=2,  # A dead worker is seen, and replaced, within this time.
        heartbeat_threshold=20,  # Workers whose command was killed are gone after this time.
        provider=LocalProvider(
            init_blocks=1,
            min_blocks=1,
            max_blocks=1,
            worker_init=worker_init(NPROC=threads, PARSL_CORES=count),
        ),
    )
    return Config(executors=[executor], strategy="simple", strategy_period=1)


def worker_init(**variables: object) -> str:
    """The shell lines that run before the workers start; they need no activated environment.

    Args:
        variables: Environment variables to set where the user has not set them.
    """
    bin_folder = shlex.quote(str(Path(sys.executable).parent))
    lines = [
        f"export PATH={bin_folder}:$PATH",
        "export PYTHONFAULTHANDLER=1",
        "export PYTHONSAFEPATH=1",  # No file of the current folder stands in for a module.
    ]
    for name, value in variables.items():
        lines.append(f'[ -n "${{{name}+set}}" ] || export {name}={shlex.quote(str(value))}')
    return "\n".join(lines)


def physical_cores() -> list[list[int]]:
    """The logical CPUs of each physical core this process may use, within the CPU quota."""
    if not hasattr(os, "sched_getaffinity"):  # macOS
        return [[i] for i in range(psutil.cpu_count(logical=False) or 1)]
    cores: dict[str, list[int]] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        name = siblings.read_text() if siblings.exists() else str(cpu)
        cores.setdefault(name, []).append(cpu)
    return list(cores.values())[: _cpu_quota()]


def _cpu_quota() -> int | None:
    """Whole CPUs' worth of time that a container's cgroup grants, or None for no limit."""
    limit = Path("/sys/fs/cgroup/cpu.max")
    quota, _, period = limit.read_text().partition(" ") if limit.exists() else ("max", "", "")
    return None if quota == "max" else max(1, int(quota) // int(period))


def deal_cores(cores: list[list[int]], workers: int) -> str:
    """HTEX's list of CPUs a worker: cores are dealt out, and shared where they are too few."""
    if not hasattr(os, "sched_setaffinity"):
        return "none"
    hands = [cores[i::workers] or [cores[i % len(cores)]] for i in range(workers)]
    return "list:" + ":".join(",".join(str(cpu) for core in h for cpu in core) for h in hands)
