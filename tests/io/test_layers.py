"""Layer maps of every family: of models that transformers makes, and of names as files have them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from io_layouts import (
    ATTENTION,
    CONVOLUTION,
    RECORDED,
    TRANSFORMERS,
    blocks,
    expected_places,
    header_only,
    shapes_of,
    stages,
)
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline import api
from lines_pipeline.core.errors import CheckpointError, PlanError, RecipeError

pytestmark = pytest.mark.usefixtures("shared_store")


def inspected(names: Iterable[str] | Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """What ``inspect --headers`` tells of tensors by these names."""
    shapes = names if isinstance(names, Mapping) else dict.fromkeys(names, (2, 2))
    return api.inspect(header_only(Path("model.safetensors"), shapes), headers=True)


def blocks_of(report: Mapping[str, Any]) -> dict[str, str]:
    """Tower and index (``visual 3``) by tensor name, empty for what is in no block."""
    return {row["name"]: row["block"] for row in report["tensors"]}


def expected_blocks(names: Iterable[str], towers: Mapping[str, str]) -> dict[str, str]:
    """The same by independent patterns."""
    names = list(names)
    places = expected_places(names, towers)
    return {name: "{} {}".format(*places[name]) if name in places else "" for name in names}


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_models_of_transformers(kind: str) -> None:
    settings, towers = TRANSFORMERS[kind]
    shapes = shapes_of(kind, **settings)
    assert blocks_of(inspected(shapes)) == expected_blocks(shapes, towers)


@pytest.mark.parametrize("layout", RECORDED)
def test_layouts_of_files(layout: str) -> None:
    names, depths = RECORDED[layout]
    report = inspected(names)
    assert report["depths"] == depths
    used = {block for block in blocks_of(report).values() if block}
    assert used == {f"{tower} {index}" for tower, depth in depths.items() for index in range(depth)}


@pytest.mark.parametrize(
    ("layout", "name", "block"),
    [
        ("ResNet", "layer2.0.conv1.weight", "stages 3"),
        ("ResNet", "layer4.2.bn2.weight", "stages 15"),
        ("ResNet", "layer2.0.downsample.0.weight", "stages 3"),
        ("ResNet", "fc.weight", ""),
        ("timm ConvNeXt", "stages.1.downsample.0.weight", ""),
        ("timm ViT, chunked", "blocks.1.5.attn.qkv.weight", "blocks 5"),
        ("T5", "decoder.block.1.layer.0.SelfAttention.q.weight", "decoder 1"),
        ("experts", "model.layers.2.block_sparse_moe.experts.7.w1.weight", "layers 2"),
        ("SegFormer", "segformer.encoder.patch_embeddings.1.proj.weight", ""),
        ("Stable Diffusion", "model.diffusion_model.input_blocks.0.1.norm.weight", "unet 0"),
        ("Stable Diffusion", "model.diffusion_model.middle_block.1.in_layers.0.weight", "unet 12"),
        ("Stable Diffusion", "model.diffusion_model.output_blocks.11.1.norm.weight", "unet 24"),
        ("diffusers UNet", "mid_block.resnets.0.conv1.weight", "unet 4"),
        ("FLUX", "single_blocks.0.mlp.fc1.weight", "blocks 19"),
    ],
)
def test_blocks_in_the_order_of_the_forward_pass(layout: str, name: str, block: str) -> None:
    assert blocks_of(inspected(RECORDED[layout][0]))[name] == block


def test_the_decoder_of_an_autoencoder_takes_its_stages_backwards() -> None:
    blocks_found = blocks_of(inspected(stages("first_stage_model.decoder.up.{}.block.{}", [3, 3, 3, 3])))
    assert blocks_found["first_stage_model.decoder.up.3.block.0.conv1.weight"].endswith(" 0")
    assert blocks_found["first_stage_model.decoder.up.0.block.2.conv1.weight"].endswith(" 11")


def test_norms_that_are_listed_beside_the_blocks_belong_to_them() -> None:
    names = [*blocks("attentions.", 3), *blocks("ffns.", 3), *blocks("layer_norm1.", 3, ("weight", "bias"))]
    assert blocks_of(inspected(names))["layer_norm1.2.bias"] == "attentions 2"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.weight", "b.weight"], "no blocks found"),
        (["net.0.weight", "net.2.weight", "net.4.weight"], "no blocks found.*'net.N'"),
        (["h.0.w"], "one block, LiNeS needs at least two"),
        ([f"heads.{i}.layers.{j}.weight" for i in (0, 1, 2) for j in (0, 1)], r"no blocks found.*'heads\.N'"),
        ([f"parts.{i}.layers.0.{part}" for i in (0, 1, 2) for part in ATTENTION[:1]], "no blocks found"),
        (
            stages("Stem.stages.{}.blocks.{}", [2, 3])[:-8] + blocks("Stem.stages.1.blocks.", 3, CONVOLUTION)[-4:],
            r"stages.1.blocks.N: blocks \[1\]",
        ),
        (["h.0.w", "h.2.w"], r"h.N: blocks \[1\] have no tensors"),
        (blocks("layers.1", 2), r"layers.N: blocks \[0 to 9\] have no tensors"),
        *(
            (blocks("encoder.albert_layer_groups.0.albert_layers.", n), "groups.*one block that all layers share")
            for n in (1, 2)
        ),
    ],
)
def test_why_there_is_no_map(names: list[str], message: str) -> None:
    report = inspected(names)
    assert report["depths"] == {} and re.search(message, report["problem"])


def test_a_large_number_in_a_name_costs_nothing() -> None:
    started = time.perf_counter()
    report = inspected([*blocks("layers.", 2), "layers.30000000.attn.qkv.weight"])
    assert "blocks [2 to 29999999]" in report["problem"]
    assert "problem" in inspected([*blocks("layers.1", 2), f"layers.{'9' * 5000}.attn.qkv.weight"])
    assert time.perf_counter() - started < 5


def merge(folder: Path, base: Mapping[str, torch.Tensor], **lines: Any) -> Path:
    """A recipe that adds one to every tensor of ``base``, scaled from 0.25 in the first block to 1.25 in the last."""
    save_file(dict(base), folder / "base.safetensors")
    save_file({name: value + 1 for name, value in base.items()}, folder / "expert.safetensors")
    load = {"op": "load", "path": "base.safetensors", **lines.pop("load", {})}
    nodes = {
        "base": load,
        "expert": {**load, "path": "expert.safetensors"},
        "update": {"op": "task-vector", "model": "expert", "base": "base", **lines.pop("update", {})},
        "scaled": {"op": "lines-scale", "delta": "update", "alpha": 0.25, "beta": 1.0, **lines},
        "model": {"op": "apply", "base": "base", "delta": "scaled"},
        "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
    }
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"name": "layers", "nodes": nodes}))
    return recipe


def zeros(names: Iterable[str], **sizes: int) -> dict[str, torch.Tensor]:
    """A tensor of zeros by every name, of four values or of those that ``sizes`` gives for its first word."""
    return {name: torch.zeros(sizes.get(name.split(".")[0], 4)) for name in names}


def depths_of(recipe: Path) -> Mapping[str, int]:
    """Return how many blocks each tower of the explained step has."""
    layers = lines_pipeline.plan(recipe).explained[0].layers
    assert layers is not None
    return layers.depths


def scales(recipe: Path) -> dict[str, float]:
    """By what every tensor was scaled in a run."""
    lines_pipeline.run(recipe, out="out")
    return {name: float(value.mean()) for name, value in load_file("out/model.safetensors").items()}


@pytest.mark.parametrize(("encoder", "decoder"), [(3, 3), (6, 2), (2, 5)])
def test_encoder_and_decoder_each_have_their_own_depth(tmp_path: Path, encoder: int, decoder: int) -> None:
    names = [*blocks("model.encoder.layers.", encoder), *blocks("model.decoder.layers.", decoder), "model.norm.weight"]
    factors = scales(merge(tmp_path, zeros(names)))
    assert factors["model.norm.weight"] == 0.25
    for stack, depth in (("encoder", encoder), ("decoder", decoder)):
        for index in range(depth):
            expected = pytest.approx(0.25 + index / (depth - 1))
            assert factors[f"model.{stack}.layers.{index}.mlp.fc1.weight"] == expected


def test_what_is_in_no_tower_is_told_everywhere(tmp_path: Path) -> None:
    names = [*blocks("encoder.layers.", 9), *blocks("feature_extractor.conv_layers.", 3, ("conv.weight",))]
    recipe = merge(tmp_path, zeros(names))
    message = (
        "'feature_extractor.conv_layers.N' is in no tower (convolutions before, between or after the blocks): 7.7%"
    )
    plan = lines_pipeline.plan(recipe)
    assert (
        any(message in warning for warning in plan.warnings) and f"warning: node 'scaled': {message}" in plan.render()
    )
    assert any(message in warning for warning in lines_pipeline.validate(recipe).warnings)
    assert any(note.startswith("warning: ") and message in note for note in lines_pipeline.run(recipe, out="o").notes)
    (stack,) = api.inspect(tmp_path / "base.safetensors")["in_no_tower"]
    assert stack["stack"] == "feature_extractor.conv_layers.N" and stack["share"] == 0.0769
    assert "encoder: 9 blocks, 92.3% of the parameters, encoder.layers.N" in plan.render()


HEADS = [*blocks("encoder.layer.", 4), *blocks("heads.", 3, ("weight",))]
"""Stacks of which the heads are 15.8 % of the parameters."""


def test_a_tenth_outside_every_tower_is_an_error(tmp_path: Path) -> None:
    recipe = merge(tmp_path, zeros(HEADS))
    with pytest.raises(PlanError, match=r"node 'scaled'.*15.8%.*'heads.N'.*'blocks'"):
        lines_pipeline.validate(recipe)
    with pytest.raises(PlanError, match=r"heads\.N"):
        lines_pipeline.run(recipe, out="out")
    assert not Path("out").exists()


def test_a_tenth_is_no_error_where_blocks_are_given_or_the_rest_is_not_scaled(tmp_path: Path) -> None:
    recipe = merge(tmp_path, zeros(HEADS), blocks=r"layer\.(\d+)\.")
    assert any("'heads.N'" in warning for warning in lines_pipeline.validate(recipe).warnings)
    assert lines_pipeline.validate(merge(tmp_path, zeros(HEADS), update={"exclude": ["heads.*"]})).warnings == ()


def test_a_block_that_is_dropped_is_an_error(tmp_path: Path) -> None:
    names = [name for name in blocks("model.layers.", 5) if not name.startswith("model.layers.3.")]
    with pytest.raises(PlanError, match=r"model.layers.N: blocks \[3\] have no tensors"):
        lines_pipeline.validate(merge(tmp_path, zeros(names)))


def test_a_list_of_patterns_is_a_tower_each(tmp_path: Path) -> None:
    names = [*blocks("first.stack_", 2), *blocks("second.stack_", 3), "rest.weight"]
    recipe = merge(tmp_path, zeros(names), blocks=[r"first\.stack_(\d+)", r"stack_(\d+)"])
    assert depths_of(recipe) == {"blocks 1": 2, "blocks 2": 3}
    factors = scales(recipe)
    assert factors["first.stack_1.mlp.fc1.weight"] == 1.25 and factors["second.stack_1.mlp.fc1.weight"] == 0.75
    assert factors["rest.weight"] == 0.25


@pytest.mark.parametrize(
    ("names", "pattern", "depths"),
    [
        (stages("stages.{}.odd.{}", [2, 3]), r"stages\.(\d+)\.odd\.(\d+)\.", {"blocks": 5}),
        (RECORDED["T5"][0], r"(encoder|decoder)\.block\.(\d+)\.", {"encoder": 3, "decoder": 2}),
        (blocks("net.stack_", 3), r"stack_(\d+)", {"blocks": 3}),
    ],
)
def test_groups_of_a_pattern(tmp_path: Path, names: list[str], pattern: str, depths: dict[str, int]) -> None:
    assert depths_of(merge(tmp_path, zeros(names), blocks=pattern)) == depths


SLOW = r"(?:x|xx)+$(\d)"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(a)\.", "not a number"),
        (r"q(\d)", "no tensor name matches"),
        (r"layers\.(0)\.", "one block, LiNeS needs at least two"),
        (r"layers\.([02])\.", r"blocks \[1\] of tower 'blocks'"),
        (SLOW, "takes too long"),
    ],
)
def test_patterns_that_give_no_blocks(tmp_path: Path, pattern: str, message: str) -> None:
    names = [*blocks("data.layers.", 3), f"{'x' * 60}.weight"]
    started = time.perf_counter()
    with pytest.raises(PlanError, match=rf"node 'scaled'.*{message}"):
        lines_pipeline.validate(merge(tmp_path, zeros(names), blocks=pattern))
    assert time.perf_counter() - started < 30


@pytest.mark.parametrize(
    ("key", "value", "place", "message"),
    [
        ("blocks", "([", "blocks", "expected a regular expression"),
        ("blocks", [r"a(\d)", "b"], "blocks", "expected a group for the block's index"),
        ("rename", [{"from": "(", "to": ""}], "rename", "expected a regular expression"),
        ("rename", [{"from": "a", "to": r"\9"}], "rename", "expected a replacement.*invalid group reference"),
        ("rename", [{"from": "a", "to": r"\g<b>"}], "rename", "expected a replacement.*unknown group name"),
        ("rename", [{"from": "a", "to": r"\q"}], "rename", r"expected a replacement.*bad escape \\q"),
        ("rename", [{"from": "a", "to": "\\"}], "rename", "expected a replacement.*bad escape"),
    ],
)
def test_bad_expressions_are_told_with_their_place(
    tmp_path: Path, key: str, value: Any, place: str, message: str
) -> None:
    wrong = {"load": {key: value}} if key == "rename" else {key: value}
    with pytest.raises(RecipeError, match=rf"recipe.yaml:\d+:\d+: node '\w+': '{place}': {message}") as caught:
        lines_pipeline.validate(merge(tmp_path, zeros(blocks("layers.", 2)), **wrong))
    assert "internal" not in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"from": ".*", "to": ""}, "empty name"),
        ({"from": r"\d", "to": "0"}, "would have the same name 'layers.0"),
        ({"from": "(x|xx)+$", "to": "y"}, "takes too long"),
    ],
)
def test_renaming_that_cannot_be(tmp_path: Path, rule: dict[str, str], message: str) -> None:
    names = [*blocks("layers.", 2), f"{'x' * 60}.weight"] if "takes" in message else blocks("layers.", 2)
    started = time.perf_counter()
    with pytest.raises(CheckpointError, match=rf"recipe.yaml.*rename: .*{message}"):
        lines_pipeline.validate(merge(tmp_path, zeros(names), load={"rename": [rule]}))
    assert time.perf_counter() - started < 30


def test_renaming_means_what_re_means(tmp_path: Path) -> None:
    names = ["layers.0.a{e<=1}.w", "layers.1.a{e<=1}.w"]
    rules = [{"from": r"a{e<=1}", "to": "b"}, {"from": r"(layers)\.(?P<n>\d)", "to": r"model.\1.\g<n>"}]
    recipe = merge(tmp_path, zeros(names), load={"rename": rules})
    assert set(scales(recipe)) == {"model.layers.0.b.w", "model.layers.1.b.w"}


@pytest.mark.slow
def test_a_hundred_thousand_tensors_with_a_prefix(tmp_path: Path) -> None:
    names = [f"module.layers.{index // 1000}.experts.{index % 1000}.w" for index in range(100_000)]
    header_only(tmp_path / "many.safetensors", dict.fromkeys(names, (1,)))
    nodes = {
        "model": {"op": "load", "path": "many.safetensors", "prefix": {"strip": "module."}},
        "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"name": "many", "nodes": nodes}))
    started = time.process_time()
    lines_pipeline.validate(tmp_path / "recipe.yaml")
    assert time.process_time() - started < 60  # in time that grows with the square, over 120 seconds


def test_headers_alone_are_read_of_a_file_larger_than_the_disk(tmp_path: Path) -> None:
    shapes = {f"model.layers.{i}.{part}": (8192, 28672) for i in range(80) for part in ATTENTION}
    started = time.perf_counter()
    report = api.inspect(header_only(tmp_path / "huge.safetensors", shapes), headers=True)
    assert report["bytes"] == 2 * 8192 * 28672 * 320 and report["depths"] == {"layers": 80}
    assert all("norm" not in row for row in report["tensors"])
    assert time.perf_counter() - started < 10


def test_names_cannot_steer_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lines_pipeline.cli.render import show_checkpoint

    shapes = dict.fromkeys(
        ["layers.0.\x1b[2Ja.w", "layers.1.\x1b[2Ja.w", "\x1b]0;title\x07.h.0.a.w", "\x1b]0;title\x07.h.1.a.w"], (2,)
    )
    show_checkpoint(api.inspect(header_only(tmp_path / "model.safetensors", shapes), headers=True))
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "\x07" not in printed and r"\x1b[2Ja" in printed


def test_shares_count_tied_and_integer_tensors_out(tmp_path: Path) -> None:
    state = {**zeros(blocks("layers.", 2)), "steps": torch.zeros(1000, dtype=torch.int64)}
    save_file(state, tmp_path / "model.safetensors")
    assert api.inspect(tmp_path / "model.safetensors")["shares"] == {"layers": 1.0}
