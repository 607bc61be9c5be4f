"""Files on disk: where everything lies, atomic writes, content ids, and the folder lock."""

from lambda_hat.store.content import canonical_json, content_id, digest, digest_bytes, strict
from lambda_hat.store.files import (
    DISK_FAULTS,
    TEMPORARY,
    BrokenFile,
    is_disk_fault,
    quarantine,
    read_json,
    read_or_quarantine,
    remove_leftover_files,
    replacing,
    unwritable,
    write_bytes,
    write_json,
)
from lambda_hat.store.layout import Store, partial_beside, trace_beside, wanted_beside
from lambda_hat.store.lock import (
    LOCK_SEC,
    FolderBusy,
    Holder,
    claim,
    holder_of,
    is_claimed,
    lock_folder,
)

__all__ = [
    "DISK_FAULTS",
    "LOCK_SEC",
    "TEMPORARY",
    "BrokenFile",
    "FolderBusy",
    "Holder",
    "Store",
    "canonical_json",
    "claim",
    "content_id",
    "digest",
    "digest_bytes",
    "holder_of",
    "lock_folder",
    "partial_beside",
    "is_claimed",
    "is_disk_fault",
    "quarantine",
    "read_or_quarantine",
    "read_json",
    "replacing",
    "remove_leftover_files",
    "strict",
    "trace_beside",
    "unwritable",
    "wanted_beside",
    "write_bytes",
    "write_json",
]
