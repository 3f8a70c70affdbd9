"""Model folders hold whatever people put there: a listing of checkpoints neither fails, nor hangs, nor keeps it."""

import asyncio
import json
import logging
import os
import shutil
import struct
import sys
import threading
import time
import tracemalloc
from types import ModuleType, SimpleNamespace

import pytest
import torch
from bundles import PREFIXES, bundle
from host_stub import PACK, stubbed_nodes
from safetensors.torch import load_file, save_file

FLOWS, DECODERS = list(PREFIXES)[:4], list(PREFIXES)[4:]


@pytest.fixture
def host(tmp_path, monkeypatch):
    """The pack under a stub of ComfyUI with model folders of its own: (folders, scan, models/)."""
    from huggingface_hub import constants

    stubbed_nodes()
    folders, scan = (sys.modules[f"{PACK}.nodes.host.{name}"] for name in ("folders", "scan"))
    models = tmp_path / "models"
    for kind in ("trellis2", "diffusion_models", "vae", "clip_vision"):
        (models / kind).mkdir(parents=True)

    def full_path(kind, name):
        path = models / kind / name
        return str(path) if path.is_file() else None

    paths = SimpleNamespace(get_folder_paths=lambda kind: [str(models / kind)], get_full_path=full_path)
    monkeypatch.setattr(folders, "folder_paths", paths)
    monkeypatch.setattr(scan, "folder_paths", paths)
    monkeypatch.setattr(scan, "_scanner", scan._Scanner())
    monkeypatch.setattr(scan, "_FRESH", 0.0)
    monkeypatch.setattr(scan.found, "__defaults__", (0.0,))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return SimpleNamespace(folders=folders, scan=scan, models=models)


@pytest.fixture
def filled(host, checkpoint):
    """One checkpoint of each layout."""
    shutil.copytree(checkpoint, host.models / "trellis2" / "own")
    bundle(checkpoint, host.models / "diffusion_models" / "flows.safetensors", FLOWS, torch.bfloat16, "model.")
    bundle(checkpoint, host.models / "vae" / "shape.safetensors", DECODERS[:2])
    bundle(checkpoint, host.models / "vae" / "texture.safetensors", DECODERS[2:])
    save_file({"unrelated": torch.zeros(3)}, host.models / "vae" / "unrelated.safetensors")
    weights = load_file(checkpoint / "image_encoder" / "model.safetensors")
    save_file(weights, host.models / "clip_vision" / "dino.safetensors")
    return host


def spoil(models):
    """What has been seen under model folders, and what could be."""
    for kind in ("trellis2", "diffusion_models", "vae", "clip_vision"):
        folder = models / kind
        (folder / "gone.safetensors").symlink_to("nothing")
        (folder / "goner").symlink_to(folder / "nowhere", target_is_directory=True)
        for name in ("one", "two", "three"):
            (folder / name).symlink_to(folder, target_is_directory=True)
        (folder / "self").symlink_to("self")
        if hasattr(os, "mkfifo"):
            os.mkfifo(folder / "pipe.safetensors")
        (folder / "text.safetensors").write_text("not a model")
        (folder / "empty.safetensors").write_bytes(b"")
        (folder / "pointer.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 5\n")
        (folder / "deep.safetensors").write_bytes(struct.pack("<Q", 100_000) + b"{" * 100_000)
        (folder / "folder.safetensors").mkdir()
    broken = models / "trellis2" / "broken"
    for name, content in {
        "pointer": b"version https://git-lfs.github.com/spec/v1\n",
        "noise": b"\xff",
        "huge": b"",
    }.items():
        (broken / name).mkdir(parents=True)
        (broken / name / "pipeline.json").write_bytes(content)
    os.truncate(broken / "huge" / "pipeline.json", 1 << 24)
    (broken / "pipe").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(broken / "pipe" / "pipeline.json")


LISTED = {
    "small (comes with the pack)",
    "trellis2/own",
    "diffusion_models/flows.safetensors",
    "microsoft/TRELLIS.2-4B",
}


def test_what_is_there_is_listed(filled):
    assert set(filled.folders.checkpoints()) == LISTED
    assert filled.folders.decoder_bundles() == ["shape.safetensors", "texture.safetensors"]
    assert filled.folders.image_encoders() == ["dino.safetensors"]


