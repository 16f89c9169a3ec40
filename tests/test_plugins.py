"""An installed package that adds an op, a checkpoint format and a sink, and packages that are broken."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from dask_processes import DaskProcesses, connected
from safetensors.torch import load_file
from typer.testing import CliRunner

import lines_pipeline
from lines_pipeline.cli.app import app
from lines_pipeline.core.errors import CheckpointError, EngineError, PluginError, RecipeError
from lines_pipeline.ops import registry
from lines_pipeline.ops.testing import check_op

Write = Callable[..., Path]

METHODS = """\
from typing import Annotated
from pathlib import Path
from pydantic import Field
from lines_pipeline.ops import op, Delta

@op(formula="max_t tau_t", source="a test", laws=["permutation"])
def upper(deltas: list[Delta], *, scale: Annotated[float, Field(gt=0, description="A factor.")] = 1.0) -> Delta:
    "Keeps the largest entry."
    best = deltas[0]
    for delta in deltas[1:]:
        best = best + (delta - best) * (delta > best)
    return best * scale

class CountingSink:
    def __init__(self, path="events.txt"):
        self.path = Path(path)

    def __call__(self, event):
        with self.path.open("a") as file:
            print(type(event).__name__, file=file)

def failing_sink():
    def sink(event):
        raise RuntimeError("no")
    return sink

