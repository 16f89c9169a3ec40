"""Runs the Python that a suite names, and tells its errors as the user's, with the line of the user's file."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from lines_pipeline.core.errors import EvalError, LinesError
from lines_pipeline.core.printable import printable_message
from lines_pipeline.suites.factories import Code, line_of

_MAX_MESSAGE = 2_000

_kept: dict[tuple[Path, str], tuple[str, dict[str, ModuleType]]] = {}
"""By a suite's folder and callable: the digest of its files, and the modules that were made of them."""


def call(code: Code, suite: Path, where: str = "", /, *values: Any, **arguments: Any) -> Any:
    """What the user's callable gives. Raises ``EvalError`` where it, or what it imports, raises anything.

    ``where`` leads the error's message: for which task it was called.
    """
    with told_as_users(suite, f"{where}{code.what} {code.text}", code), _at_home(code):
        found: Any = _module(code)
        for part in code.name.split("."):
            found = getattr(found, part)
        return found(*values, **arguments)


@contextlib.contextmanager
def told_as_users(suite: Path, what: str, code: Code | None) -> Iterator[None]:
    """Errors of the user's code become ``EvalError``; what it prints goes to stderr, where it spoils no output."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except LinesError:
        raise
    except (Exception, SystemExit) as error:  # the door of code that is not ours
        message = printable_message(_text_of(error))[:_MAX_MESSAGE]
        location = _place_of(error, code)
        raise EvalError(f"{suite}: {what} raised {type(error).__name__}: {message}{location}") from error


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an exception class of the user's that cannot be shown
        return "(it has no message)"


def _place_of(error: BaseException, code: Code | None) -> str:
    """`` (file:line)``: the last line of the user's own files that was reached, else that of the callable."""
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
def _at_home(code: Code) -> Iterator[None]:
    """Imports look into the suite's folder first meanwhile, and write nothing there.

    Its modules are out of the way of others of the same name afterwards. They are kept until their files change.
    """
    if code.root is None:
        yield
        return
    digest, home = code.digest(), (code.root, code.text)
    kept = _kept[home][1] if home in _kept and _kept[home][0] == digest else {}
    tops = {name.partition(".")[0] for name in (*kept, _module_name(code))}
    others = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in tops}
    for name in others:
        del sys.modules[name]
    sys.modules.update(kept)
    before, path, writes_nothing = (
        {id(module) for module in sys.modules.values()},
        list(sys.path),
        sys.dont_write_bytecode,
    )
    sys.dont_write_bytecode = True  # compiled files are told apart by the second: one that was just edited would stay
    sys.path.insert(0, str(code.root))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:], sys.dont_write_bytecode = path, writes_nothing
        loaded = [(name, module) for name, module in sys.modules.items() if _is_from(module, code.root)]
        made = {name: module for name, module in loaded if id(module) not in before or name in kept}
        for name in made:
            del sys.modules[name]
        sys.modules.update(others)
        _kept[home] = (digest, made)


def _module(code: Code) -> ModuleType:
    name = _module_name(code)
    if code.module or name in sys.modules:
        return importlib.import_module(name)
    assert code.file is not None
    spec = importlib.util.spec_from_file_location(name, code.file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _module_name(code: Code) -> str:
    return code.module or f"lines_pipeline_suite_{sha256(os.fsencode(str(code.file))).hexdigest()[:16]}"


def _is_from(module: ModuleType, folder: Path) -> bool:
    origin = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    return isinstance(origin, str) and Path(origin).is_relative_to(folder)
