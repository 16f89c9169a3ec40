"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lines_pipeline"
GOLDEN = Path(__file__).parent / "golden" / "help"


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return completed.stdout


def test_imports_point_down() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports"))]
    completed = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert completed.returncode == 0, completed.stdout


def test_help_loads_neither_torch_nor_mlflow() -> None:
    code = """
import sys
from typer.testing import CliRunner
from lines_pipeline.cli.app import app
assert CliRunner().invoke(app, ["--help"]).exit_code == 0
print([name for name in ("torch", "mlflow", "pandas", "dask", "matplotlib", "pydantic") if name in sys.modules])
"""
    assert python(code).strip() == "[]"


def test_what_the_package_logs_is_shown_to_nobody_who_does_not_ask() -> None:
    code = """
import lines_pipeline, logging
from lines_pipeline.core.logs import LOG
assert LOG is logging.getLogger(lines_pipeline.__name__)
LOG.error("unseen")
logging.basicConfig(format="seen: %(message)s", level=logging.INFO, force=True)
LOG.info("asked for")
"""
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert completed.stderr == "seen: asked for\n"


def help_text(*words: str) -> str:
    """A help page at a fixed width."""
    import os

    line = [sys.executable, "-m", "lines_pipeline", *words, "--help"]
    environment = os.environ | {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}
    return subprocess.run(line, capture_output=True, text=True, check=True, env=environment, timeout=60).stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_pages(command: str) -> None:
    golden = GOLDEN / f"{command or 'lines-pipeline'}.txt"
    message = "\n".join(line.rstrip() for line in help_text(*filter(None, [command])).splitlines()) + "\n"
    assert message == golden.read_text()


def test_modules_and_op_files_stay_small() -> None:
    """A file is one idea and usually has less than 300 lines; one that stays a single idea may have 400."""
    long = [str(p.relative_to(ROOT)) for p in PACKAGE.rglob("*.py") if len(p.read_text().splitlines()) > 400]
    assert long == []


def test_the_workflow_does_what_the_house_does() -> None:
    """The oldest Python that is allowed and a newer one run `.ci/run`; YAML 1.1 reads `on` as a truth value."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["test"]
    oldest, newest = job["strategy"]["matrix"]["python"]
    assert f'requires-python = ">={oldest}"' in (ROOT / "pyproject.toml").read_text()
    assert [int(part) for part in newest.split(".")] > [int(part) for part in oldest.split(".")]
    assert job["steps"][-1] == {"run": ".ci/run"} and set(workflow) == {
        "name", True, "permissions", "concurrency", "jobs",
    }  # fmt: skip


def test_no_file_is_named_after_nothing() -> None:
    banned = {"utils", "util", "helpers", "helper", "manager", "misc", "common"}
    assert [p for p in PACKAGE.rglob("*.py") if p.stem in banned] == []


def test_only_ops_know_ops() -> None:
    """The layers above ask what an op declares; they import no method, and compare no name, class or port."""
    from lines_pipeline.ops import registry

    methods = {type(op).__module__ for op in registry().values()}
    asks = re.compile(r"\bop\.name (==|!=|in|not in)\b|isinstance\([^)]*\b(op|params)\b,|\.inputs(\[|\.get\()[\"']")
    known = []
    for path in PACKAGE.rglob("*.py"):
        if PACKAGE / "ops" not in path.parents:
            for node in ast.walk(ast.parse(path.read_text())):
                modules = {node.module} if isinstance(node, ast.ImportFrom) else set()
                modules |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
                known += [f"{path}: {module}" for module in modules & methods]
            known += [f"{path}: {line.strip()}" for line in path.read_text().splitlines() if asks.search(line)]
    assert known == []


def test_every_op_has_a_row_in_the_documentation() -> None:
    from lines_pipeline.ops import registry

    text = (ROOT / "docs" / "methods.md").read_text()
    assert [name for name in registry() if f"`{name}`" not in text] == []
