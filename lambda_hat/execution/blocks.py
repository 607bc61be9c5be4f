"""Ends the jobs that hold the workers ("blocks"), and finds those that a killed command left."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
from contextlib import suppress
from typing import Any

import psutil

from lambda_hat.execution.parsl_internals import (
    has_job_ended,
    job_ids,
    local_pid,
    note_cancelled,
)

logger = logging.getLogger(__name__)

COMMAND_TIMEOUT_SEC = 60
CANCEL_COMMANDS = {"slurm": "scancel", "pbspro": "qdel", "torque": "qdel"}
"""Of the batch schedulers whose jobs we look after, by their provider's label."""


def is_known(provider: Any) -> bool:
    """Whether a provider is one whose blocks we look after: this machine, SLURM or PBS.

    Those of any other are Parsl's alone: they are started and ended as Parsl does.
    """
    return provider.label == "local" or provider.label in CANCEL_COMMANDS


def num_workers(executor: Any) -> int:
    """How many tasks an executor runs at once when all its blocks are there."""
    provider = executor.provider
    return int(executor.workers_per_node) * provider.nodes_per_block * provider.max_blocks


def describe(executor: Any) -> str:
    """An executor's workers, in words."""
    provider, each = executor.provider, int(executor.workers_per_node)
    if provider.label == "local":
        return f"{_count(each, 'worker')} on this machine"
    queue = getattr(provider, "partition", None) or getattr(provider, "queue", None)
    where = provider.label.upper() + (f" {queue}" if queue else "")
    blocks, nodes = _count(provider.max_blocks, "job"), _count(provider.nodes_per_block, "node")
    return f"{where}: up to {blocks} of {nodes} with {_count(each, 'worker')} each"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def end_block(executor: Any, job_id: str) -> None:
    """Ends one block and all that runs in it; Parsl replaces it when there is work."""
    if has_job_ended(executor, job_id):
        return
    if executor.provider.label == "local":  # Parsl's own way needs the command `ps`.
        _kill_group(local_pid(executor, job_id))
        note_cancelled(executor, job_id)
    else:
        executor.provider.cancel([job_id])


def end_blocks(executor: Any) -> None:
    """Ends all blocks of an executor."""
    if is_known(executor.provider):
        for job_id in job_ids(executor):
            end_block(executor, job_id)
        if executor.provider.label == "local":
            _kill_local_leftovers(executor.label, within=False)
        return
    try:
        executor.provider.cancel(job_ids(executor))
    except Exception as error:  # Another's code, of which we know nothing.
        logger.warning("the blocks of executor %s may live on: %s", executor.label, error)


def _kill_group(pid: int) -> None:
    try:
        os.killpg(os.getpgid(pid), signal.SIGKILL)
    except ProcessLookupError:
        logger.info("process %d is gone already", pid)


def cancel_leftovers(executor: Any, token: str) -> list[str]:
    """Ends the blocks that a killed command left behind: those whose name carries `token`.

    Returns:
        The ids of the jobs (or local processes) that were ended; none where the provider is one
        whose blocks we do not look after, which is said.
    """
    provider = executor.provider
    if not is_known(provider):
        logger.warning(
            "Executor %s runs on %s, and only this machine, SLURM and PBS are looked after: cancel "
            "by hand what a killed command leaves there. A job whose workers hang is not replaced.",
            executor.label,
            type(provider).__name__,
        )
        return []
    if provider.label == "local":
        return _kill_local_leftovers(token)
    clusters = [f"--clusters={c}"] if (c := getattr(provider, "clusters", None)) else []
    slurm = provider.label == "slurm"
    left = _slurm_leftovers(clusters, token) if slurm else _pbs_leftovers(token)
    if left:
        _run([CANCEL_COMMANDS[provider.label], *clusters, *left])
        logger.warning("cancelled jobs that an earlier run left behind: %s", ", ".join(left))
    return left


def _kill_local_leftovers(token: str, *, within: bool = True) -> list[str]:
    """Kills what runs in blocks whose name carries `token`, and returns the processes.

    A killed worker pool leaves processes of its own behind, whose command lines say nothing: they
    are known by JOBNAME, which Parsl sets in a block.

    Args:
        token: Part of the label of an executor.
        within: Whether to look at command lines too, and so at worker pools themselves.
    """
    left = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # It is gone, or another user's.
            words = process.cmdline() if within else []
            if any(token in word for word in (*words, process.environ().get("JOBNAME", ""))):
                process.kill()
                left.append(str(process.pid))
    return left


def _slurm_leftovers(clusters: list[str], token: str) -> list[str]:
    mine = ["--user", str(os.getuid())]
    lines = _run(["squeue", *clusters, *mine, "--noheader", "--format=%i %j"]).splitlines()
    return [line.split()[0] for line in lines if token in line]


def _pbs_leftovers(token: str) -> list[str]:
    try:
        jobs = json.loads(_run(["qstat", "-f", "-F", "json"]) or "{}").get("Jobs", {})
    except json.JSONDecodeError as error:  # Some versions of PBS do not quote what they print.
        logger.warning("qstat's answer cannot be read (%s): left-over jobs were not sought", error)
        return []
    return [job_id for job_id, job in jobs.items() if token in job.get("Job_Name", "")]


def _run(command: list[str]) -> str:
    """The command's output; '' with a warning where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_SEC)
    if done.returncode != 0:
        logger.warning("%s failed: %s", " ".join(command), done.stderr.strip())
        return ""
    return done.stdout
