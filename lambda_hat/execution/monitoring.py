"""Parsl's monitoring: a database of all tasks, kept where the environment asks for one."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

from lambda_hat.conf.checks import ConfigError
from lambda_hat.execution.parsl_internals import monitoring_pids
from lambda_hat.execution.settings import setting

if TYPE_CHECKING:
    from parsl.config import Config

SWITCH = "LAMBDA_HAT_MONITORING"


def add_monitoring(config: Config) -> None:
    """Switches Parsl's monitoring on where LAMBDA_HAT_MONITORING is 1; a Config's own stays.

    Raises:
        ConfigError: The variable is no such number, or what the monitoring needs is not installed.
    """
    if not setting(SWITCH, 0, least=0) or config.monitoring is not None:
        return
    from parsl.monitoring import MonitoringHub

    try:
        config.monitoring = MonitoringHub()
    except ImportError as error:
        raise ConfigError(
            [
                f"{SWITCH}=1 needs what Parsl's monitoring needs, but: {error}. "
                "Install parsl[monitoring], or leave the variable out."
            ]
        ) from error


class Guard:
    """Ends the processes of Parsl's monitoring with this one, however it dies.

    Parsl leaves them running when the command is killed. A shell waits for the end of a pipe that
    this process alone holds, and then kills them.
    """

    def __init__(self, config: Config):
        """Watches over what a Config that was started has started."""
        pids = " ".join(map(str, monitoring_pids(config)))
        self._shell = None
        if pids:
            command = ["/bin/sh", "-c", f"read _; kill -{signal.SIGKILL.value} {pids}"]
            self._shell = subprocess.Popen(
                command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
            )

    def leave(self) -> None:
        """Ends the watch: they have ended."""
        if self._shell is not None and self._shell.poll() is None:
            os.killpg(self._shell.pid, signal.SIGKILL)
            self._shell.communicate()

    def strike(self) -> None:
        """Ends them now."""
        if self._shell is not None:
            self._shell.communicate()
