"""Finds what a suite names as its model or metric: a factory that comes with this package, or Python of the user's own.

Everything here is found by looking at files; nothing of the user's is imported.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
from pathlib import Path

from lines_pipeline.core.errors import EvalError, UserCodeError, did_you_mean
from lines_pipeline.core.printable import printable
from lines_pipeline.core.user_code.files import Code, names_made_by, own_file

SHIPPED = ("open_clip",)
"""Kinds of models that a suite may name without trust: ``open_clip:ViT-B-32``."""
PLANNED = ("timm", "torchvision", "transformers", "sentence-transformers")

HARMLESS_ARGUMENTS = frozenset({
    "force_context_length", "force_custom_text", "force_image_size", "force_patch_dropout", "force_quick_gelu",
    "image_interpolation", "image_mean", "image_resize_mode", "image_std", "output_dict", "precision",
})  # fmt: skip
"""Arguments of open_clip that describe a model. Others (``pretrained``, ``jit``) may open files of pickles."""

_FILE = re.compile(r"(?P<file>[^:\x00-\x1f\x7f]+\.py):(?P<name>[^\W\d]\w*(\.[^\W\d]\w*)*)")
_MODULE = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*(\.[^\W\d]\w*)*)")
_SHIPPED = re.compile(r"[\w./-]+")
EXPECTED = "expected open_clip:NAME, package.module:callable or file.py:callable"


def shipped_kind(text: str) -> str:
    """Return the kind of model that needs no Python of the user's (``open_clip``); an empty text for others."""
    kind, _, name = text.partition(":")
    return kind if kind in SHIPPED and _SHIPPED.fullmatch(name) else ""


def check_factory(text: str) -> None:
    """Raise ValueError for what is no factory, or one that is not there yet."""
    kind = text.partition(":")[0]
    if kind in PLANNED:
        raise ValueError(f"factories of '{kind}:' are not there yet; {EXPECTED}")
    if not (shipped_kind(text) or _FILE.fullmatch(text) or (_MODULE.fullmatch(text) and kind not in SHIPPED)):
        raise ValueError(f"{EXPECTED}, found '{printable(text)}'")


def check_function(text: str) -> None:
    """Raise ValueError for what does not name a callable of the user's."""
    if not (_FILE.fullmatch(text) or _MODULE.fullmatch(text)):
        raise ValueError(f"expected package.module:callable or file.py:callable, found '{printable(text)}'")


def find_code(text: str, folder: Path, role: str = "model factory") -> Code:
    """Return where the Python that a suite names lies: in ``folder``, else on the Python path. Imports nothing.

    Raises ``EvalError`` where there is no such file or module, or it plainly has no such name.
    """
    match = _FILE.fullmatch(text)
    if match:
        code = _in_file(text, match, folder, role)
    else:
        match = _MODULE.fullmatch(text)
        assert match is not None
        code = _in_module(text, match, folder, role)
    if code.file is not None and code.file.suffix == ".py":
        _require_name(code)
    return code


def _in_file(text: str, match: re.Match[str], folder: Path, role: str) -> Code:
    file = folder / match["file"]
    if not file.is_file():
        raise EvalError(f"{role} {text}: no such file as {file}")
    return Code(text, match["name"], "", file.absolute(), file.absolute().parent, role)


def _in_module(text: str, match: re.Match[str], folder: Path, role: str) -> Code:
    module = match["module"]
    beside = own_file(folder.absolute(), module)
    if beside is not None:
        return Code(text, match["name"], module, beside, folder.absolute(), role)
    spec = _spec_of(module)
    if spec is None:
        raise EvalError(
            f"{role} {text}: there is no module {module}, neither in {folder.absolute()} nor on the Python path "
            "(PYTHONPATH)"
        )
    origin = Path(spec.origin) if spec.has_location and spec.origin else None
    return Code(text, match["name"], module, origin, None, role)


def _spec_of(module: str) -> importlib.machinery.ModuleSpec | None:
    """Return the spec of a module on the Python path; packages above it are not imported."""
    importlib.invalidate_caches()
    top, *inner = module.split(".")
    try:
        spec = importlib.machinery.PathFinder.find_spec(top) or importlib.util.find_spec(top)
        for depth in range(2, len(inner) + 2):
            if spec is None or spec.submodule_search_locations is None:
                return None
            folders = getattr(spec.submodule_search_locations, "_path", spec.submodule_search_locations)
            spec = importlib.machinery.PathFinder.find_spec(".".join([top, *inner][:depth]), list(folders))
    except (ImportError, ValueError, AttributeError, KeyError):
        return None
    return spec


def _require_name(code: Code) -> None:
    """Raise ``EvalError`` where the file plainly does not make the name."""
    try:
        names, open_end = names_made_by(code)
    except UserCodeError as error:
        raise EvalError(f"{code.what} {code.text}: {error}") from error
    name = code.name.partition(".")[0]
    if name not in names and not open_end:
        raise EvalError(f"{code.what} {code.text}: {code.file} has no '{name}'{did_you_mean(name, names)}")
