"""Spec -> path: what was computed lies under a name that says what it is.

Every write goes to a temporary name in the same folder, is synced, and is renamed: a reader
sees the old file or the new one, never a part. JSON files carry a checksum, so that a file the
disk or a user damaged is known for what it is.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

TEMPORARY = ".part-"
"""Start of every temporary name; a run that starts removes what a killed one left."""

LOCK_SEC = 0.5
"""How long a folder's lock is tried for: without flock, a dead holder is noticed on the way."""

DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)
"""Full, over quota, read-only, broken, gone: whatever is written next would fail as well."""


class BrokenFile(ValueError):
    """A stored file that is not what was written; its text says why."""


class FolderBusy(RuntimeError):
    """Another run holds the folder."""


def canonical_json(value: object) -> str:
    """The one spelling of a JSON value: sorted keys, no spaces, no NaN or Infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: object) -> str:
    """SHA-256 of a JSON value in its canonical spelling, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def content_id(prefix: str, value: object) -> str:
    """A short name for a JSON value, such as `r_0123456789ab`."""
    return f"{prefix}_{digest(value)[:12]}"


@dataclass(frozen=True)
class Store:
    """Where things are: one folder of artifacts (shared by runs), one of results."""

    artifacts: Path
    results: Path

    @classmethod
    def at(cls, artifacts: Path | str, results: Path | str) -> Store:
        """A store on absolute paths: Optuna's journal and remote workers need them."""
        return cls(Path(artifacts).absolute(), Path(results).absolute())

    def reference(self, pid: str) -> Path:
        return self.artifacts / "problems" / pid / "ref.json"

    def target_id(self, pid: str) -> str | None:
        """Which target of a problem is stored, by its content; None if there is no whole one.

        What is not whole is left for a worker to find, which sets it aside and builds it again.
        """
        folder = self.artifacts / "problems" / pid
        try:
            record = json.loads((folder / "target.json").read_bytes())
            arrays = hashlib.sha256((folder / "target.npz").read_bytes()).hexdigest()
            usable = record["evidence"]["status"] != "refused" and arrays == record["sha256"]
            return record["target"] if usable else None
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def trial_folder(self, pid: str, method: str, trial_id: str) -> Path:
        return self.artifacts / "runs" / pid / method / trial_id

    def trial_folders(self, pid: str, method: str) -> list[Path]:
        """The folders of the trials that are there, by name."""
        return sorted((self.artifacts / "runs" / pid / method).glob("*"))

    def manifest(self, pid: str, method: str, trial_id: str) -> Path:
        return self.trial_folder(pid, method, trial_id) / "manifest.json"

    def metrics(self, pid: str, method: str, trial_id: str) -> Path:
        return self.trial_folder(pid, method, trial_id) / "metrics.json"

    @property
    def studies(self) -> Path:
        return self.results / "studies" / "optuna_llc"

    def journal(self, pid: str, method: str) -> Path:
        return self.studies / f"{pid}:{method}.journal"

    def snapshot(self, pid: str, method: str) -> Path:
        return self.studies / f"{pid}:{method}.pkl"

    @property
    def trials_table(self) -> Path:
        return self.results / "optuna_trials.parquet"

    @property
    def best(self) -> Path:
        return self.results / "optuna_best.yaml"

    @property
    def llc_table(self) -> Path:
        return self.results / "llc_runs.parquet"

    @property
    def logs(self) -> Path:
        """Parsl's own run folder."""
        return self.results / "parsl"


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Gives a temporary path beside `path`, which becomes `path` when the block succeeds.

    Args:
        path: The file to make or replace.
        sync: Whether to wait until it would survive a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f"{TEMPORARY}{os.getpid()}-{socket.gethostname()}~"
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=f"-{path.name}")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        if sync:
            _sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        _sync(path.parent)


def write_bytes(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Writes a whole file, or nothing."""
    with replacing(path, sync=sync) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Mapping[str, Any], *, sync: bool = True) -> None:
    """Writes a mapping as strict JSON with its checksum.

    Raises:
        ValueError: For NaN or Infinity: a result is made honest before it is stored.
    """
    body = {key: item for key, item in value.items() if key != "checksum"}
    text = json.dumps({**body, "checksum": digest(body)}, indent=1, allow_nan=False)
    write_bytes(path, text.encode() + b"\n", sync=sync)


def read_json(path: Path, required: Iterable[str] = ()) -> dict[str, Any]:
    """Reads a mapping that `write_json` (or another careful writer) stored.

    Args:
        path: The file.
        required: Keys without which the file is none of ours.

    Raises:
        FileNotFoundError: There is no such file.
        BrokenFile: It is not strict JSON, lacks a key, or fails its checksum.
    """
    try:
        value = json.loads(path.read_bytes().decode(), parse_constant=_refuse_constant)
    except ValueError as error:
        raise BrokenFile(f"it is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BrokenFile(f"it must hold a mapping, but holds a {type(value).__name__}")
    stated = value.pop("checksum", None)
    if stated is not None and stated != digest(value):
        raise BrokenFile("its checksum does not fit its content")
    if missing := [key for key in required if key not in value]:
        raise BrokenFile(f"it lacks {', '.join(missing)}")
    return value


def read_if_whole(
    path: Path, required: Iterable[str], say: Callable[[str], None]
) -> dict[str, Any] | None:
    """The stored mapping, or None where there is none; a broken file is set aside and said."""
    try:
        return read_json(path, required)
    except FileNotFoundError:
        return None
    except BrokenFile as broken:
        kept = set_aside(path)
        say(f"{path} is damaged ({broken}). It is kept as {kept.name} and made again.")
        return None


def set_aside(path: Path) -> Path:
    """Renames a damaged file to `<name>.broken-<time>`, so that nothing is deleted unseen."""
    stamp = time.strftime("%Y%m%dT%H%M%S")
    kept = path.with_name(f"{path.name}.broken-{stamp}")
    count = 1
    while kept.exists():
        count += 1
        kept = path.with_name(f"{path.name}.broken-{stamp}-{count}")
    os.replace(path, kept)
    return kept


@contextmanager
def hold(folder: Path) -> Iterator[None]:
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


def sweep(folder: Path) -> None:
    """Removes the temporary files that killed processes left in `folder` and below.

    Those of living processes of this machine stay, and those of other machines for a day.
    """
    for left in folder.rglob(f"{TEMPORARY}*"):
        process, _, host = left.name.removeprefix(TEMPORARY).partition("~")[0].partition("-")
        if host == socket.gethostname() and process.isdigit():
            abandoned = not _alive(int(process))
        else:
            abandoned = time.time() - left.stat().st_mtime > 86_400
        if abandoned:
            left.unlink(missing_ok=True)


def is_disk_fault(error: BaseException) -> bool:
    """Whether the disk failed, and not what was being computed."""
    return isinstance(error, OSError) and error.errno in DISK_FAULTS


def unwritable(folder: Path) -> str | None:
    """Why nothing can be written in `folder` (made if missing), or None; writes nothing."""
    nearest = folder.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        return f"{nearest} is a file"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"{nearest} is not writable"
    return None


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # It holds the lock and has not yet written its name.


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # It is there, and another user's.
    return True


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
