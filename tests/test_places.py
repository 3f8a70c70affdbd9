"""Where checkpoints are: a path that is one level off, and folders that hold whatever they like."""

import json
import os
import re
import shutil
import sys

import pytest
import torch
from bundles import PREFIXES, bundle

from pipeline.errors import CheckpointError
from pipeline.models import build
from pipeline.spec import IMAGE_ENCODER, PIPELINE_TYPES
from pipeline.weights import Models, open_checkpoint
from pipeline.weights.places import walk


@pytest.fixture
def home(checkpoint, tmp_path):
    """A copy of the checkpoint, alone in a folder."""
    return shutil.copytree(checkpoint, tmp_path / "models" / "ours")


def opened(path, *more):
    """Open and check what 512 needs."""
    found = open_checkpoint(path, *more)
    found.require(PIPELINE_TYPES["512"])
    Models(found, build).fetch(PIPELINE_TYPES["512"].roles())
    return found


@pytest.mark.parametrize(
    "where",
    [
        "ours/pipeline.json",
        ".",
        "ours/ckpts",
        "ours/ckpts/tex_slat_decoder.safetensors",
        "ours/ckpts/tex_slat_decoder.json",
        "ours/image_encoder",
        "ours/image_encoder/model.safetensors",
        "ours/image_encoder/config.json",
    ],
)
def test_a_checkpoint_named_one_level_off(home, where):
    assert opened(home.parent / where).name == "ours"


def test_a_folder_of_the_hubs_cache(home, tmp_path):
    snapshot = tmp_path / "models--acme--ours" / "snapshots" / "0123"
    shutil.move(home, snapshot)
    assert opened(tmp_path / "models--acme--ours").name == "0123"


def test_each_network_in_a_folder_of_its_own(home):
    for file in sorted((home / "ckpts").glob("*.json")):
        (home / "ckpts" / file.stem).mkdir()
        for kind in (".json", ".safetensors"):
            shutil.move(file.with_suffix(kind), home / "ckpts" / file.stem)
    opened(home)


def test_several_checkpoints_are_listed(home):
    other = shutil.copytree(home, home.parent / "other")
    with pytest.raises(CheckpointError, match=re.escape(f"holds several checkpoints: {other}, {home}. Name one")):
        open_checkpoint(home.parent)
    bundle(home, home.parent / "x.safetensors", ["img2shape."])
    shutil.rmtree(other)
    with pytest.raises(CheckpointError, match=r"holds several checkpoints: .*ours, .*x\.safetensors"):
        open_checkpoint(home.parent)


def test_a_bundle_inside_a_checkpoints_folder_is_the_bundle(home):
    bundle(home, home / "flows.safetensors", ["img2shape.", "structure_model."])
    assert open_checkpoint(home / "flows.safetensors").name == "flows.safetensors"
    assert opened(home).name == "ours"


def test_the_first_trellis_is_no_checkpoint_of_ours(home):
    content = json.loads((home / "pipeline.json").read_text())
    for name in ("shape_slat_sampler", "tex_slat_sampler"):
        content["args"].pop(name)
    (home / "pipeline.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="not in the TRELLIS.2 layout: args lacks shape_slat_sampler, tex_slat"):
        open_checkpoint(home)
    shutil.rmtree(home / "image_encoder")
    with pytest.raises(CheckpointError, match=r"holds neither pipeline\.json .* nor a ComfyUI bundle"):
        open_checkpoint(home.parent)
    with pytest.raises(CheckpointError, match=r"is no ComfyUI bundle .* name the folder above that holds pipeline"):
        open_checkpoint(home / "ckpts" / "tex_slat_decoder.safetensors")


def test_nothing_healthy_is_to_be_deleted(home, tmp_path):
    (tmp_path / "notes.txt").write_text("about checkpoints")
    shutil.copytree(home / "ckpts", tmp_path / "ckpts")
    names = ["notes.txt", "ckpts", "ckpts/tex_slat_decoder.json", "ckpts/tex_slat_decoder.safetensors", "absent/x/y"]
    for name in names:
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(tmp_path / name)
        assert "Delete" not in str(caught.value), name


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "", "~/nowhere/at all"])
def test_names_that_cannot_be(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError):
        open_checkpoint(name)


@pytest.mark.parametrize("where", ["image_encoder/config.json", "image_encoder/model.safetensors", "image_encoder"])
def test_an_image_encoder_named_one_level_off(home, where):
    """Beside its config.json a file's own sizes are not guessed: shapes do not tell the number of heads."""
    found = opened(home, home / where)
    config = json.loads((home / "image_encoder" / "config.json").read_text())
    assert found.files(IMAGE_ENCODER).config["args"]["num_attention_heads"] == config["num_attention_heads"]


def test_bundles_as_comfyui_writes_them(home, tmp_path):
    """Keys of the released files begin with `model.`."""
    flows, decoders = list(PREFIXES)[:4], list(PREFIXES)[4:]
    (tmp_path / "both").mkdir()
    bundle(home, tmp_path / "both" / "flows.safetensors", flows, torch.bfloat16, "model.")
    bundle(home, tmp_path / "both" / "vae.safetensors", decoders, torch.bfloat16)
    models = Models(open_checkpoint(tmp_path / "both"), build)
    assert set(models.checkpoint.roles) == {*PREFIXES.values(), IMAGE_ENCODER}
    with pytest.raises(CheckpointError, match="the shape latent, 8 in .* and 32 in shape_slat_normalization"):
        models.fetch(["shape_slat_flow_model_512"])  # the tiny models under the released normalisation


def linked(folder):
    """Links to the folder itself, to one above, to each other, to nothing; what may not be read; a pipe."""
    folder.mkdir()
    (folder / "a").mkdir()
    for name in ("one", "two", "three"):
        (folder / name).symlink_to(folder, target_is_directory=True)
        (folder / "a" / name).symlink_to(folder, target_is_directory=True)
    (folder / "gone.safetensors").symlink_to("nothing")
    (folder / "self").symlink_to("self")
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.safetensors")
    (folder / "a" / "model.safetensors").write_bytes(b"x")


def test_walking_ends_whatever_is_there(tmp_path):
    """Six links to a folder above would be followed 6^40 times."""
    linked(tmp_path / "folder")
    problems = {}
    files = list(walk(tmp_path / "folder", lambda path, why: problems.setdefault(path.name, why)))
    assert files == [tmp_path / "folder" / "a" / "model.safetensors"]
    assert problems["one"] == "a link to a folder above it" and problems["gone.safetensors"] == "a link to nothing"
    assert "self" in problems and not list(walk(tmp_path / "absent"))


def test_walking_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[walk.__module__], "_MOST", 10)
    for number in range(30):
        (tmp_path / f"{number:02}").write_text("")
    problems = []
    assert len(list(walk(tmp_path, lambda path, why: problems.append(why)))) == 10
    assert problems == ["more than 10 entries; the rest is not searched"]


def test_links_to_folders_elsewhere_are_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x").write_text("")
    (tmp_path / "folder").mkdir()
    for name in ("a", "b"):
        (tmp_path / "folder" / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert [path.parent.name for path in walk(tmp_path / "folder")] == ["a", "b"]
