"""Record of a run for the report: machine, versions, source commit, searched ranges and seeds."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

from lambda_hat.report.formatting import format_setting
from lambda_hat.report.overview import Cell, Table

PACKAGES = ("lambda-hat", "optuna", "parsl", "jax", "numpy")


def describe_machine() -> dict[str, str]:
    """The machine and software of this process: CPU, kind of host, versions, source commit."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    facts = {
        "driver's CPU": f"{_cpu_model()}, {os.cpu_count()} cores",
        "kind of host": f"{_host_kind()}, {platform.system()} {platform.machine()}",
        "versions": f"Python {platform.python_version()}, {versions}",
    }
    commit = _source_commit()
    return facts | ({"source commit": commit} if commit else {})


def _cpu_model() -> str:
    for line in _cpu_info().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _cpu_info() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _host_kind() -> str:
    """Whether this is a cluster job, a container, a virtual machine or a physical machine."""
    for variable, queue in (("SLURM_JOB_ID", "SLURM"), ("PBS_JOBID", "PBS")):
        if variable in os.environ:
            return f"{queue} job"
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return "container"
    return "virtual machine" if "hypervisor" in _cpu_info() else "physical machine"


def _source_commit() -> str:
    """The commit of the package's own repository; empty if it is not run from a clone."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        found = [
            subprocess.run(
                ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=5
            )
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        ]
    except (OSError, subprocess.TimeoutExpired):
        return ""
    if any(done.returncode for done in found):
        return ""
    return found[0].stdout.strip()[:12] + (" with changes" if found[1].stdout.strip() else "")


def read_fingerprint(journal: Path) -> dict[str, Any]:
    """What a study recorded when it began: search space, seed, objective, budget; maybe empty."""
    try:
        with journal.open() as file:
            for line in islice(file, 5):
                attributes = json.loads(line).get("user_attr") or {}
                if "fingerprint" in attributes:
                    return attributes["fingerprint"]
    except (OSError, ValueError, AttributeError):
        pass
    return {}


def ranges_table(fingerprints: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """The searched range of each setting, by method; None if no study says.

    Args:
        fingerprints: By method, what one of its studies recorded.
    """
    rows = [
        [Cell(method), Cell(name), Cell(_range_text(entry))]
        for method, found in fingerprints.items()
        for name, entry in (found.get("search_space") or {}).items()
    ]
    return Table(("method", "setting", "searched"), rows, 3) if rows else None


def _range_text(entry: Mapping[str, Any]) -> str:
    if "choices" in entry:
        return ", ".join(str(choice) for choice in entry["choices"])
    scale = ", on a log scale" if entry.get("log") else ""
    return f"{format_setting(entry['low'])} to {format_setting(entry['high'])}{scale}"
