"""Model factories of the user's own: found beside the suite, checked without being imported, their errors told."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_suite import ENCODER, above, write_model, write_suite

import lines_pipeline
from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.trust import trust

pytestmark = pytest.mark.usefixtures("shared_store")

Lab = Callable[..., Path]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Writes a trusted folder with a recipe, a suite and Python beside them, by file; gives the recipe."""

    def write(factory: str, folder: str = "lab", /, arguments: Any = None, **files: str) -> Path:
        location = tmp_path / folder
        location.mkdir(exist_ok=True)
        trust(location)
        write_model(location / "a.safetensors", 0.5)
        write_suite(location, {"rise": {"val": above(0.25, 0.75)}})
        content = yaml.safe_load((location / "suite.yaml").read_text())
        content["model"] = {"factory": factory, "arguments": arguments or {}}
        (location / "suite.yaml").write_text(yaml.safe_dump(content))
        for name, text in files.items():
            file = location / (name.replace("__", "/") + ".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        nodes = {
            "model": {"op": "load", "path": "a.safetensors"},
            "val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val"},
        }
        (location / "recipe.yaml").write_text(yaml.safe_dump({"name": "lab", "nodes": nodes}))
        return location / "recipe.yaml"

    return write


def accuracy(recipe: Path) -> float:
    return lines_pipeline.run(recipe).metrics["val"]["mean_accuracy"]


RIGHT = ENCODER.replace("total.expand_as(image)", "(total + SHIFT).expand_as(image)") + "\nSHIFT = 0.0\n"


@pytest.mark.parametrize(
    ("factory", "files"),
    [
        ("enc:build", {"enc": ENCODER}),
        ("enc.py:build", {"enc": ENCODER}),
        ("deep/er/enc.py:build", {"deep__er__enc": ENCODER}),
        ("pack.enc:build", {"pack__enc": ENCODER}),
        ("pack.enc:build", {"pack__enc": ENCODER, "pack____init__": ""}),
        ("enc:Holder.build", {"enc": ENCODER + "\nclass Holder:\n    build = staticmethod(build)\n"}),
        ("enc:build", {"enc": "from helper import build\n", "helper": ENCODER}),
        ("pack.enc:build", {"pack__enc": "from .helper import *\n", "pack__helper": ENCODER, "pack____init__": ""}),
        ("random:build", {"random": ENCODER}),
    ],
)
def test_python_beside_the_suite_is_found(factory: str, files: dict[str, str], lab: Lab) -> None:
    before = sys.modules.get("random")
    recipe = lab(factory, **files)
    assert "runs Python: " + factory in lines_pipeline.validate(recipe).notes[0]
    assert accuracy(recipe) == 0.5
    assert sys.modules.get("random") is before and not list(recipe.parent.rglob("__pycache__"))


def test_two_suites_may_name_modules_alike(lab: Lab) -> None:
    first = lab("enc:build", "one", enc=RIGHT)
    two = lab("enc:build", "two", enc=RIGHT.replace("SHIFT = 0.0", "SHIFT = 0.5"))
    assert (accuracy(first), accuracy(two), accuracy(first)) == (0.5, 1.0, 0.5)


@pytest.mark.parametrize("where", ["enc", "helper"])
def test_a_change_of_the_python_is_noticed(where: str, lab: Lab) -> None:
    text = {"enc": "from helper import build\n", "helper": RIGHT}
    assert accuracy(lab("enc:build", **text)) == 0.5
    moved = RIGHT.replace("SHIFT = 0.0", "SHIFT = 0.5")
    assert accuracy(lab("enc:build", **(text | {where: moved}))) == 1.0


