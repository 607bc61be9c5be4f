"""Nothing is lost: the command, its workers and its interchange are killed at random moments."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from lambda_hat.store import TEMPORARY, read_json

COMMAND = Path(sys.executable).with_name("parsl-optuna")
KILLS = {"command": 14, "worker": 9, "interchange": 7}
METHODS = ("sgld", "mclmc")
CONFIG = {
    "problems": [{"model": "quadratic", "data": "small"}, {"model": "small", "data": "small"}],
    "methods": list(METHODS),
    "optuna": {"batch_size": 3, "hmc_budget_sec": 120, "method_budget_sec": 60, "confirm_seeds": 0},
    "reference": {"num_draws": 1000, "num_warmup": 300, "accept_unreliable": True},
    "search_space": {
        "sgld": {"steps": {"low": 20_000, "high": 40_000}, "eta0": {"low": 1e-5, "high": 1e-3}},
        "mclmc": {"steps": {"low": 500, "high": 1_000}, "L": {"low": 0.5, "high": 2.0}},
    },
}


class Run:
    """One start of the command, and what of it can be killed."""

    def __init__(self, folder: Path, trials: int):
        self.folder = folder
        self.log = (folder / "log.txt").open("a")
        self.process = psutil.Popen(
            [str(COMMAND), "--config", "config.yaml", "--local", "--max-trials", str(trials)],
            cwd=folder,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def victim(self, kind: str) -> psutil.Process | None:
        """A living process of this run: the command itself, a worker, or the interchange."""
        if kind == "command":
            return self.process
        if kind == "worker":
            found = [p for p in psutil.process_iter() if is_worker(p, self.folder)]
        else:
            found = [p for p in psutil.process_iter() if is_interchange(p, self.process)]
        return found[0] if found else None

    def end(self, timeout: float = 60) -> int:
        """Waits until the command has ended by itself; returns its exit code."""
        code = self.process.wait(timeout=timeout)
        self.log.close()
        return int(code)


def is_worker(process: psutil.Process, folder: Path) -> bool:
    """Workers are started by Parsl's worker pool, whose command line names the run folder."""
    try:
        spawned = "multiprocessing.spawn" in " ".join(process.cmdline())
        return spawned and any(str(folder) in " ".join(p.cmdline()) for p in process.parents())
    except psutil.Error:
        return False


def is_interchange(process: psutil.Process, command: psutil.Process) -> bool:
    try:
        ours = process.ppid() == command.pid
        return ours and "interchange" in " ".join(process.cmdline())
    except psutil.Error:
        return False


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_thirty_kills_lose_nothing_and_run_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    chance = random.Random(20261123)
    kinds = [kind for kind, times in KILLS.items() for _ in range(times)]
    chance.shuffle(kinds)
    trials, run = 12, Run(tmp_path, 12)
    while kinds:
        moment = time.monotonic() + chance.uniform(0.5, 9.0)
        while time.monotonic() < moment and run.process.is_running():
            time.sleep(0.05)
        if not run.process.is_running() or run.process.status() == psutil.STATUS_ZOMBIE:
            # All is done, or a kill ended the run: go on, with more to do in the first case.
            trials += 4 if run.end() == 0 else 0
            run = Run(tmp_path, trials)
            continue
        victim = run.victim(kinds[-1])
        if victim is None:
            continue
        victim.send_signal(signal.SIGKILL)
        if kinds.pop() == "command":
            run.end()
            run = Run(tmp_path, trials)
    code = run.end(timeout=600)
    if code != 0:  # The last kill ended this run: one undisturbed run must finish the work.
        code = Run(tmp_path, trials).end(timeout=600)
    assert code == 0, (tmp_path / "log.txt").read_text()[-5000:]
    assert_whole(tmp_path, trials)


def assert_whole(folder: Path, trials: int) -> None:
    """The table has every trial asked for, each once, as its own files say; nothing is left."""
    table = pd.read_parquet(folder / "results" / "optuna_trials.parquet")
    scored = table[table.objective.notna()]
    assert scored.groupby(["pid", "method"]).size().tolist() == [trials] * 4
    for _, rows in table.groupby(["pid", "method"]):
        assert sorted(rows.trial_number) == list(range(len(rows)))
    assert table.trial_id.is_unique
    for row in scored.itertuples():
        path = folder / "artifacts" / "runs" / row.pid / row.method / row.trial_id
        metrics = read_json(path / "metrics.json")
        stored = metrics["llc_hat"]
        assert stored == row.llc_hat or (stored is None and pd.isna(row.llc_hat))
    left = [path for path in folder.rglob("*") if TEMPORARY in path.name or ".broken" in path.name]
    assert not left, left
