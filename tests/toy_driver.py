"""A command that opens a pool and waits: `toy_driver.py CONFIG RUN_DIR FUNCTION ARGS...`.

Runs one such task a worker, until it is killed by a test; says `interrupted` when it could tidy.
"""

from __future__ import annotations

import sys
from concurrent.futures import wait
from pathlib import Path

from lambda_hat.execution import open_pool


def main(config: str, run_dir: str, function: str, *arguments: str) -> None:
    try:
        with open_pool(parsl_config=Path(config), run_dir=Path(run_dir)) as pool:
            seconds, *notes = arguments
            wait([pool.submit(function, float(seconds), *notes) for _ in range(pool.num_workers)])
    except (KeyboardInterrupt, SystemExit):
        print("interrupted", flush=True)
        sys.exit(130)


if __name__ == "__main__":
    main(*sys.argv[1:])
