"""Checkpoints that are damaged, hostile or not of one piece: said before the first stage, with the cure."""

import json
import os
import random
import re
import shutil
import struct
import sys
import tracemalloc

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import CheckpointError
from pipeline.models import build
from pipeline.models.image_encoder import encoder_arguments
from pipeline.spec import IMAGE_ENCODER, PIPELINE_TYPES
from pipeline.weights import Models, open_checkpoint
from pipeline.weights.headers import LARGEST_HEADER, header_text, read_header

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 948000000\n"
SLICES = 24  # how much of all changes of every JSON one run of the tests tries


@pytest.fixture
def copy(checkpoint, tmp_path):
    """A copy of the checkpoint that may be damaged."""
    shutil.copytree(checkpoint, tmp_path / "copy")
    return tmp_path / "copy"


def fetch(folder, roles=()):
    """What the command line, the node and a service do before the first stage; of a 512 run by itself."""
    models = Models(open_checkpoint(folder), build)
    models.fetch(roles or PIPELINE_TYPES["512"].roles())
    return models


def edited(path, change):
    """Rewrite a JSON file through change(content)."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def raw_header(path, change):
    """Rewrite a safetensors header through change(entries), the data as it was."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    entries = json.loads(data[8 : 8 + length])
    change(entries)
    text = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


