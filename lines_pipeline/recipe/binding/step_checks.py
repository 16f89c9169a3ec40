"""Checks bound steps for what no single op can check: the files they write, and regular expressions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.printable import shortened
from lines_pipeline.graph.graph import Step

_Taken = dict[tuple[str, str], tuple[str, str]]
"""By kind and spelling of a path: the step that writes there, and the path as it has it."""

MAX_NAME_BYTES = 200
"""The longest file name: numbers of shards and temporary names still fit into the 255 bytes of file systems."""


def step_diagnostics(steps: Iterable[Step]) -> Iterator[tuple[str, Diagnostic]]:
    """Yield each diagnostic with its node, where its path starts."""
    taken: _Taken = {}
    for step in steps:
        yield from ((step.node, diagnostic) for diagnostic in _place(step, taken))
        yield from ((step.node, diagnostic) for diagnostic in step.op.diagnostics(step.params, step.inputs, step.gives))


def _place(step: Step, taken: _Taken) -> Iterator[Diagnostic]:
    """Yield diagnostics of files that leave the output folder, have no known kind, or meet those of another step."""
    output, derivation = step.op.file_of(step.params, step.inputs), step.op.derivation_of(step.params)
    paths = [output.path] if output else list(derivation.files if derivation else ())
    for path in paths:
        message = _path_message(path) or (_kind_message(path) if output else None) or _clash(step, path, taken)
        if message:
            yield Diagnostic(("path",), message)


def _path_message(text: str) -> str | None:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or path.parts[:1] in ((), ("~",)) or "\0" in text:
        return f"'path' is '{shortened(text)}', expected a file inside the run's output folder"
    if any(len(part.encode(errors="replace")) > MAX_NAME_BYTES for part in path.parts):
        return f"'path' is '{shortened(text)}', expected names of at most {MAX_NAME_BYTES} bytes"
    return None


def _kind_message(text: str) -> str | None:
    """Return what is wrong with the place of a checkpoint: neither a file of safetensors nor a folder."""
    path = PurePosixPath(text)
    if text.endswith("/") == (path.suffix == ".safetensors"):
        name = shortened(str(path.with_suffix("") if path.suffix == ".safetensors" else path))
        ways = f"a file ('{name}.safetensors') or a model folder ('{name}/')"
        return f"'path' is '{shortened(text)}', expected {ways}"
    return None


def _spelling(text: str) -> str:
    """Return one key for all paths of a file, also where file systems do not tell cases and forms of letters apart."""
    return unicodedata.normalize("NFC", str(PurePosixPath(text))).casefold()


def _clash(step: Step, path: str, taken: _Taken) -> str | None:
    """Add a step's file to ``taken``; return why it cannot be written beside those there, None where it can."""
    own = _spelling(path)
    above = [str(parent) for parent in PurePosixPath(own).parents][:-1]
    shard = re.fullmatch(r"(.*)-\d{5}-of-\d{5}\.safetensors", own)
    base = f"{shard[1]}.safetensors" if shard else ""
    rivals = {
        "same": taken.get(("at", own)),
        "outer": next((taken["at", folder] for folder in above if ("at", folder) in taken), None),
        "inner": taken.get(("below", own)),
        "whole": taken.get(("at", base)),
        "shard": taken.get(("shard", own)),
    }
    for kind, key in (("at", own), ("shard", base), *(("below", folder) for folder in above)):
        taken.setdefault((kind, key), (step.id, path))
    how, rival = next(((how, rival) for how, rival in rivals.items() if rival is not None), ("", None))
    return None if rival is None else _clash_message(how, (step.id, path), rival)


def _clash_message(how: str, writer: tuple[str, str], rival: tuple[str, str]) -> str:
    path, rival_path = PurePosixPath(writer[1]), PurePosixPath(rival[1])
    both = f"'{rival[0]}' and '{writer[0]}' both write"
    if how == "same":
        case = "" if path == rival_path else f", spelled '{rival_path}' there: one file where case does not count"
        return f"{both} '{path}'{case}; give each its own, as with an item in the path"
    if how in ("outer", "inner"):
        outer = rival_path if how == "outer" else path
        return f"{both} to '{outer}', one into the other's place; give each a place of its own"
    whole, part = (rival_path, path) if how == "whole" else (path, rival_path)
    return f"{both} '{part}': shards of '{whole}' have such names; choose another"
