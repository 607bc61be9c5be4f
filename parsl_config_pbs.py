"""A PBS cluster. Copy this file, change the lines below, and name it with `--parsl-config`.

Each line can also be set for one run by the environment variable of its name with
LAMBDA_HAT_PBS_ before it, such as LAMBDA_HAT_PBS_QUEUE=gpu. See docs/clusters.md.
"""

from typing import Any

from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.launchers import MpiExecLauncher, SingleNodeLauncher

from lambda_hat.execution.cluster import AlertPBSProProvider, accelerators
from lambda_hat.execution.config import ANY_ADDRESS
from lambda_hat.execution.local import worker_init
from lambda_hat.execution.settings import setting

QUEUE = setting("LAMBDA_HAT_PBS_QUEUE", "")
ACCOUNT = setting("LAMBDA_HAT_PBS_ACCOUNT", "")
WALLTIME = setting("LAMBDA_HAT_PBS_WALLTIME", "04:00:00")
"""Of one job (a block); HH:MM:SS. It must exceed the budget of a trial, not of a reference."""
JOBS = setting("LAMBDA_HAT_PBS_JOBS", 1, least=1)
"""Jobs at once, at most; another takes the place of one that ends while there is work."""
NODES = setting("LAMBDA_HAT_PBS_NODES", 1, least=1)
"""Nodes of each job; with more than one, mpiexec starts the workers."""
WORKERS_PER_NODE = setting("LAMBDA_HAT_PBS_WORKERS_PER_NODE", 4, least=1)
CORES_PER_WORKER = setting("LAMBDA_HAT_PBS_CORES_PER_WORKER", 1, least=1)
GPUS_PER_WORKER = setting("LAMBDA_HAT_PBS_GPUS_PER_WORKER", 0.0, least=0)
"""1 for a GPU each, 0.25 for four workers on a GPU, 0 for none."""
STATUS_PERIOD = setting("LAMBDA_HAT_PBS_STATUS_PERIOD", 5, least=1)
"""Seconds between looks at the queue."""
LOST_AFTER = setting("LAMBDA_HAT_PBS_LOST_AFTER", 60, least=10)
"""Seconds of silence after which a node counts as lost, and its tasks run again elsewhere."""
ADDRESS = setting("LAMBDA_HAT_PBS_ADDRESS", ANY_ADDRESS)
"""Of this machine as the nodes see it; by default, workers try each that it has."""
SETUP = ""
"""Shell lines before the workers start, such as "module load cuda"; no environment is needed."""
OPTIONS = ""
"""More lines for the head of the job, such as "#PBS -W group_list=ours"."""


def fresh_config() -> Config:
    """A new Config at each call, since Parsl loads each one only once."""
    gpus = accelerators(WORKERS_PER_NODE, GPUS_PER_WORKER)
    launcher: Any = MpiExecLauncher() if NODES > 1 else SingleNodeLauncher()
    cores = WORKERS_PER_NODE * CORES_PER_WORKER
    provider = AlertPBSProProvider(
        queue=QUEUE or None,
        account=ACCOUNT or None,
        walltime=WALLTIME,
        init_blocks=1,
        min_blocks=0,
        max_blocks=JOBS,
        nodes_per_block=NODES,
        cpus_per_node=cores,
        select_options=f"ngpus={round(WORKERS_PER_NODE * GPUS_PER_WORKER)}" if gpus else "",
        scheduler_options=OPTIONS,
        launcher=launcher,
        worker_init="\n".join([SETUP, worker_init(NPROC=CORES_PER_WORKER, PARSL_CORES=cores)]),
    )
    provider.status_period = STATUS_PERIOD
    executor = HighThroughputExecutor(
        label="pbs",
        provider=provider,
        address=ADDRESS,
        encrypted=True,
        max_workers_per_node=WORKERS_PER_NODE,
        cores_per_worker=CORES_PER_WORKER,
        available_accelerators=gpus,
        heartbeat_period=5,
        heartbeat_threshold=LOST_AFTER,
    )
    return Config(executors=[executor], strategy="simple", strategy_period=1, max_idletime=60)
