"""What a suite names as its model or metric: a factory that comes with this package, or Python of the user's own.

Everything here is found by looking at files; nothing of the user's is imported.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from lines_pipeline.core.errors import EvalError, did_you_mean
from lines_pipeline.core.printable import printable

SHIPPED = ("open_clip",)
"""Kinds of models that a suite may name without trust: ``open_clip:ViT-B-32``."""
PLANNED = ("timm", "torchvision", "transformers", "sentence-transformers")

HARMLESS_ARGUMENTS = frozenset({
    "force_context_length", "force_custom_text", "force_image_size", "force_patch_dropout", "force_quick_gelu",
    "image_interpolation", "image_mean", "image_resize_mode", "image_std", "output_dict", "precision",
})  # fmt: skip
"""Arguments of open_clip that describe a model. Others (``pretrained``, ``jit``) may open files of pickles."""

MAX_SOURCE_BYTES = 1_000_000
MAX_SOURCES = 200

_FILE = re.compile(r"(?P<file>[^:\x00-\x1f\x7f]+\.py):(?P<name>[^\W\d]\w*(\.[^\W\d]\w*)*)")
_MODULE = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*(\.[^\W\d]\w*)*)")
_SHIPPED = re.compile(r"[\w./-]+")
EXPECTED = "expected open_clip:NAME, package.module:callable or file.py:callable"


@dataclass(frozen=True)
class Code:
    """Python of the user's own, ``name`` of ``module``, or of ``file`` where no module is named; ``what`` it is for.

    ``root`` is the folder that imports start from, None where the Python path finds it; ``file`` is None for modules
    that are no Python files.
    """

    text: str
    name: str
    module: str
    file: Path | None
    root: Path | None
    what: str = "model factory"

    @property
    def shown(self) -> str:
        """Name the callable, and the file that defines it."""
        return f"{self.text} ({self.file})" if self.file is not None else self.text

    def digest(self) -> str:
        """Identity of the code: its file, and what that imports from the same folder or package."""
        found = sha256()
        for source in self._sources():
            found.update(sha256(source).digest())
        return found.hexdigest()

    def _sources(self) -> Iterator[bytes]:
        if self.file is None:
            return
        waiting, seen = [self.file], {self.file}
        while waiting and len(seen) < MAX_SOURCES:
            file = waiting.pop(0)
            content = _bytes_of(file)
            yield content
            if file.suffix == ".py" and not _is_installed(file):
                nearby = [one for one in self._imported(file, content) if one not in seen]
                waiting += nearby
                seen.update(nearby)

    def _imported(self, file: Path, content: bytes) -> list[Path]:
        """Files that a file imports from the callable's folder or package."""
        top = self.root or self._package_folder()
        own = self.module.partition(".")[0] if self.root is None else ""
        found: dict[Path, None] = {}
        for node in ast.walk(_parsed(file, content)):
            for folder, module in _imports(node, file, top):
                if not own or module.partition(".")[0] == own or folder != top:
                    found.update(dict.fromkeys(_module_files(folder, module)))
        return list(found)

    def _package_folder(self) -> Path:
        assert self.file is not None
        levels = self.module.count(".") + (self.file.name == "__init__.py")
        return self.file.parents[levels]


def shipped_kind(text: str) -> str:
    """The kind of model that needs no Python of the user's (``open_clip``); an empty text for others."""
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


def find_code(text: str, folder: Path, what: str = "model factory") -> Code:
    """Where the Python that a suite names lies: in ``folder``, else on the Python path. Imports nothing.

    Raises ``EvalError`` where there is no such file or module, or it plainly has no such name.
    """
    match = _FILE.fullmatch(text)
    if match:
        code = _in_file(text, match, folder, what)
    else:
        match = _MODULE.fullmatch(text)
        assert match is not None
        code = _in_module(text, match, folder, what)
    if code.file is not None and code.file.suffix == ".py":
        _require_name(code)
    return code


def _in_file(text: str, match: re.Match[str], folder: Path, what: str) -> Code:
    file = folder / match["file"]
    if not file.is_file():
        raise EvalError(f"{what} {text}: no such file as {file}")
    return Code(text, match["name"], "", file.absolute(), file.absolute().parent, what)


def _in_module(text: str, match: re.Match[str], folder: Path, what: str) -> Code:
    module = match["module"]
    beside = _own_file(folder.absolute(), module)
    if beside is not None:
        return Code(text, match["name"], module, beside, folder.absolute(), what)
    spec = _spec_of(module)
    if spec is None:
        raise EvalError(
            f"{what} {text}: there is no module {module}, neither in {folder.absolute()} nor on the Python path "
            "(PYTHONPATH)"
        )
    origin = Path(spec.origin) if spec.has_location and spec.origin else None
    return Code(text, match["name"], module, origin, None, what)


