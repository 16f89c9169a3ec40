"""Runs the Python that a suite names, and tells its errors as the user's, with the line of the user's file."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from lines_pipeline.core.errors import EvalError, LinesError
from lines_pipeline.core.texts import printable
from lines_pipeline.evals.factories import Code, line_of

_MAX_MESSAGE = 2_000

_loaded: dict[tuple[Path, str], str] = {}
"""What the modules of suites' folders were made of, by folder and top-level name."""


def call_factory(code: Code, arguments: Mapping[str, Any], suite: Path) -> Any:
    """What a factory gives. Raises ``EvalError`` where it, or what it imports, raises anything."""
    with told_as_users(suite, f"model factory {code.text}", code), _first_on_path(code.root):
        made: Any = _module(code)
        for part in code.name.split("."):
            made = getattr(made, part)
        return made(**arguments)


@contextlib.contextmanager
def told_as_users(suite: Path, what: str, code: Code | None) -> Iterator[None]:
    """Errors of the user's code become ``EvalError``; what it prints goes to stderr, where it spoils no output."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except LinesError:
        raise
    except (Exception, SystemExit) as error:  # the door of code that is not ours
        message = printable(_text_of(error))[:_MAX_MESSAGE]
        place = _place_of(error, code)
        raise EvalError(f"{suite}: {what} raised {type(error).__name__}: {message}{place}") from error


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an exception class of the user's that cannot be shown
        return "(it has no message)"


def _place_of(error: BaseException, code: Code | None) -> str:
    """`` (file:line)``: the last line of the user's own files that was reached, else that of the factory."""
    if code is None or code.file is None:
        return ""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}:{error.lineno})"
    folder = code.root or code.file.parent
    reached = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in reached if Path(frame.filename).is_relative_to(folder)]
    if frames:
        return f" ({frames[-1].filename}:{frames[-1].lineno})"
    line = line_of(code)
    return f" ({code.file}:{line})" if line else f" ({code.file})"


@contextlib.contextmanager
def _first_on_path(folder: Path | None) -> Iterator[None]:
    """Imports look into a folder first meanwhile, and write nothing there."""
    if folder is None:
        yield
        return
    before, writes_nothing = list(sys.path), sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # compiled files are told apart by the second: one that was just edited would stay
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:], sys.dont_write_bytecode = before, writes_nothing


def _module(code: Code) -> ModuleType:
    """The factory's module; what lies in the suite's folder is imported anew once its files have changed."""
    if code.root is None:
        _forget_those_of_suites(code)
        return importlib.import_module(code.module)
    name = code.module or f"lines_pipeline_suite_{sha256(os.fsencode(str(code.file))).hexdigest()[:16]}"
    top = name.partition(".")[0]
    digest, ours = code.digest(), (code.root, top)
    present = {one: module for one, module in sys.modules.items() if one.partition(".")[0] == top}
    if name in present and _loaded.get(ours) == digest and _is_from(present[name], code.file):
        return present[name]
    for one in present:
        del sys.modules[one]
    try:
        module = importlib.import_module(name) if code.module else _from_file(name, code)
    except BaseException:
        _restore(top, present)
        raise
    _loaded[ours] = digest
    if not all(_is_from(module, None, code.root) for module in present.values()):
        _restore(top, present)  # a module of the same name that others still need
    return module


def _forget_those_of_suites(code: Code) -> None:
    """Modules of the same name that another suite's folder had."""
    top = code.module.partition(".")[0]
    for folder, other in list(_loaded):
        if other == top:
            del _loaded[folder, other]
            for one, module in list(sys.modules.items()):
                if one.partition(".")[0] == top and _is_from(module, None, folder):
                    del sys.modules[one]


def _is_from(module: ModuleType, file: Path | None, folder: Path | None = None) -> bool:
    origin = getattr(module, "__file__", None)
    if origin is None:
        return False
    return Path(origin) == file if folder is None else Path(origin).is_relative_to(folder)


def _restore(top: str, present: Mapping[str, ModuleType]) -> None:
    for one in [name for name in sys.modules if name.partition(".")[0] == top]:
        del sys.modules[one]
    sys.modules.update(present)


def _from_file(name: str, code: Code) -> ModuleType:
    assert code.file is not None
    spec = importlib.util.spec_from_file_location(name, code.file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