@pytest.mark.parametrize(
    ("factory", "text", "message"),
    [
        ("enc:bild", ENCODER, r"suite\.yaml:3:12: .*enc\.py has no 'bild' \(did you mean 'build'\?\)"),
        ("enk:build", ENCODER, r"there is no module enk, neither in .*lab nor on the Python path"),
        ("enk.py:build", ENCODER, r"no such file as .*enk\.py"),
        ("enc.sub:build", ENCODER, r"there is no module enc\.sub"),
        ("enc:build", "def build(:\n", r"enc\.py:1: not valid Python"),
        ("enc:build", "x = " + "(" * 5_000, r"enc\.py.*: not valid Python"),
        ("transformers:AutoModel", ENCODER, r"factories of 'transformers:' are not there yet; expected open_clip"),
        ("timm:vit", ENCODER, r"factories of 'timm:' are not there yet"),
        ("open_clip:", ENCODER, r"expected open_clip:NAME, .*found 'open_clip:'"),
        ("enc", ENCODER, r"'model\.factory': expected open_clip:NAME, .*found 'enc'"),
    ],
)
@pytest.mark.parametrize("check", [lines_pipeline.validate, lines_pipeline.run])
def test_a_factory_that_is_not_there_is_told_by_validate(
    check: Callable[[Path], object], factory: str, text: str, message: str, lab: Lab
) -> None:
    with pytest.raises(EvalError, match=message):
        check(lab(factory, enc=text))


@pytest.mark.parametrize(
    "text",
    [
        "from torch import nn as build\n",
        "if True:\n    build = 1\n",
        "for build in (): pass\n",
        "try:\n    from x import y as build\nexcept ImportError:\n    build = None\n",
        "def __getattr__(name): ...\n",
        "globals()['build'] = 1\n",
        "from x import *\n",
        "(build := 3)\n",
    ],
)
def test_names_may_be_made_in_many_ways(text: str, lab: Lab) -> None:
    assert lines_pipeline.validate(lab("enc:build", enc=text)).steps == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "def build():\n    raise KeyError('w')\n",
            r"model factory enc:build raised KeyError: 'w' \(.*lab/enc\.py:2\)",
        ),
        ("import nothing_like_it\nbuild = 1\n", r"raised ModuleNotFoundError: .*nothing_like_it.* \(.*enc\.py:1\)"),
        ("def build(width): ...\n", r"raised TypeError: .*'width' \(.*enc\.py:1\)"),
        ("import sys\ndef build():\n    sys.exit(3)\n", r"raised SystemExit: 3 \(.*enc\.py:3\)"),
        ("def build(): return 3\n", "gave a int, expected a torch module"),
        ("from helper import build\n", r"raised ZeroDivisionError: .* \(.*helper\.py:2\)"),
        (
            ENCODER.replace("image = images", "image = self.nothing"),
            r"the model does not take images of shape .*: it raised AttributeError: .*nothing.* \(.*enc\.py:\d+\)",
        ),
        (ENCODER.replace("return torch.cat", "return 3 or torch.cat"), "the model gave a int, expected a tensor"),
        (
            "class Odd(Exception):\n    def __str__(self): 1 / 0\ndef build(): raise Odd\n",
            "raised Odd: .*has no message",
        ),
    ],
)
def test_the_users_errors_are_told_as_the_users(text: str, message: str, lab: Lab) -> None:
    with pytest.raises(EvalError, match=message):
        accuracy(lab("enc:build", enc=text, helper="def build():\n    return 1 / 0\n"))


def test_what_it_prints_spoils_no_output(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    accuracy(lab("enc:build", enc="print('hello')\n" + ENCODER))
    captured = capfd.readouterr()
    assert "hello" not in captured.out


SUITES = {
    "aliases": "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(8)),
    "deep": "model: " + "[" * 200 + "]" * 200,
    "twice": "model: {factory: 'open_clip:x'}\nmodel: {}\n",
    "large": "# " + "x" * 1_100_000,
    "list": "- a\n",
    "empty": "",
    "binary": "\x00",
    "percent": "model: {factory: 'open_clip:x'}\ntasks: {a: {head: h, data: {val: v}, expert_accuracy: {val: 91}}}\n",
    "split": "model: {factory: 'open_clip:x'}\ntasks: {a: {head: h, data: {vall: v}}}\n",
    "nothing": "model: {factory: 'open_clip:x'}\ntasks: {a: {head: '', data: {val: \"a\\0b\"}}}\n",
}


@pytest.mark.parametrize("text", SUITES.values(), ids=SUITES)
def test_a_suite_file_is_read_as_safely_as_a_recipe(text: str, lab: Lab) -> None:
    recipe = lab("enc:build", enc=ENCODER)
    (recipe.parent / "suite.yaml").write_text(text)
    with pytest.raises(EvalError, match=r"recipe\.yaml:\d+:\d+: node 'val': .*suite\.yaml(:\d+:\d+)?: "):
        lines_pipeline.validate(recipe)
