"""Parsl's providers for SLURM and PBS, looking at the queue every few seconds.

For Parsl files; importing this imports Parsl.
"""

from __future__ import annotations

from typing import Any

from parsl.providers import PBSProProvider, SlurmProvider

from lambda_hat.conf.checks import ConfigError


class _Alert:
    """Looks at the queue every `status_period` seconds, where Parsl would take a minute."""

    status_period = 5

    @property
    def status_polling_interval(self) -> Any:
        """Seconds between two looks at the queue."""
        return self.status_period


class AlertSlurmProvider(_Alert, SlurmProvider):
    """Parsl's SlurmProvider with `status_period`."""


class AlertPBSProProvider(_Alert, PBSProProvider):
    """Parsl's PBSProProvider with `status_period`."""


def accelerators(workers_per_node: int, gpus_per_worker: float) -> list[str]:
    """What Parsl pins each worker of a node to, as CUDA_VISIBLE_DEVICES.

    Raises:
        ConfigError: The workers of a node do not fill whole GPUs.
    """
    gpus = workers_per_node * gpus_per_worker
    if not gpus:
        return []
    if abs(gpus - round(gpus)) > 1e-6 or (gpus_per_worker > 1 and gpus_per_worker % 1):
        raise ConfigError(
            [
                f"The workers of a node must fill whole GPUs, but got {workers_per_node} workers "
                f"with {gpus_per_worker:g} GPUs each."
            ]
        )
    each = max(1, round(gpus_per_worker))
    return [
        ",".join(str(gpu) for gpu in range(worker * each, (worker + 1) * each))
        for worker in range(workers_per_node)
    ]
