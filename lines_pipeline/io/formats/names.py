"""Checks names that files hold, of other files and of tensors, which may have been written to do harm."""

from __future__ import annotations

MAX_NAME_BYTES = 255
"""The longest name that a file can have."""


def is_plain_name(name: str) -> bool:
    """Return whether a text names a file or folder right here."""
    return (
        name not in ("", ".", "..")
        and name.isprintable()
        and not set(name) & {"/", "\\"}
        and len(name.encode("utf-8", "replace")) <= MAX_NAME_BYTES
    )