DAMAGE = {
    "missing": (lambda path, data: path.unlink(), r"does not exist\. Complete the checkpoint with `hf download`"),
    "cut off": (lambda path, data: path.write_bytes(data[: len(data) // 2]), r"truncated.* of [\d,]+ bytes\. Delete"),
    "cut off in the header": (lambda path, data: path.write_bytes(data[:99]), r"\(99 bytes\) is damaged or truncated"),
    "one byte too many": (lambda path, data: path.write_bytes(data + b"x"), r"too long, [\d,]+ of [\d,]+ bytes"),
    "git-lfs pointer": (lambda path, data: path.write_bytes(POINTER), r"git-lfs pointer .*948,000,000.*`git lfs pull`"),
    "web page": (lambda path, data: path.write_bytes(b"\n<!DOCTYPE HTML><html>"), r"is a web page.*`hf auth login`"),
    "refusal": (lambda path, data: path.write_bytes(b"Invalid username or password."), "holds the server's answer"),
    "empty": (lambda path, data: path.write_bytes(b""), r"is empty.*Delete"),
    "zeros": (lambda path, data: path.write_bytes(bytes(len(data))), r"begins with zeros: its download did not"),
    "pickle": (lambda path, data: path.write_bytes(b"PK\x03\x04" + data), "is a PyTorch checkpoint or a ZIP archive"),
    "gguf": (lambda path, data: path.write_bytes(b"GGUF" + data), r"is a GGUF file; safetensors is read"),
    "json": (lambda path, data: path.write_bytes(b'{"error": "x"}   '), r"is JSON \('\{\"error\": \"x\"\}"),
    "noise": (lambda path, data: path.write_bytes(b"\x01\x02\x03" * 999), r"no safetensors file"),
    "dangling link": (
        lambda path, data: (path.unlink(), path.symlink_to("gone")),
        r"is a link to gone, which does not",
    ),
    "pipe": (lambda path, data: (path.unlink(), os.mkfifo(path)), r"is a pipe or a device instead of a file"),
    "folder": (lambda path, data: (path.unlink(), path.mkdir()), r"is a folder instead of a file"),
    "another shape": (lambda path, data: path.write_bytes(other_shape(path)), r"has shape \[5\] instead of \[32\]"),
    "int8": (
        lambda path, data: path.write_bytes(as_int8(path)),
        r"from_latent\.bias is I8, quantised",
    ),
}


def rewritten(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return path.read_bytes()


def other_shape(path):
    return rewritten(path, lambda tensors: tensors.update({"from_latent.bias": torch.zeros(5)}))


def as_int8(path):
    return rewritten(path, lambda tensors: tensors.update({"from_latent.bias": tensors["from_latent.bias"].char()}))


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_is_named_before_anything_runs(copy, case):
    """The file of the last stage: `fetch` reads no weight, and still it is found, and said what it is."""
    if case == "pipe" and not hasattr(os, "mkfifo"):
        pytest.skip("this system has no pipes among its files")
    damage, message = DAMAGE[case]
    path = copy / "ckpts" / "tex_slat_decoder.safetensors"
    damage(path, path.read_bytes())
    with pytest.raises(CheckpointError, match=message) as caught:
        fetch(copy)
    assert path.name in str(caught.value) and len(str(caught.value)) < 1000
    fetch(copy, PIPELINE_TYPES["512"].roles(texture=False))  # what a run does not need is not asked for


def test_the_target_of_a_damaged_link_is_to_be_deleted(copy, tmp_path):
    """A cache links its files: a link alone would only be linked again."""
    path, blob = copy / "ckpts" / "tex_slat_decoder.safetensors", tmp_path / "blob"
    blob.write_bytes(path.read_bytes()[:-1])
    path.unlink()
    path.symlink_to(blob)
    with pytest.raises(CheckpointError, match=re.escape(f"Delete {blob} and")):
        fetch(copy)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pipeline.json", POINTER, "is a git-lfs pointer"),
        ("ckpts/tex_slat_decoder.json", b"<html></html>", "is a web page instead of JSON"),
        ("ckpts/tex_slat_decoder.json", b"[" * 100_000, "is nested too deeply|cannot be read as JSON"),
        ("ckpts/tex_slat_decoder.json", b"[1]", "holds a list instead of a JSON object"),
        ("ckpts/tex_slat_decoder.json", b'{"x": NaN}', "NaN is no number of JSON"),
        ("ckpts/tex_slat_decoder.json", b'{"x": ' + b"9" * 9999 + b"}", "cannot be read as JSON"),
        ("ckpts/tex_slat_decoder.json", b"\xff\xfe{}", "cannot be read as JSON"),
        ("image_encoder/config.json", b" " * (2 << 20), "has 2,097,152 bytes; up to 1,048,576 are read"),
    ],
)
def test_a_damaged_json_is_named(copy, name, content, message):
    (copy / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        fetch(copy)
    assert name.rpartition("/")[2] in str(caught.value)


def test_json_may_begin_with_a_mark_or_an_empty_line(copy):
    for name, start in (("pipeline.json", b"\xef\xbb\xbf"), ("ckpts/sparse_structure_decoder.json", b"\n")):
        (copy / name).write_bytes(start + (copy / name).read_bytes())
    fetch(copy)


def test_damage_here_is_said_before_anything_is_downloaded(copy, monkeypatch):
    """The image encoder, which is asked for first, is on the hub; the last network's file is here and cut off."""
    edited(
        copy / "pipeline.json",
        lambda content: content["args"]["image_cond_model"]["args"].update(model_name="facebook/dinov3"),
    )
    path = copy / "ckpts" / "tex_slat_decoder.safetensors"
    path.write_bytes(path.read_bytes()[:-1])

    def downloaded(*arguments):
        raise AssertionError("asked the hub")

    for module in ("layouts", "encoder"):
        monkeypatch.setattr(sys.modules[f"pipeline.weights.{module}"], "fetch", downloaded)
    with pytest.raises(CheckpointError, match="tex_slat_decoder.safetensors is damaged or truncated"):
        fetch(copy)


def gap(entries):
    first = min(entries, key=lambda key: entries[key]["data_offsets"])
    entries[first]["data_offsets"] = [1, entries[first]["data_offsets"][1] + 1]


HEADERS = {
    "no shape": (lambda entries: entries["from_latent.bias"].pop("shape"), "entry 'from_latent.bias' makes no sense"),
    "a number as entry": (lambda entries: entries.update(x=7), "entry 'x' makes no sense"),
    "shape and bytes differ": (lambda entries: entries["from_latent.bias"].update(shape=[31]), "makes no sense"),
    "negative": (lambda entries: entries["from_latent.bias"].update(shape=[-32]), "makes no sense"),
    "huge": (lambda entries: entries["from_latent.bias"].update(shape=[10**4000] * 8), "makes no sense"),
    "many dimensions": (lambda entries: entries["from_latent.bias"].update(shape=[1] * 99999), "makes no sense"),
    "a gap": (gap, "makes no sense|overlap or leave gaps"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_makes_no_sense(copy, case):
    change, message = HEADERS[case]
    path = copy / "ckpts" / "tex_slat_decoder.safetensors"
    raw_header(path, change)
    with pytest.raises(CheckpointError, match=message):
        read_header(path)


def test_headers_are_read_bounded(tmp_path):
    """One that is longer than any checkpoint's is not read, though the file has it."""
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", LARGEST_HEADER + 1) + b"{")
        file.truncate(LARGEST_HEADER + 9)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"header of 16,777,217 bytes; up to 16,777,216 are read"):
        header_text(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


VALUES = [
    None,
    -1,
    0,
    7,
    10**9,
    1.5,
    1e300,
    10**400,
    "x",
    "../secret/w",
    "9" * 10**5,
    [],
    [1, 2, 3],
    {},
    {"a": {}},
    True,
]
VALUES.append(json.loads("[" * 200 + "]" * 200))


def places(value, path=()):
    """The path of every value in a JSON document; of a long list its first item alone."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def put(document, path, value):
    """The document with another value there."""
    if not path:
        return value
    inner = document = json.loads(json.dumps(document))
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return document


def test_any_value_in_any_json_is_taken_or_named(copy):
    """Every entry of every JSON replaced by what does not belong there: no traceback, no hang, no long text."""
    files = [copy / "pipeline.json", copy / "image_encoder" / "config.json"]
    files += [copy / "ckpts" / f"{role}.json" for role in PIPELINE_TYPES["512"].roles()[1:]]
    cases = []
    for path in files:
        document = json.loads(path.read_text())
        cases += [(path, document, place, value) for place in places(document) for value in VALUES]
    refused = 0
    tried = random.Random(0).sample(cases, len(cases) // SLICES)
    for path, document, place, value in tried:
        path.write_text(json.dumps(put(document, place, value)))
        role = IMAGE_ENCODER if path.name == "config.json" else path.stem
        try:
            fetch(copy, [role] if role in PIPELINE_TYPES["512"].roles() else ["sparse_structure_decoder"])
        except CheckpointError as error:
            refused += 1
            assert len(str(error)) < 1200, (path, place)
        path.write_text(json.dumps(document))
    assert refused > len(tried) / 2


SIZES = {
    "blocks": ("shape_slat_flow_model_512", {"num_blocks": 10**9}, "num_blocks is 1000000000; expected .* 1-256"),
    "width": ("tex_slat_decoder", {"model_channels": [10**9] * 5}, r"model_channels\[0\] is 1000000000"),
    "levels": ("tex_slat_decoder", {"num_blocks": [1]}, "model_channels has 5 levels and num_blocks 1"),
    "neighbours": ("tex_slat_decoder", {"model_channels": [32, 12, 16, 16, 8]}, "32 and 12 are neighbours"),
    "heads": ("shape_slat_flow_model_512", {"num_heads": 5}, "model_channels 64 must be an even number for each of 5"),
    "type": ("sparse_structure_decoder", {"channels": "wide"}, "channels is 'wide'; expected a list"),
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes_have_bounds(copy, case):
    """Before anything is built from them: a thousand million blocks would never end."""
    role, args, message = SIZES[case]
    edited(copy / "ckpts" / f"{role}.json", lambda content: content["args"].update(args))
    with pytest.raises(CheckpointError, match=message):
        fetch(copy)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"attn_implementation": "someone/kernel:forward"},
            "attn_implementation is 'someone/kernel:forward'; expected",
        ),
        ({"_attn_implementation": "flash_attention_2"}, "_attn_implementation is"),
        ({"auto_map": {"AutoModel": "someone/code--x.Y"}}, "an entry 'auto_map' that is not known"),
        ({"quantization_config": {"quant_method": "x"}}, "an entry 'quantization_config' that is not known"),
        ({"hidden_act": "someone.code"}, "hidden_act is 'someone.code'; expected one of 'gelu', 'silu'"),
        ({"model_type": "clip"}, "model_type is 'clip'"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"hidden_size": 1023}, "hidden_size 1023 must be a multiple of 4 for each of 2 heads"),
        ({"patch_size": [16, 16]}, "patch_size is a list of 2 items"),
    ],
)
def test_an_encoders_config_has_known_entries_alone(copy, entry, message):
    edited(copy / "image_encoder" / "config.json", lambda content: content.update(entry))
    with pytest.raises(CheckpointError, match=message):
        fetch(copy)


def test_only_what_makes_the_network_reaches_transformers(checkpoint):
    config = json.loads((checkpoint / "image_encoder" / "config.json").read_text())
    passed = encoder_arguments({**config, "attn_implementation": "eager"})
    assert passed["hidden_size"] == 32 and not {"attn_implementation", "architectures", "id2label"} & set(passed)


PATHS = [
    "../secret/w",
    "/etc/secret/w",
    "ckpts/../../secret/w",
    "secret/../w",
    "C:/secret/w",
    "secret\\w",
    "a\0b",
    "a//b",
]


@pytest.mark.parametrize("value", PATHS)
def test_paths_of_a_checkpoint_stay_inside(copy, value):
    shutil.copytree(copy / "ckpts", copy.parent / "secret")
    for name in ("models", "image_cond_model"):
        document = json.loads((copy / "pipeline.json").read_text())
        if name == "models":
            document["args"]["models"]["tex_slat_decoder"] = value
        else:
            document["args"]["image_cond_model"]["args"]["model_name"] = value
        (copy / "pipeline.json").write_text(json.dumps(document))
        with pytest.raises(CheckpointError, match="which is no path inside the checkpoint"):
            open_checkpoint(copy)


def test_a_folder_beside_the_checkpoint_is_not_read(copy):
    """A name of three parts is another repository's; only the one that the released checkpoint names may lie beside."""
    (copy.parent / "secret").mkdir()
    for kind in ("json", "safetensors"):
        shutil.copy(copy / "ckpts" / f"tex_slat_decoder.{kind}", copy.parent / "secret" / f"w.{kind}")
    edited(copy / "pipeline.json", lambda content: content["args"]["models"].update(tex_slat_decoder="owner/secret/w"))
    source = open_checkpoint(copy).sources["tex_slat_decoder"]
    assert source.get.args[0].__self__.repo == "owner/secret"  # asked of the hub


def test_links_may_lead_out(copy, tmp_path):
    shutil.move(copy / "ckpts", tmp_path / "elsewhere")
    (copy / "ckpts").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    fetch(copy)


TOGETHER = {
    "normalisation": (
        "pipeline.json",
        lambda content: [each.append(1.0) for each in content["args"]["shape_slat_normalization"].values()],
        r"channels of the shape latent, 8 in shape_slat_flow_model_512 and 9 in shape_slat_normalization",
    ),
    "mean and std": (
        "pipeline.json",
        lambda content: content["args"]["tex_slat_normalization"]["std"].pop(),
        "mean has 8 channels and its std 7",
    ),
    "picture and patch": (
        "pipeline.json",
        lambda content: content["args"]["image_cond_model"]["args"].update(image_size=7),
        "image_size 7, which is no multiple of the image encoder's patch_size 16",
    ),
    "role": (
        "pipeline.json",
        lambda content: content["args"]["models"].update(sparse_structure_decoder="ckpts/tex_slat_decoder"),
        "JSON of sparse_structure_decoder is 'SparseUnetVaeDecoder'; expected one of 'SparseStructureDecoder'",
    ),
    "grids": (
        "ckpts/shape_slat_flow_model_512.json",
        lambda content: content["args"].update(resolution=24),
        "a structure of 64 voxels a side cannot be pooled to the 24 of shape_slat_flow_model_512",
    ),
}


@pytest.mark.parametrize("case", TOGETHER)
def test_models_of_different_checkpoints_are_named(copy, case):
    name, change, message = TOGETHER[case]
    edited(copy / name, change)
    with pytest.raises(CheckpointError, match=message):
        fetch(copy)


def test_the_width_of_the_condition_is_compared(copy, root):
    """An image encoder of another checkpoint: its tokens do not fit the flows."""
    models = Models(open_checkpoint(copy, root / "checkpoints" / "small" / "image_encoder"), build)
    with pytest.raises(
        CheckpointError, match="width of the condition, 192 in image_encoder and 32 in sparse_structure"
    ):
        models.fetch(PIPELINE_TYPES["512"].roles())
