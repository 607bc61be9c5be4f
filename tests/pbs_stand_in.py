"""Stand-ins for qsub, qstat and qdel: enough of PBS for Parsl's provider, on this machine.

No PBS server can be installed from a package here, so this shows that our configuration and
Parsl's provider agree with the commands' documented forms, and no more. Called by its name:
qsub SCRIPT, qstat -x -f -F json [ID..], qdel ID... State lies in PBS_STAND_IN.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

STATE = Path(os.environ["PBS_STAND_IN"])


def qsub(*words: str) -> None:
    script = Path(words[-1])
    text = script.read_text()
    (name,) = re.findall(r"^#PBS -N (\S+)$", text, re.M)
    number = len(list(STATE.glob("*.json")))
    process = subprocess.Popen(
        ["bash", str(script)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    job = {"Job_Name": name, "pid": process.pid, "options": list(words[:-1]), "script": text}
    (STATE / f"{number}.json").write_text(json.dumps(job))
    print(f"{number}.stand-in")


def qstat(*words: str) -> None:
    jobs = {}
    for path in STATE.glob("*.json"):
        job = json.loads(path.read_text())
        job["job_state"] = "R" if is_alive(job["pid"]) else "F"
        if job["job_state"] == "R" or "-x" in words:
            jobs[f"{path.stem}.stand-in"] = job
    print(json.dumps({"Jobs": jobs}))


def qdel(*ids: str) -> None:
    for job_id in ids:
        job = json.loads((STATE / f"{job_id.partition('.')[0]}.json").read_text())
        if is_alive(job["pid"]):
            os.killpg(job["pid"], signal.SIGKILL)


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


if __name__ == "__main__":
    {"qsub": qsub, "qstat": qstat, "qdel": qdel}[Path(sys.argv[0]).name](*sys.argv[1:])