def read_raw(path):
    "One vector of float32 after 8 bytes."
    return {"blocks.0.weight": ("float32", ((path.stat().st_size - 8) // 4,), 8)}
"""
ENTRY_POINTS = {
    "ops": {"upper": "example_plugin.methods:upper"},
    "sinks": {"count": "example_plugin.methods:CountingSink", "fail": "example_plugin.methods:failing_sink"},
    "formats": {"raw": "example_plugin.methods:read_raw"},
}
NODES = {
    "merged": {"op": "upper", "deltas": "updates", "scale": 0.5},
    "model": {"op": "apply", "base": "base", "delta": "merged"},
    "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
}


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a package was built and installed into, as pip does it."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site-packages")
    (source / "example_plugin").mkdir()
    (source / "example_plugin" / "__init__.py").touch()
    (source / "example_plugin" / "methods.py").write_text(METHODS)
    tables = "".join(
        f'[project.entry-points."lines_pipeline.{group}"]\n' + "".join(f'{k} = "{v}"\n' for k, v in offered.items())
        for group, offered in ENTRY_POINTS.items()
    )
    head = """\
        [build-system]
        requires = ["setuptools"]
        build-backend = "setuptools.build_meta"
        [project]
        name = "example-plugin"
        version = "1.2"
    """
    (source / "pyproject.toml").write_text(textwrap.dedent(head) + tables)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    subprocess.run(command, check=True, cwd=source, capture_output=True)
    return target


@pytest.fixture
def installed(package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package is on the Python path, of this process and of those that it starts."""
    yield from on_path(package, monkeypatch)


def on_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(folder)
    searched = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(searched))
    yield folder
    sys.modules.pop("other_plugin", None)


def offer(folder: Path, distribution: str, group: str, entry: str, source: str = "") -> None:
    """Put a package's metadata, and a module of it, into a folder of packages."""
    metadata = folder / f"{distribution.replace('-', '_')}-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text(f"[lines_pipeline.{group}]\n{entry}\n")
    if source:
        (folder / "other_plugin.py").write_text(source)


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of packages on the Python path."""
    (tmp_path / "others").mkdir()
    yield from on_path(tmp_path / "others", monkeypatch)


def run(recipe: Path, **options: Any) -> dict[str, torch.Tensor]:
    result = lines_pipeline.run(recipe, tracking=False, out="out", **options)
    tensors: dict[str, torch.Tensor] = load_file(result.files[0])
    return tensors


@pytest.mark.usefixtures("installed")
def test_a_recipe_merges_with_the_op_of_a_package_and_tells_its_sink(models: Path, write_recipe: Write) -> None:
    result = run(write_recipe(NODES), sinks=["count", "count=told.txt"])
    base, *experts = (load_file(models / f"{name}.safetensors") for name in ("base", "a", "b", "c"))
    for name, value in base.items():
        if value.is_floating_point():
            largest = torch.stack([expert[name] - value for expert in experts]).max(0).values
            torch.testing.assert_close(result[name], value + largest * 0.5)
    words = Path("told.txt").read_text().split()
    assert "FileWritten" in words and words[-1] == "RunFinished" and Path("events.txt").read_text().split() == words


@pytest.mark.usefixtures("installed")
def test_the_command_line_names_sinks_and_lists_ops_with_their_package(models: Path, write_recipe: Write) -> None:
    recipe = write_recipe(NODES)
    completed = CliRunner().invoke(app, ["run", str(recipe), "--no-tracking", "--sink", "count=told.txt"])
    assert completed.exit_code == 0, completed.output
    assert Path("told.txt").read_text().endswith("RunFinished\n")
    listed = CliRunner().invoke(app, ["ops"], env={"COLUMNS": "200"}).output
    assert "example-plugin 1.2" in next(line for line in listed.splitlines() if " upper " in line)
    shown = json.loads(CliRunner().invoke(app, ["ops", "upper", "--json"]).output)
    assert shown["plugin"] == "example-plugin 1.2" and shown["params"][0]["description"] == "A factor."


@pytest.mark.usefixtures("installed")
def test_the_schema_knows_installed_ops() -> None:
    from lines_pipeline.api import schema

    recipe = {"name": "x", "nodes": {"merged": {"op": "upper", "deltas": "updates", "scale": 0.5}}}
    jsonschema.validate(recipe, schema())
    recipe["nodes"]["merged"]["scale"] = "much"  # type: ignore[index]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(recipe, schema())


@pytest.mark.usefixtures("installed")
def test_the_op_of_a_package_passes_the_checks_of_the_house() -> None:
    check_op("upper")


@pytest.mark.usefixtures("installed")
def test_workers_have_to_have_the_package(tmp_path: Path, package: Path, write_recipe: Write) -> None:
    (tmp_path / "dask").mkdir()
    dask = DaskProcesses(tmp_path / "dask")
    try:
        address = dask.scheduler()
        worker = dask.worker(address)
        connected(address, 1)
        recipe = write_recipe(NODES)
        here, there = (run(recipe, scheduler=scheduler, cache=False) for scheduler in ("threads", address))
        assert all(torch.equal(here[name], there[name]) for name in here)
        worker.kill()
        worker.wait()
        with pytest.MonkeyPatch.context() as without:
            without.setenv("PYTHONPATH", os.environ["PYTHONPATH"].replace(str(package), ""))
            dask.worker(address)
            connected(address, 1)
        with pytest.raises(
            EngineError, match=r"worker .*'upper'.* comes from example-plugin 1.2 .*it is not installed"
        ):
            run(recipe, scheduler=address, cache=False)
    finally:
        dask.stop()


@pytest.mark.usefixtures("installed")
def test_a_checkpoint_of_a_format_that_a_package_reads(models: Path, write_recipe: Write) -> None:
    for name, first in (("base", 1.0), ("expert", 3.0)):
        (models / f"{name}.raw").write_bytes(b"\0" * 8 + struct.pack("<2f", first, 2.0))
    nodes = {
        "base": {"op": "load", "path": "base.raw"},
        "experts": {"op": "load", "path": "expert.raw"},
        "model": {"op": "interpolate", "models": ["base", "experts"], "t": 0.5},
    }
    recipe = write_recipe({**nodes, "saved": NODES["saved"]})
    assert "base.raw was read by example-plugin 1.2" in " ".join(lines_pipeline.validate(recipe).notes)
    assert run(recipe)["blocks.0.weight"].tolist() == [2.0, 2.0]
    (models / "base.raw").write_bytes(b"\0")
    with pytest.raises(CheckpointError, match=r"base.raw: tensor 'blocks.0.weight'.*not in the file|raised ValueError"):
        run(recipe)


@pytest.mark.usefixtures("installed")
def test_a_sink_that_fails_is_told_no_more_and_ends_no_run(models: Path, write_recipe: Write) -> None:
    result = lines_pipeline.run(write_recipe(NODES), tracking=False, out="out", sinks=["fail", "count"])
    warnings = [note for note in result.notes if note.startswith("warning: sink")]
    message = "sink 'fail' of example-plugin 1.2 raised RuntimeError: no; it is told no more of this run"
    assert warnings == [f"warning: {message}"]
    assert Path("events.txt").read_text().endswith("RunFinished\n")
    with pytest.raises(
        PluginError, match=r"no sink 'cout' \(did you mean 'count'\?\); installed packages offer: count"
    ):
        lines_pipeline.run(write_recipe(NODES), sinks=["cout"])


BROKEN = {
    "import nothing_there": r"cannot be loaded: ModuleNotFoundError: .*nothing_there.* \(.*other_plugin.py:1\)",
    "x = 1": "cannot be loaded: AttributeError",
    "def odd(deltas): ...": "gives 'odd', expected a function under @op, or a subclass of Op",
    "from lines_pipeline.ops import op, Delta\n@op(formula='', source='')\ndef odd(deltas) -> Delta: ...": (
        r"odd \(.*other_plugin.py:2\): parameter 'deltas' has no annotation"
    ),
    "from lines_pipeline.ops import op, Delta\n@op(formula='', source='')\ndef even(d: Delta) -> Delta: ...\n"
    "odd = even": "gives the op 'even', expected 'odd'",
}


@pytest.mark.parametrize(("source", "told"), BROKEN.items())
def test_a_broken_package_is_one_error_of_the_recipes_that_use_it(
    source: str, told: str, others: Path, write_recipe: Write
) -> None:
    offer(others, "other-plugin", "ops", "odd = other_plugin:odd", source)
    assert run(write_recipe({"saved": {"op": "save", "model": "base", "path": "model.safetensors"}}))
    named = r"entry point 'odd = other_plugin:odd' of other-plugin 0.1 \(lines_pipeline.ops\)"
    with pytest.raises(RecipeError, match=rf"recipe.yaml:\d+:\d+: node 'merged': {named}.*{told}") as caught:
        lines_pipeline.validate(write_recipe({**NODES, "merged": {"op": "odd", "deltas": "updates"}}))
    assert len(caught.value.diagnostics) == 1


def test_two_packages_with_one_name(others: Path) -> None:
    for name in ("one-plugin", "other-plugin"):
        offer(others, name, "ops", "odd = other_plugin:odd")
    with pytest.raises(
        PluginError, match=r"'odd' of lines_pipeline.ops is offered by .*one-plugin 0.1.* and .*: uninst"
    ):
        registry()["odd"]


def test_a_package_cannot_take_the_place_of_an_op(others: Path) -> None:
    offer(others, "other-plugin", "ops", "ties = other_plugin:ties")
    with pytest.raises(PluginError, match=r"other-plugin 0.1 .*: lines-pipeline has an op of this name"):
        registry()["ties"]
    assert registry()["trim"].name == "trim"


@pytest.mark.usefixtures("installed")
def test_packages_are_imported_when_their_op_is_asked_for() -> None:
    code = (
        "import sys; from lines_pipeline.ops import registry; found = registry()\n"
        "assert 'upper' in found and 'example_plugin' not in sys.modules\n"
        "print(found['upper'].origin); assert 'example_plugin.methods' in sys.modules\n"
    )
    completed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert completed.stdout == "example-plugin 1.2\n"