def _own_file(folder: Path, module: str) -> Path | None:
    """The file of a module under a folder."""
    location = folder.joinpath(*module.split("."))
    return next(
        (one for one in (location / "__init__.py", location.with_name(location.name + ".py")) if one.is_file()), None
    )


def _module_files(folder: Path, module: str) -> list[Path]:
    """The files under a folder that importing a module runs: its own, and those of the packages around it."""
    parts = module.split(".")
    around = [folder.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts))]
    own = _own_file(folder, module)
    return [one for one in around if one.is_file()] + ([own] if own is not None else [])


def _spec_of(module: str) -> importlib.machinery.ModuleSpec | None:
    """The spec of a module on the Python path; packages above it are not imported."""
    importlib.invalidate_caches()
    top, *rest = module.split(".")
    try:
        spec = importlib.machinery.PathFinder.find_spec(top) or importlib.util.find_spec(top)
        for depth in range(2, len(rest) + 2):
            if spec is None or spec.submodule_search_locations is None:
                return None
            source_map = getattr(spec.submodule_search_locations, "_path", spec.submodule_search_locations)
            spec = importlib.machinery.PathFinder.find_spec(".".join([top, *rest][:depth]), list(source_map))
    except (ImportError, ValueError, AttributeError, KeyError):
        return None
    return spec


def _is_installed(file: Path) -> bool:
    """Whether a file belongs to Python or to a package that was installed: its version tells what it imports."""
    installed = {"site-packages", "dist-packages"} & set(file.parts)
    return bool(installed) or file.is_relative_to(sysconfig.get_path("stdlib"))


def _bytes_of(file: Path) -> bytes:
    try:
        if not file.is_file():
            raise EvalError(f"{file} is not a regular file")
        with file.open("rb") as opened:
            content = opened.read(MAX_SOURCE_BYTES + 1)
    except OSError as error:
        raise EvalError(f"{file} cannot be read: {error.strerror}") from error
    if file.suffix == ".py" and len(content) > MAX_SOURCE_BYTES:
        raise EvalError(f"{file} has more than {MAX_SOURCE_BYTES:,} bytes, expected a Python file")
    return content


def _parsed(file: Path, content: bytes) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the user's escape sequences
            return ast.parse(content)
    except SyntaxError as error:
        raise EvalError(f"{file}:{error.lineno or 1}: not valid Python: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise EvalError(f"{file}: not valid Python: {error}") from error


def _require_name(code: Code) -> None:
    """Raise ``EvalError`` where the file plainly does not make the name."""
    assert code.file is not None
    names, open_end = _names(_parsed(code.file, _bytes_of(code.file)).body)
    name = code.name.partition(".")[0]
    if name not in names and not open_end:
        raise EvalError(f"{code.what} {code.text}: {code.file} has no '{name}'{did_you_mean(name, names)}")


def _names(body: Sequence[ast.stmt]) -> tuple[set[str], bool]:
    """The names that statements of a module bind, and whether there may be more."""
    names: set[str] = set()
    open_end = False
    for node in (inside for statement in body for inside in _at_module_level(statement)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            open_end = open_end or node.name == "__getattr__"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
            open_end = open_end or any(alias.name == "*" for alias in node.names)
        elif isinstance(node, ast.Name):
            names |= {node.id} if isinstance(node.ctx, ast.Store) else set()
            open_end = open_end or node.id in ("globals", "exec", "setattr", "vars", "__import__")
    return names, open_end


def _at_module_level(statement: ast.AST) -> Iterator[ast.AST]:
    """A statement and what it holds, but for the bodies of functions and classes."""
    waiting = [statement]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def _imports(node: ast.AST, file: Path, top: Path) -> Iterator[tuple[Path, str]]:
    """Folder and module of everything that an import statement may import from a folder."""
    if isinstance(node, ast.Import):
        yield from ((top, alias.name) for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        if node.level > len(file.parents):
            return
        folder = file.parents[node.level - 1] if node.level else top
        base = f"{node.module}." if node.module else ""
        yield from ((folder, base + alias.name) for alias in node.names if alias.name != "*")
        if node.module:
            yield folder, node.module


def line_of(code: Code) -> int:
    """The line that makes the callable's name, 0 where it cannot be told."""
    if code.file is None or code.file.suffix != ".py":
        return 0
    for node in _parsed(code.file, _bytes_of(code.file)).body:
        if getattr(node, "name", None) == code.name.partition(".")[0]:
            return int(node.lineno)
    return 0
