"""Content keys: equal keys mean equal content, on any machine."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no white space, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_key(value: Any) -> str:
    """Return the SHA-256 of ``value``'s canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
