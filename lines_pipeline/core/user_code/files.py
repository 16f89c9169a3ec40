"""Files of Python as the user wrote them: what they define and import, and one digest of it all. Nothing is run."""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from lines_pipeline.core.errors import UserCodeError

MAX_SOURCE_BYTES = 1_000_000
MAX_SOURCES = 200


@dataclass(frozen=True)
class Code:
    """Python of the user's own: ``name`` of ``module``, or of ``file`` where no module is named.

    ``root`` is the folder that imports start from, None where the Python path finds it; ``file`` is None for modules
    that are no Python files.
    """

    text: str
    name: str
    module: str
    file: Path | None
    root: Path | None
    what: str = "Python"
    """What it is for, as messages say it: ``model factory``."""

    @property
    def shown(self) -> str:
        """Name it, and the file that defines it."""
        return f"{self.text} ({self.file})" if self.file is not None else self.text

    def digest(self) -> str:
        """Return the identity of the code: its file, and what that imports from the same folder or package."""
        digest = sha256()
        for source in self._sources():
            digest.update(sha256(source).digest())
        return digest.hexdigest()

    def _sources(self) -> Iterator[bytes]:
        """Yield the contents of the file and of all that it imports from beside it, each once."""
        if self.file is None:
            return
        waiting, visited = [self.file], {self.file}
        while waiting and len(visited) < MAX_SOURCES:
            file = waiting.pop(0)
            content = _bytes_of(file)
            yield content
            if file.suffix == ".py" and not _is_installed(file):
                nearby = [imported for imported in self._imported(file, content) if imported not in visited]
                waiting += nearby
                visited.update(nearby)

    def _imported(self, file: Path, content: bytes) -> list[Path]:
        """Return the files that a file imports from its folder or package."""
        top = self.root or self._package_folder()
        own = self.module.partition(".")[0] if self.root is None else ""
        files: dict[Path, None] = {}
        for node in ast.walk(_parsed(file, content)):
            for folder, module in _imports(node, file, top):
                if not own or module.partition(".")[0] == own or folder != top:
                    files.update(dict.fromkeys(_module_files(folder, module)))
        return list(files)

    def _package_folder(self) -> Path:
        assert self.file is not None
        levels = self.module.count(".") + (self.file.name == "__init__.py")
        return self.file.parents[levels]


def own_file(folder: Path, module: str) -> Path | None:
    """Return the file of a module under a folder."""
    location = folder.joinpath(*module.split("."))
    return next(
        (
            candidate
            for candidate in (location / "__init__.py", location.with_name(location.name + ".py"))
            if candidate.is_file()
        ),
        None,
    )


def _module_files(folder: Path, module: str) -> list[Path]:
    """Return the files under a folder that importing a module runs: its own, and those of the packages around it."""
    parts = module.split(".")
    around = [folder.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts))]
    own = own_file(folder, module)
    return [init for init in around if init.is_file()] + ([own] if own is not None else [])


def _is_installed(file: Path) -> bool:
    """Return whether a file belongs to Python or to a package that was installed: its version tells what it imports."""
    installed = {"site-packages", "dist-packages"} & set(file.parts)
    return bool(installed) or file.is_relative_to(sysconfig.get_path("stdlib"))


def _bytes_of(file: Path) -> bytes:
    try:
        if not file.is_file():
            raise UserCodeError(f"{file} is not a regular file")
        with file.open("rb") as opened:
            content = opened.read(MAX_SOURCE_BYTES + 1)
    except OSError as error:
        raise UserCodeError(f"{file} cannot be read: {error.strerror}") from error
    if file.suffix == ".py" and len(content) > MAX_SOURCE_BYTES:
        raise UserCodeError(f"{file} has more than {MAX_SOURCE_BYTES:,} bytes, expected a Python file")
    return content


def _parsed(file: Path, content: bytes) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the user's escape sequences
            return ast.parse(content)
    except SyntaxError as error:
        raise UserCodeError(f"{file}:{error.lineno or 1}: not valid Python: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserCodeError(f"{file}: not valid Python: {error}") from error


def names_made_by(code: Code) -> tuple[set[str], bool]:
    """Return the names that the file binds, and whether there may be more."""
    assert code.file is not None
    return _names(_parsed(code.file, _bytes_of(code.file)).body)


def _names(body: Sequence[ast.stmt]) -> tuple[set[str], bool]:
    """Return the names that statements of a module bind, and whether there may be more."""
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
    """Yield a statement and what it holds, but for the bodies of functions and classes."""
    waiting = [statement]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def _imports(node: ast.AST, file: Path, top: Path) -> Iterator[tuple[Path, str]]:
    """Yield folder and module of everything that an import statement may import from a folder."""
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
    """Return the line that makes the factory's name, 0 where it cannot be told."""
    if code.file is None or code.file.suffix != ".py":
        return 0
    for node in _parsed(code.file, _bytes_of(code.file)).body:
        if getattr(node, "name", None) == code.name.partition(".")[0]:
            return int(node.lineno)
    return 0