def test_no_file_on_the_disk_stops_a_listing(filled, caplog):
    """Nor does one of them hang it, or show a checkpoint twice; what is left out is said, once."""
    spoil(filled.models)
    start = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert set(filled.folders.checkpoints()) == LISTED
        assert filled.folders.decoder_bundles() == ["shape.safetensors", "texture.safetensors"]
        assert filled.folders.image_encoders() == ["dino.safetensors"]
    assert time.monotonic() - start < 10
    (said,) = [record.getMessage() for record in caplog.records]
    assert "a link to nothing" in said and "more" in said and len(said) < 3000
    for node in stubbed_nodes():
        node.define_schema()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_unreadable_files_are_left_out(filled):
    for path in (filled.models / "trellis2" / "own" / "pipeline.json", filled.models / "vae" / "shape.safetensors"):
        path.chmod(0)
    (filled.models / "clip_vision").chmod(0)
    assert "trellis2/own" not in filled.folders.checkpoints()
    assert filled.folders.decoder_bundles() == ["texture.safetensors"] and filled.folders.image_encoders() == []
    (filled.models / "clip_vision").chmod(0o700)


def large(path, size, key="blocks.0.weight"):
    """A safetensors file with a header of about so many bytes and no data."""
    entries = {f"{key}.{number:0100}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(3)}
    entries["__metadata__"] = {"notes": "x" * size}
    text = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def test_headers_are_not_kept(filled):
    """300 files with headers of 300 kB: 90 MB that were kept for as long as ComfyUI ran."""
    for number in range(300):
        large(filled.models / "diffusion_models" / f"{number}.safetensors", 300_000)
    filled.scan.found()  # what is imported on the way does not count
    filled.scan._scanner._roles.clear()
    tracemalloc.start()
    assert set(filled.folders.checkpoints()) == LISTED
    total, peak = tracemalloc.get_traced_memory()
    # pathlib interns names, and Python's table of them may double at this very moment
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, "*pathlib*")])
    tracemalloc.stop()
    kept = sum(each.size for each in snapshot.statistics("filename"))
    assert kept < 1e6 and peak - total + kept < 5e6


def test_a_listing_reads_so_many_bytes_and_the_next_one_goes_on(filled, monkeypatch, caplog):
    """Files called like ours come first; unchanged files are not read again."""
    read = []
    original = filled.scan.header_text
    monkeypatch.setattr(filled.scan, "header_text", lambda path: (read.append(path.name), original(path))[1])
    monkeypatch.setattr(filled.scan, "_BUDGET", 1_000_000)
    for number in range(30):
        large(filled.models / "diffusion_models" / f"{number}.safetensors", 200_000)
    large(filled.models / "vae" / "zz_trellis.safetensors", 1000, "shape_dec.blocks")
    with caplog.at_level(logging.WARNING):
        assert "zz_trellis.safetensors" in filled.folders.decoder_bundles()
    assert read[0] == "zz_trellis.safetensors" and 5 <= len(read) <= 20
    assert "too many large headers; the next listing reads on" in caplog.text
    for _ in range(10):
        filled.scan.found()
    assert len(read) == 30 + 1 + 9 + 5  # all, each once
    assert set(filled.folders.checkpoints()) == LISTED


def test_a_choice_opens_what_it_names(filled, checkpoint):
    """The decoders come from both VAE files, the image encoder from clip_vision."""
    opened = filled.folders.open_choice("diffusion_models/flows.safetensors")
    assert set(opened.roles) == {*PREFIXES.values(), "image_encoder"}
    assert opened.files("image_encoder").path.name == "dino.safetensors"
    assert opened.files("tex_slat_decoder").path.name == "texture.safetensors"
    assert filled.folders.open_choice("trellis2/own").name == "own"
    errors = sys.modules[f"{PACK}.pipeline.errors"]
    with pytest.raises(errors.CheckpointError, match=r"There is no file x\.safetensors in models/vae"):
        filled.folders.open_choice("trellis2/own", "x.safetensors")


def test_a_linked_choice_is_not_judged_before_it_is_known(filled):
    """ComfyUI hands None to validation and fingerprints for an input that another node fills."""
    assert filled.folders.why_not(None) == "" and filled.folders.fingerprint(None, None, None) == ""
    assert "There is no checkpoint 'trellis2/absent'" in filled.folders.why_not("trellis2/absent")


