"""JSON value -> content id: the same value has the same name on every machine."""

from __future__ import annotations

import hashlib
import json


def canonical_json(value: object) -> str:
    """The one spelling of a JSON value: sorted keys, no spaces, no NaN or Infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: object) -> str:
    """SHA-256 of a JSON value in its canonical spelling, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def content_id(prefix: str, value: object) -> str:
    """A short name for a JSON value, such as `r_0123456789ab`."""
    return f"{prefix}_{digest(value)[:12]}"
