"""Lock on a results folder: only one run at a time may write to it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_SEC = 0.5
"""Seconds to try for a lock; without flock, a lock left by a dead process is noticed meanwhile."""


class FolderBusy(RuntimeError):
    """Another run has locked the folder."""


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Locks a results folder while the block runs.

    Uses flock, which works on NFS and which the system releases when the process ends. On file
    systems without flock (some Lustre mounts) the lock is a file that must not exist; a later run
    on the same machine removes it if the process that made it is gone.

    Raises:
        FolderBusy: Another process has locked the folder; the message names it.
        OSError: The folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / ".holder"  # A separate file, because filelock owns the content of `.lock`.
    lock = FileLock(folder / ".lock")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It warns where there is no flock.
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


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Whether this process alone holds a file, until the block or the process ends.

    Uses flock. Where there is none nobody can know, and the one that asks has it: see `is_claimed`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield _try_flock(handle, fcntl.LOCK_EX) is not False
    finally:
        os.close(handle)


def is_claimed(path: Path) -> bool:
    """Whether another process holds a file, and can be seen to."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return _try_flock(handle, fcntl.LOCK_SH) is False
    finally:
        os.close(handle)


def _try_flock(handle: int, kind: int) -> bool | None:
    """Whether it was there to be had; None where there is no flock."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@dataclass(frozen=True)
class Holder:
    """Whose results folder it is, or was."""

    name: str
    """The process, in words."""
    alive: bool
    """Whether it still holds the folder; it ended without a word if not, as by a kill."""


def holder_of(folder: Path) -> Holder | None:
    """Who holds a results folder, or was killed while holding it. Changes nothing."""
    alive, holder = _is_held(folder / ".lock"), folder / ".holder"
    return Holder(_holder(holder), alive) if alive or holder.exists() else None


def _is_held(lock: Path) -> bool:
    """Whether a process has the lock, asked without taking it from anybody."""
    try:
        handle = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True  # Or there is no flock here, and the file is there only while it is held.
    finally:
        os.close(handle)
    return False


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # It has the lock but has not yet written its name.
