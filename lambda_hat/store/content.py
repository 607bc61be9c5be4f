"""Content ids: short hashes of JSON values, the same on every machine."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from typing import Any


def canonical_json(value: object) -> str:
    """Serializes a JSON value in one canonical way: sorted keys, no spaces, no NaN or Infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: object) -> str:
    """Hex SHA-256 of the canonical JSON of a value."""
    return digest_bytes([canonical_json(value).encode()])


def digest_bytes(parts: Iterable[bytes]) -> str:
    """SHA-256 of the parts, one after the other, in hex."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()


def content_id(prefix: str, value: object) -> str:
    """A short id for a JSON value, such as `r_0123456789ab`."""
    return f"{prefix}_{digest(value)[:12]}"


def strict(value: Any) -> Any:
    """The same value with None for NaN and Infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {str(name): strict(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
