"""Secrets: what comes from the environment is shown and written by name only, and credentials in URLs not at all."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TIES_LINES
from safetensors import safe_open
from toy_suite import above, write_model, write_suite
from typer.testing import CliRunner

import lines_pipeline
from lines_pipeline import api
from lines_pipeline.cli.app import app
from lines_pipeline.core.errors import LinesError
from lines_pipeline.core.events import Event
from lines_pipeline.core.secrets import Secrets, by_value, without_credentials

Recipe = Callable[..., Path]

SECRET = "s3cr3t-Zq7Wm1xK9v"
NAME = "LINES_SECRET"
BY_NAME = f"${{env:{NAME}}}"


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, SECRET)


def leaks(folder: Path) -> list[str]:
    """Files under ``folder`` that hold the secret; those that are the user's own models lie elsewhere."""
    return [str(path) for path in sorted(folder.rglob("*")) if path.is_file() and SECRET.encode() in path.read_bytes()]


def command(*words: str | Path) -> str:
    """Everything that a command says."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, (result.exception, result.output)
    return result.output


def texts_of(error: BaseException | None) -> Iterator[str]:
    """The texts of an error and of all behind it."""
    while error is not None:
        yield from (str(error), repr(error))
        error = error.__cause__ or error.__context__


@pytest.fixture
def everywhere(toy: Path, tmp_path: Path) -> Path:
    """A recipe that runs, with the secret in every field that a run can have it in."""
    data = tmp_path / "data" / SECRET  # the user's own files, which bear the name
    data.mkdir(parents=True)
    for name, shift in (("base", 0.0), (f"{SECRET}-one", 0.3), ("two", 0.5)):
        write_model(data / f"{name}.safetensors", shift)
    write_suite(toy, {"rise": {"val": above(0.25, 0.75)}, "fall": {"val": above(0.5, 0.9)}})
    (toy / "suite.yaml").rename(toy / f"suite-{SECRET}.yaml")
    place = f"../data/{BY_NAME}"
    nodes = {
        "base": {"op": "load", "path": f"{place}/base.safetensors", "prefix": {"strip": BY_NAME}},
        "experts": {
            "op": "load",
            "path": f"{place}/{{e}}.safetensors",
            "for_each": {"e": [f"{BY_NAME}-one", "two"]},
            "rename": [{"from": BY_NAME, "to": BY_NAME}],
        },
        "updates": {"op": "task-vector", "model": "experts", "base": "base"},
        "merged": {"op": "task-arithmetic", "deltas": "updates"},
        "model": {"op": "apply", "base": "base", "delta": "merged"},
        "val": {"op": "evaluate", "model": "model", "suite": f"suite-{BY_NAME}.yaml", "split": "val"},
        "each": {"op": "apply", "base": "base", "delta": "updates"},
        "one": {"op": "evaluate", "model": "each", "suite": f"suite-{BY_NAME}.yaml", "split": "val"},
        "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
    }
    top = {
        "name": "planted",
        "description": f"for {BY_NAME}",
        "vars": {"unused": BY_NAME},
        "nodes": nodes,
        "tracking": {
            "uri": f"sqlite:///{BY_NAME}.db",
            "experiment": f"{BY_NAME} team",
            "tags": {"team": BY_NAME, "link": f"https://{BY_NAME}@host/{BY_NAME}?token={BY_NAME}"},
        },
        "tune": {"parameters": {"merged.reduce": {"values": ["sum", "mean"]}}, "objective": "val.mean_accuracy"},
    }
    path = toy / "planted.yaml"
    path.write_text(yaml.safe_dump(top))
    return path


def test_a_run_shows_and_writes_secrets_by_name(
    everywhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "out" / "cache"))
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    said = command("run", everywhere, "--set", f"vars.unused={BY_NAME} again") + command("run", everywhere, "--json")
    said += command("plan", everywhere) + command("plan", everywhere, "--json") + command("validate", everywhere)
    said += command("graph", everywhere) + command("cache", "list")
    store = tmp_path / "out" / f"{SECRET}.db"
    said += command("compare", "planted", "planted", "--tracking-uri", f"sqlite:///{store}")
    assert "planted" in said and SECRET not in said
    assert leaks(tmp_path / "out") == []
    with closing(sqlite3.connect(store)) as database:
        assert (f"{BY_NAME} team",) in database.execute("SELECT name FROM experiments").fetchall()
        assert ("team", BY_NAME) in database.execute("SELECT key, value FROM tags").fetchall()
        assert (f"for {BY_NAME}",) in database.execute("SELECT value FROM tags").fetchall()
    with safe_open(tmp_path / "out" / "runs" / "planted" / "model.safetensors", "pt") as file:
        inputs = json.loads(file.metadata()["inputs"])
    assert list(inputs) == ["base", f"experts[{BY_NAME}-one]", "experts[two]"]


def test_names_from_the_environment_are_in_no_card_and_no_entry_of_the_cache(toy: Path, tmp_path: Path) -> None:
    write_model(toy / f"{SECRET}.safetensors", 0.5)
    write_suite(toy, {SECRET: {"val": above(0.25, 0.75)}})
    nodes = {
        "experts": {"op": "load", "path": "{t}.safetensors", "for_each": {"t": [BY_NAME]}},
        "val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val", "tasks": [BY_NAME]},
        "model": {"op": "soup", "models": "experts"},
        "saved": {"op": "save", "model": "model", "path": "merged/"},
    }
    path = toy / "carded.yaml"
    path.write_text(yaml.safe_dump({"name": "carded", "nodes": nodes}))
    for cached in ((), ("val",)):
        result = lines_pipeline.run(path, out=tmp_path / "out", tracking=False)
        assert result.metrics["val"][f"accuracy/{SECRET}"] == result.metrics["val"]["mean_accuracy"] == 0.5
        assert set(cached) <= set(result.cached)
        card = (tmp_path / "out" / "merged" / "README.md").read_text()
        row = f"| experts[{BY_NAME}] | {BY_NAME}.safetensors | "
        assert row in card and len(card.partition(row)[2].partition(" ")[0]) >= 64
        assert f"| val | accuracy/{BY_NAME} | 0.5 |" in card
    assert leaks(tmp_path / "out") == leaks(tmp_path / "cache") == []


BROKEN: dict[str, dict[str, Any]] = {
    "path": {"nodes": {"base": {"op": "load", "path": f"{BY_NAME}.safetensors"}}},
    "folder": {"nodes": {"base": {"op": "load", "path": f"../../{BY_NAME}/model.bin"}}},
    "kind of URL": {"nodes": {"base": {"op": "load", "path": f"ftp://{BY_NAME}/a.safetensors"}}},
    "hub": {"nodes": {"base": {"op": "load", "path": f"hf://{BY_NAME}"}}},
    "zoo": {"nodes": {"base": {"op": "load", "path": f"zoo://{BY_NAME}"}}},
    "rename": {
        "nodes": {"base": {"op": "load", "path": "base.safetensors", "rename": [{"from": f"({BY_NAME}", "to": ""}]}}
    },
    "prefix": {"nodes": {"base": {"op": "load", "path": "base.safetensors", "prefix": {"add": BY_NAME}}}},
    "item": {"nodes": {"experts": {"op": "load", "path": "{e}.safetensors", "for_each": {"e": [BY_NAME]}}}},
    "two items": {"nodes": {"experts": {"op": "load", "path": "a.safetensors", "for_each": {"e": [BY_NAME, BY_NAME]}}}},
    "op": {"nodes": {"merged": {"op": BY_NAME, "deltas": "updates"}}},
    "input": {"nodes": {"merged": {"op": "ties", "deltas": BY_NAME}}},
    "member": {"nodes": {"merged": {"op": "ties", "deltas": f"updates[{BY_NAME}]"}}},
    "number": {"nodes": {"merged": {"op": "ties", "deltas": "updates", "density": BY_NAME}}},
    "choice": {"nodes": {"merged": {"op": "ties", "deltas": "updates", "scope": BY_NAME}}},
    "blocks": {"nodes": {"scaled": {"op": "lines-scale", "delta": "merged", "alpha": 1, "blocks": f"({BY_NAME}"}}},
    "no blocks": {
        "nodes": {"scaled": {"op": "lines-scale", "delta": "merged", "alpha": 1, "blocks": rf"{BY_NAME}(\d)"}}
    },
    "include": {"nodes": {"merged": {"op": "ties", "deltas": "updates", "include": [f"{BY_NAME}.*"]}}},
    "outside": {"nodes": {"saved": {"op": "save", "model": "model", "path": f"../{BY_NAME}.safetensors"}}},
    "suffix": {"nodes": {"saved": {"op": "save", "model": "model", "path": f"{BY_NAME}.exe"}}},
    "dtype": {"nodes": {"saved": {"op": "save", "model": "model", "path": "m.safetensors", "dtype": BY_NAME}}},
    "shards": {
        "nodes": {"saved": {"op": "save", "model": "model", "path": "m.safetensors", "max_shard_size": BY_NAME}}
    },
    "suite": {"nodes": {"val": {"op": "evaluate", "model": "model", "suite": f"{BY_NAME}.yaml"}}},
    "split": {"nodes": {"val": {"op": "evaluate", "model": "model", "suite": "zoo://glyphs", "split": BY_NAME}}},
    "tasks": {"nodes": {"val": {"op": "evaluate", "model": "model", "suite": "zoo://glyphs", "tasks": [BY_NAME]}}},
    "target": {"nodes": {"val": {"op": "evaluate", "model": "model", "suite": "zoo://glyphs", "target": BY_NAME}}},
    "name": {"name": f"not a slug {BY_NAME}"},
    "seed": {"seed": BY_NAME},
    "memory": {"engine": {"memory": BY_NAME}},
    "workers": {"engine": {"workers": BY_NAME}},
    "device": {"engine": {"device": BY_NAME}},
    "scheduler": {"engine": {"scheduler": BY_NAME}},
    "no cluster": {"engine": {"scheduler": f"tcp://user:{BY_NAME}@127.0.0.1:9"}},
    "store": {"tracking": {"uri": f"http://user:{BY_NAME}@127.0.0.1:9"}},
    "folder of the store": {"tracking": {"uri": f"sqlite:///{BY_NAME}/mlflow.db"}},
    "kind of store": {"tracking": {"uri": f"{BY_NAME}://store"}},
    "tags": {"tracking": {"tags": {"a": [BY_NAME]}}},
    "objective": {"tune": {"parameters": {"merged.density": {"values": [0.1]}}, "objective": f"{BY_NAME}.accuracy"}},
    "values": {"tune": {"parameters": {"merged.scope": {"values": [BY_NAME]}}, "objective": "val.accuracy"}},
    "sampler": {"tune": {"parameters": {"merged.density": {"values": [0.1]}}, "objective": "a.b", "sampler": BY_NAME}},
}


@pytest.mark.parametrize("field", BROKEN)
def test_no_message_has_a_secret(field: str, write_recipe: Recipe, tmp_path: Path) -> None:
    changed = dict(BROKEN[field])
    recipe = write_recipe({**TIES_LINES, **changed.pop("nodes", {})}, **changed)
    texts: list[str] = []

    def keep(event: Event) -> None:
        texts.append(repr(event))

    with pytest.raises(LinesError) as caught:
        lines_pipeline.run(
            recipe, out="out", sinks=[keep], tracking=field in ("store", "folder of the store", "kind of store")
        )
    texts += [*texts_of(caught.value)]
    for check in (api.validate, api.plan, api.graph):
        try:
            texts.append(repr(check(recipe)))
        except LinesError as error:
            texts += [*texts_of(error)]
    assert not [text for text in texts if SECRET in text]
    assert leaks(tmp_path) == []


def test_what_a_person_sets_on_the_command_line_is_hidden_too(write_recipe: Recipe) -> None:
    recipe = write_recipe(TIES_LINES)
    for words in (["--set", f"engine.memory={BY_NAME}"], ["--set", f"nodes.saved.path=../{BY_NAME}.safetensors"]):
        result = CliRunner().invoke(app, ["validate", str(recipe), *words])
        assert isinstance(result.exception, LinesError) and BY_NAME in str(result.exception)
        assert SECRET not in str(result.exception) + result.output


def test_credentials_in_urls_are_not_shown() -> None:
    urls = {
        "https://user:pass@host/a?token=abc&x=1": "https://***@host/a?token=***&x=1",
        "postgresql://u:p@ss@db/x": "postgresql://***@db/x",
        "https://host/f?X-Amz-Signature=abc#part": "https://host/f?X-Amz-Signature=***#part",
        "hf://org/repo@main/file": "hf://org/repo@main/file",
        "https://${env:A}:${env:B}@host?key=${env:C}": "https://${env:A}:${env:B}@host?key=${env:C}",
        "mail me@host": "mail me@host",
    }
    assert {url: without_credentials(url) for url in urls} == urls
    assert without_credentials(f"cannot read '{next(iter(urls))}': no") == f"cannot read '{urls[next(iter(urls))]}': no"


def test_credentials_written_in_a_recipe_are_in_no_record(write_recipe: Recipe, tmp_path: Path) -> None:
    nodes = {
        **TIES_LINES,
        "unused": {"op": "load", "path": f"https://me:{SECRET}@127.0.0.1:9/a.safetensors?sig={SECRET}"},
    }
    recipe = write_recipe(nodes, tracking={"tags": {"link": f"https://me:{SECRET}@host"}})
    (tmp_path / "out").mkdir()
    result = lines_pipeline.run(recipe, out="out", tracking_uri=f"sqlite:///{tmp_path}/out/mlflow.db")
    assert SECRET not in json.dumps(result.to_dict())
    assert leaks(tmp_path / "out") == []
    assert leaks(tmp_path / "cache") == []


def test_equal_recipes_give_equal_bytes_whatever_the_environment_has(
    write_recipe: Recipe, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experts = {"op": "load", "path": f"{BY_NAME}{{e}}.safetensors", "for_each": {"e": ["a", "b", "c"]}}
    contents: list[bytes] = []
    for value in ("", "./", "a"):
        monkeypatch.setenv(NAME, value)
        recipe = write_recipe({**TIES_LINES, "experts": experts} if value != "a" else TIES_LINES, description=BY_NAME)
        contents.append(
            (Path(lines_pipeline.run(recipe, out=f"o{len(contents)}", tracking=False).files[0])).read_bytes()
        )
    assert contents[0] == contents[1]
    assert b"env:" not in contents[2]  # 'a' is an item here, and does not come from the environment


@pytest.mark.parametrize(
    ("value", "text", "shown"),
    [
        ("longenough", "at /x/longenough/y", "at /x/${env:X}/y"),
        ("longenough", "found 'longeno...'", "found 'longeno...'"),
        ("longenough-for-a-cut", "found 'longenough-fo...'", "found '${env:X}...'"),
        ("abc", "abc in abcd, found 'abc'", "abc in abcd, found '${env:X}'"),
        ("1000", "1000 tensors, found '1000'", "1000 tensors, found '${env:X}'"),
        ("~/hidden", "/root/hidden/a", "/root/${env:X}/a"),
        ("a b&c", "?q=a%20b%26c and a+b%26c", "?q=${env:X} and ${env:X}"),
        ('say "hi"', r'{"a": "say \"hi\""}', '{"a": "${env:X}"}'),
        ("https://host.example/secret-path", "cannot reach host.example", "cannot reach ${env:X}"),
    ],
)
def test_values_are_found_in_the_forms_that_messages_give_them(value: str, text: str, shown: str) -> None:
    assert Secrets({"X": value}).hide(text) == shown


def test_a_path_by_name_is_the_same_path_by_value() -> None:
    environ = {"A": "/data/one", "B": "/data/one/two", "C": "x"}
    for path in ("/data/one/two/x.safetensors", "/data/one/three", "/elsewhere/x"):
        named = Secrets(environ).by_name(path)
        assert by_value(named, environ) == path
    assert Secrets(environ).by_name("/data/one/two/x") == "${env:B}/x"


def test_errors_that_cannot_be_changed_are_replaced() -> None:
    class Stubborn(Exception):
        def __str__(self) -> str:
            return f"cannot do {SECRET}"

    with pytest.raises(RuntimeError) as caught, Secrets({NAME: SECRET}).hiding():
        raise Stubborn from OSError(2, "no such file", f"/data/{SECRET}")
    assert not [text for text in texts_of(caught.value) if SECRET in text]
    assert str(caught.value) == f"Stubborn: cannot do {BY_NAME}"
