"""Runs files of Python that the user wrote, and finds the user's line where they raise."""

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

from lines_pipeline.core.printable import printable_message
from lines_pipeline.core.user_code.files import Code, line_of

_MAX_MESSAGE = 2_000

_kept: dict[tuple[Path, str], tuple[str, dict[str, ModuleType]]] = {}
"""By the folder and text of a piece of code: the digest of its files, and the modules that were made of them."""


@contextlib.contextmanager
def to_stderr() -> Iterator[None]:
    """Send what runs within to stderr, where it spoils no output."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def what_was_raised(error: BaseException, code: Code | None) -> str:
    """Tell an exception of the user's code: its class, its message, and the last line of the user's own it reached."""
    message = printable_message(_text_of(error))[:_MAX_MESSAGE]
    return f"{type(error).__name__}: {message}{_place_of(error, code)}"


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an exception class of the user's that cannot be shown
        return "(it has no message)"


def _place_of(error: BaseException, code: Code | None) -> str:
    """Return `` (file:line)``: the last line of the user's own files that was reached, else the one that defines it."""
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
def at_home(code: Code) -> Iterator[None]:
    """Have imports look into the code's folder first meanwhile, and write nothing there.

    Its modules are out of the way of others of the same name afterwards. They are kept until their files change.
    """
    if code.root is None:
        yield
        return
    digest, home = code.digest(), (code.root, code.text)
    kept = _kept[home][1] if home in _kept and _kept[home][0] == digest else {}
    tops = {name.partition(".")[0] for name in (*kept, module_name(code))}
    hidden_modules = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in tops}
    for name in hidden_modules:
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
        imported = {name: module for name, module in loaded if id(module) not in before or name in kept}
        for name in imported:
            del sys.modules[name]
        sys.modules.update(hidden_modules)
        _kept[home] = (digest, imported)


def modules_of(code: Code) -> Mapping[str, ModuleType]:
    """Return the modules that code which was run at home made, its own and those from its folder that it imports."""
    return _kept[code.root, code.text][1] if code.root is not None and (code.root, code.text) in _kept else {}


def module_of(code: Code) -> ModuleType:
    """Import the code's module; a file without a module's name gets one of its path and content."""
    name = module_name(code)
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


def module_name(code: Code) -> str:
    """Name the code's module; of a file, by its path and the content of it and of what it imports."""
    identity = f"{code.file}\0{code.digest()}" if not code.module else ""
    return code.module or f"lines_pipeline_code_{sha256(os.fsencode(identity)).hexdigest()[:16]}"


def _is_from(module: ModuleType, folder: Path) -> bool:
    origin = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    return isinstance(origin, str) and Path(origin).is_relative_to(folder)
