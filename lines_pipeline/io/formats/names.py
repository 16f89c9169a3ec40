"""Names that files hold: of other files, and of tensors, which may have been written to do harm."""

from __future__ import annotations

MAX_NAME_BYTES = 255
"""The longest name that a file can have."""


def is_plain_name(name: str) -> bool:
    """Whether a text names a file or folder right here."""
    return (
        name not in ("", ".", "..")
        and name.isprintable()
        and not set(name) & {"/", "\\"}
        and len(name.encode("utf-8", "replace")) <= MAX_NAME_BYTES
    )


def shown(text: str, length: int = 100) -> str:
    """A text from a file as messages show it: in one line, without what a terminal would act on."""
    cut = text if len(text) <= length else text[: length - 3] + "..."
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in cut)