def test_a_fingerprint_sees_changes_and_survives_the_rest(filled):
    before = filled.folders.fingerprint("trellis2/own", "automatic", "as the checkpoint says")
    own = filled.models / "trellis2" / "own"
    (own / "gone.json").symlink_to("nothing")
    (own / "loop").symlink_to(own, target_is_directory=True)
    assert filled.folders.fingerprint("trellis2/own", "automatic", "as the checkpoint says") == before
    os.utime(own / "ckpts" / "tex_slat_decoder.json", ns=(1, 1))
    assert filled.folders.fingerprint("trellis2/own", "automatic", "as the checkpoint says") != before


@pytest.fixture
def health(filled, monkeypatch):
    """The module of the health route, under a stub of the server."""
    server, aiohttp = ModuleType("server"), ModuleType("aiohttp")
    server.PromptServer, aiohttp.web = (
        SimpleNamespace(),
        SimpleNamespace(json_response=json.dumps, Request=None, Response=None),
    )
    management = ModuleType("comfy.model_management")
    management.get_torch_device = lambda: torch.device("cpu")
    management.get_torch_device_name = str
    management.get_free_memory = management.get_total_memory = lambda device: 1
    comfy = ModuleType("comfy")
    comfy.model_management = management
    fakes = {"server": server, "aiohttp": aiohttp, "comfy": comfy, "comfy.model_management": management}
    for name, module in fakes.items():
        monkeypatch.setitem(sys.modules, name, module)
    from importlib import import_module

    before = set(sys.modules)
    yield import_module(f"{PACK}.nodes.host.health")
    for name in set(sys.modules) - before:  # all that has seen the fakes, so that later tests import it anew
        if name.startswith(f"{PACK}."):
            package, _, child = name.rpartition(".")
            del sys.modules[name]
            if hasattr(sys.modules.get(package), child):
                delattr(sys.modules[package], child)


def test_the_health_report_has_names_alone(health, filled):
    report = asyncio.run(health.report())
    assert set(report["checkpoints"]) == LISTED
    assert str(filled.models) not in json.dumps(report) and "/" not in "".join(report["checkpoints"].values())


def test_the_health_report_leaves_the_event_loop_alone(health, monkeypatch):
    """A slow disk must not stop what else the server does."""
    threads = []

    def slow():
        threads.append(threading.current_thread())
        time.sleep(0.3)
        return {}

    monkeypatch.setattr(health.folders, "checkpoints", slow)

    async def beside():
        beats = 0
        running = asyncio.create_task(health.report())
        while not running.done():
            await asyncio.sleep(0.01)
            beats += 1
        return beats

    assert asyncio.run(beside()) >= 5 and threads[0] is not threading.main_thread()


def test_other_packs_folders_are_listed_with_what_they_are(host):
    """Without pipeline.json too; the list says for which types each is complete, and what one lacks."""
    import test_layouts

    models = host.models
    test_layouts.v_sekai(models)
    test_layouts.int8(models)
    for path in (models / "trellis2" / "ckpts").glob("tex_dec*"):
        path.unlink()
    listed = host.folders.checkpoints()
    assert listed["trellis2"] == "a folder; complete for no type, as it lacks tex_slat_decoder"
    int8 = listed["diffusion_models/trellis_2_int8_convrot.safetensors"]
    assert int8 == "a ComfyUI bundle; int8; complete for 1024, 1024_cascade, 1536_cascade"
    assert not [name for name in listed if "pixal3d" in name]


def test_clip_vision_serves_every_layout(host):
    """A folder in the released layout whose encoder is nowhere else takes the one among the CLIP-vision models."""
    import test_layouts

    home = test_layouts.pozzetti(host.models)
    (host.models / "dinov3" / "model.safetensors").rename(host.models / "clip_vision" / "dino_v3_vit_l.safetensors")
    opened = host.folders.open_choice("trellis2")
    assert opened.files("image_encoder").path.name == "dino_v3_vit_l.safetensors" and home.name == "trellis2"


def test_one_folder_under_two_names_counts_once(host):
    """models/trellis2 and models/Trellis2 are one folder where case does not count, as a link shows here."""
    added = []
    host.folders.folder_paths.models_dir = str(host.models)
    host.folders.folder_paths.add_model_folder_path = lambda kind, path: added.append(path)
    (host.models / "Trellis2").symlink_to(host.models / "trellis2", target_is_directory=True)
    (host.models / "microsoft").mkdir()
    host.folders.register()
    assert added == [str(host.models / "trellis2"), str(host.models / "microsoft")]
