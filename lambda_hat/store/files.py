"""Atomic file writes and checked reads: a reader sees the old file or the new one, never half.

Every write goes to a temporary file in the same folder, which is synced and then renamed. JSON
files carry a checksum, so that a damaged file is detected when it is read.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lambda_hat.store.content import digest

TEMPORARY = ".part-"
"""Prefix of temporary files; each run starts by removing those that a killed run left behind."""

DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)
"""Errors of a full, over-quota, read-only, broken or lost disk: later writes would fail too."""


LONGEST_NAME = 256
"""Bytes that a path below one of the two folders may take, with a temporary name at its end."""


class BrokenFile(ValueError):
    """A stored file is damaged or incomplete; the message says how."""


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yields a temporary path, which is renamed to `path` if the block succeeds.

    Args:
        path: The file to create or replace.
        sync: Whether to wait until the file would survive a power cut.
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
    """Writes a file atomically."""
    with replacing(path, sync=sync) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Mapping[str, Any], *, sync: bool = True) -> None:
    """Writes a mapping as strict JSON, with a checksum.

    Raises:
        ValueError: The mapping contains NaN or Infinity.
    """
    body = {key: item for key, item in value.items() if key != "checksum"}
    text = json.dumps({**body, "checksum": digest(body)}, indent=1, allow_nan=False)
    write_bytes(path, text.encode() + b"\n", sync=sync)


def read_json(path: Path, required: Iterable[str] = ()) -> dict[str, Any]:
    """Reads a JSON mapping and checks it.

    Args:
        path: The file.
        required: Keys that it must have.

    Raises:
        FileNotFoundError: The file does not exist.
        BrokenFile: It is not strict JSON, a key is missing, or the checksum does not match.
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


def read_or_quarantine(
    path: Path, required: Iterable[str], warn: Callable[[str], None]
) -> dict[str, Any] | None:
    """Reads a JSON mapping; a damaged file is moved aside with a warning.

    Args:
        path: The file.
        required: Keys that it must have.
        warn: Called with a sentence if the file is damaged.

    Returns:
        The mapping, or None if the file is missing or damaged.
    """
    try:
        return read_json(path, required)
    except FileNotFoundError:
        return None
    except BrokenFile as broken:
        kept = quarantine(path)
        warn(f"{path} is damaged ({broken}). It is kept as {kept.name} and made again.")
        return None


def quarantine(path: Path) -> Path:
    """Renames a damaged file to `<name>.broken-<time>`, so that no data is deleted."""
    stamp = time.strftime("%Y%m%dT%H%M%S")
    kept = path.with_name(f"{path.name}.broken-{stamp}")
    count = 1
    while kept.exists():
        count += 1
        kept = path.with_name(f"{path.name}.broken-{stamp}-{count}")
    os.replace(path, kept)
    return kept


def remove_leftover_files(folder: Path) -> None:
    """Removes temporary files that killed processes left in `folder` and its subfolders.

    Files of processes that still run on this machine are kept. Files from other machines are
    removed once they are a day old.
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
    """Whether an error comes from the disk and not from the computation."""
    return isinstance(error, OSError) and error.errno in DISK_FAULTS


def unwritable(folder: Path) -> str | None:
    """Why `folder` cannot be created or written to, or None if it can. Writes nothing."""
    nearest = folder.absolute()
    if "\0" in str(folder):
        return "its name holds a NUL"
    try:
        while not nearest.exists():
            nearest = nearest.parent
        if reason := _too_long(folder.absolute(), nearest):
            return reason
    except OSError as error:  # Its name is too long to ask for, say.
        return f"its name cannot be used: {error.strerror}"
    if not nearest.is_dir():
        return f"{nearest} is a file"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"{nearest} is not writable"
    return None


def _too_long(folder: Path, there: Path) -> str | None:
    """Why the names of files in `folder` would be too long for the file system, or None."""
    most = os.pathconf(there, "PC_PATH_MAX")
    if (length := len(os.fsencode(folder))) > most - LONGEST_NAME:
        return f"its name has {length} bytes, and only {most - LONGEST_NAME} leave room for files"
    most = os.pathconf(there, "PC_NAME_MAX")
    if long := [part for part in folder.parts if len(os.fsencode(part)) > most]:
        return f"the name {long[0][:20]}.. is longer than {most} bytes"
    return None


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # It exists, but belongs to another user.
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
    """The umask of the process, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
