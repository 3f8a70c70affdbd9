"""Files of checkpoints that are damaged or hostile: said before the first stage, with the cure."""

import json
import os
import re
import struct
import sys
import tracemalloc

import pytest
import torch
from damaged import edited, fetch
from safetensors.torch import load_file, save_file

from pipeline.errors import CheckpointError
from pipeline.spec import PIPELINE_TYPES
from pipeline.weights.headers import LARGEST_HEADER, header_text, read_header

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 948000000\n"


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
    # not "delete it": it may be the picture that was to be made an object of
    "picture": (
        lambda path, data: path.write_bytes(b"\x89PNG\r\n" + data),
        r"is a PNG picture; safetensors is read.*Take",
    ),
    "mesh": (lambda path, data: path.write_bytes(b"glTF\2\0\0\0" + data), r"is a GLB; safetensors is read.*Take"),
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
