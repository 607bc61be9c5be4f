"""Lock on a results folder: one run at a time may write it."""

from __future__ import annotations

import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_SEC = 0.5
"""How long a folder's lock is tried for: without flock, a dead holder is noticed on the way."""


class FolderBusy(RuntimeError):
    """Another run holds the folder."""


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Holds a results folder for one run.

    By flock, which NFS knows too and which the system frees with the process. On a file system
    without it (some Lustre mounts) by a file that must not exist, which a next run on the same
    machine takes over when its process is gone.

    Raises:
        FolderBusy: Another process holds it; the text names it.
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / ".holder"  # A file of its own: what is in the lock's belongs to the lock.
    lock = FileLock(folder / ".lock")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It may say that there is no flock.
        try:
            lock.acquire(timeout=LOCK_SEC)
        except Timeout:
            raise FolderBusy(
                f"One run at a time may write {folder}, but {_holder(holder)} holds it. "
                "Wait for it, or give another --results-dir."
            ) from None
    try:
        holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # It holds the lock and has not yet written its name.
