"""TrialSpec -> Future[TrialResult]: tasks run in workers that may die, and nothing hangs."""

from lambda_hat.execution.config import load_parsl_config, local_config_path
from lambda_hat.execution.errors import (
    BlocksLost,
    DeadlineExceeded,
    DiskFault,
    PoolLost,
    TaskFailed,
    WorkerLost,
)
from lambda_hat.execution.local import local_config
from lambda_hat.execution.opening import LazyPool, open_pool
from lambda_hat.execution.parsl_pool import ParslPool
from lambda_hat.execution.pool import InProcessPool, Pool, TaskPool

__all__ = [
    "BlocksLost",
    "DeadlineExceeded",
    "DiskFault",
    "InProcessPool",
    "LazyPool",
    "ParslPool",
    "Pool",
    "PoolLost",
    "TaskFailed",
    "TaskPool",
    "WorkerLost",
    "load_parsl_config",
    "local_config",
    "local_config_path",
    "open_pool",
]
