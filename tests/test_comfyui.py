"""The pack inside a real ComfyUI, which COMFYUI_PATH names: its interface, its graphs and what they give."""

import io
import json
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import trimesh
from comfy_server import GRAPHS, ROOT, api, facts, graph, needs, needs_comfyui
from comfyui_graphs import node, quick
from host_stub import served
from PIL import Image

from pipeline.mesh.query.winding_number import winding_numbers

pytestmark = needs_comfyui
INTERFACE = json.loads((ROOT / "tests" / "interface.json").read_text(encoding="utf-8"))


def test_the_nodes_are_served_as_promised(server):
    info = server.get("/object_info")
    ours = {name: info[name] for name in info if name.startswith("T2")}
    assert {name: served(ours[name]) for name in ours} == INTERFACE
    for name, promised in ours.items():  # editor graphs hold values in this order
        inputs = INTERFACE[name]["inputs"]
        order = [each for kind in ("required", "optional") for each in promised["input_order"].get(kind, ())]
        assert order == sorted(inputs, key=lambda each: inputs[each]["optional"])
    assert "OtherNode" in info and "IMPORT FAILED" not in server.said()


def test_the_search_finds_nodes_by_other_words(server):
    info = server.get("/object_info")
    if "search_aliases" not in info["LoadImage"]:
        pytest.skip("this ComfyUI has no aliases")
    assert all(info[name]["search_aliases"] for name in info if name.startswith("T2"))
    assert "image to 3d" in info["T2ImageToGLB"]["search_aliases"]


def test_nodes_tell_what_they_made(server):
    """As text that the editor shows on them, also when all comes from the cache."""
    server.forget()
    for _ in range(2):
        made = server.run(graph("geometry_only"))
        faces = f"{facts(made.glbs[0])['faces']:,} faces"
        (file,) = made.outputs["9"]["3d"]
        assert made.outputs["9"]["text"][0].startswith(f"{file['subfolder']}/{file['filename']}, ")
        assert faces in made.outputs["9"]["text"][0]
    server.forget()
    assert server.run(graph("geometry_only")).outputs["8"]["text"][0].startswith(faces)


def test_a_list_makes_an_object_of_each_picture(server):
    many = graph("many_pictures")
    needs(server, many)
    volumes = {facts(glb)["mesh"]["volume"] for glb in server.run(many).glbs}  # they have as many faces
    single = [
        server.run(graph("image_to_glb", n1_image=each["inputs"]["image"], n2_preset="draft"))
        for each in (many["1"], many["2"])
    ]
    assert len(volumes) == 2 and volumes == {facts(run.glbs[0])["mesh"]["volume"] for run in single}


def test_a_folder_makes_an_object_of_each_picture_under_its_name(server):
    """The names arrive with their pictures; a picture that is none is left out."""
    (server.base / "input" / "folder").mkdir()
    for name in ("rocket.png", "pictures/chair.png"):
        shutil.copy(ROOT / "assets" / name, server.base / "input" / "folder")
    (server.base / "input" / "folder" / "bad.png").write_text("no picture")
    loaded = graph("image_to_glb", n2_texture=False, n2_preset="draft", n2_image=["1", 0])
    loaded["1"] = node("T2LoadPictures", folder="folder", prefix="named/")
    loaded["2"]["inputs"] = {**loaded["2"]["inputs"], "filename_prefix": ["1", 1]}
    loaded["2"]["inputs"].pop("mask", None)
    made = server.run(loaded)
    assert sorted(each["filename"] for each in made.outputs["2"]["3d"]) == ["chair_00001_.glb", "rocket_00001_.glb"]
    assert made.outputs["1"]["text"][0].startswith("2 of 3 pictures\n")


@pytest.mark.parametrize("name", sorted(path.stem for path in GRAPHS.glob("*.json")))
def test_every_graph_makes_a_valid_glb(server, validate, tmp_path, name):
    loaded = graph(name)
    needs(server, loaded)
    run = server.run(loaded)
    assert run.glbs
    if name == "turntable_video":
        assert [each["filename"] for each in run.outputs["16"]["images"]] == ["turntable_00001_.mp4"]
    for glb in run.glbs:
        (tmp_path / "x.glb").write_bytes(glb)
        issues = validate(tmp_path / "x.glb")["issues"]
        assert issues["numErrors"] == issues["numWarnings"] == 0, issues
        assert len(trimesh.load_mesh(io.BytesIO(glb), "glb", process=False).faces) == facts(glb)["faces"] > 0


def test_the_graph_gives_what_the_command_line_gives(server, cli, tmp_path):
    """Same checkpoint, picture, seed and settings: the same mesh and texture to the bit."""
    output = tmp_path / "cli.glb"
    done = cli("generate", ROOT / "assets" / "rocket.png", "--device", "cpu", "--output", output)
    assert done.returncode == 0, done.stderr
    server.forget()
    ours, theirs = (
        trimesh.load_mesh(io.BytesIO(data), "glb", process=False)
        for data in (output.read_bytes(), server.run(graph("image_to_glb")).glbs[0])
    )
    assert np.array_equal(ours.vertices, theirs.vertices) and np.array_equal(ours.faces, theirs.faces)
    assert np.array_equal(ours.visual.uv, theirs.visual.uv)
    for name in ("baseColorTexture", "metallicRoughnessTexture"):
        assert np.array_equal(*(np.asarray(getattr(mesh.visual.material, name)) for mesh in (ours, theirs)))


def test_the_same_graph_gives_the_same_bytes(server):
    server.forget()
    first = server.run(graph("image_to_glb"))
    server.forget()
    second = server.run(graph("image_to_glb"))
    assert first.glbs and not second.cached() and second.glbs == first.glbs


def test_a_texture_setting_reruns_nothing_before_the_texture(server):
    server.run(graph("all_stages"))
    again = server.run(graph("all_stages", n14_texture_size=1024))
    assert {"1", "2", "3", "4", "5", "9", "10", "11", "12", "13"} <= again.cached()
    after = {"14", "15", "16", "17", "18", "20", "21"}
    assert again.executed() >= {"14", "15", "20"} and again.executed() <= after
    loaded = graph("all_stages", n14_texture_size=1024, n10_sampler=["8", 0])
    loaded["8"] = node("T2SamplerSettings", guidance=1.0, interval_end=0.9)
    sampler = server.run(loaded)
    assert {"5", "9", "11", "13"} <= sampler.cached() and {"8", "10", "12", "14"} <= sampler.executed()


def test_the_simple_node_reuses_its_stages(server):
    server.run(graph("image_to_glb"))
    again = server.run(graph("image_to_glb", n2_texture_size=1024))
    stages = {data["node"] for kind, data in again.events if kind == "progress" and data["node"].startswith("2.")}
    assert len(stages) == 2, stages  # bake and export


def test_the_game_preset_writes_levels_and_a_normal_map(server):
    done = server.run(graph("image_to_glb", n2_preset="game", n2_texture_size=512))
    found = facts(done.glbs[0])
    assert found["mesh"]["faces"] <= 10_000 and found["stretch"] <= 1.15
    assert [level["mesh"]["faces"] <= limit for level, limit in zip(found["lods"], (4_000, 1_500))] == [True, True]
    assert b'"normalTexture"' in done.glbs[0]


def test_a_seed_changes_the_result(server):
    runs = [server.run(graph("geometry_only", n5_seed=seed)) for seed in (20, 15)]
    assert runs[0].glbs != runs[1].glbs


def test_vertex_colours_and_a_turntable(server, validate, tmp_path):
    loaded = graph("all_stages", n14_texture_size=1024)
    del loaded["15"]
    for each in [key for key, value in loaded.items() if ["15", 1] in value["inputs"].values()]:
        del loaded[each]
    loaded["30"] = node("T2ColorVertices", mesh=["13", 0], voxels=["12", 0], original=["11", 0])
    loaded["31"] = node("T2ExportGLB", mesh=["30", 0], filename_prefix="3d/coloured")
    loaded["32"] = node("T2RenderMesh", mesh=["14", 0], frames=3, size=2048)
    loaded["33"] = {"class_type": "PreviewImage", "inputs": {"images": ["32", 0]}}
    run = server.run(loaded)
    (tmp_path / "x.glb").write_bytes(run.glbs[0])
    issues = validate(tmp_path / "x.glb")["issues"]
    assert issues["numErrors"] == issues["numWarnings"] == 0, issues
    assert b"COLOR_0" in run.glbs[0] and b"baseColorTexture" not in run.glbs[0]
    outputs = server.client.run(loaded)
    frames = [server.client.fetch(each) for each in outputs["33"]["images"]]
    frames = [np.asarray(Image.open(io.BytesIO(frame)).convert("RGB")) for frame in frames]
    assert len(frames) == 3 and {frame.shape for frame in frames} == {(2048, 2048, 3)}
    assert min(frame.max() for frame in frames) > 40


def test_uvs_come_back_from_comfyuis_mesh(server):
    loaded = graph("all_stages", n14_texture_size=1024)
    loaded["34"] = node("T2MeshToCore", mesh=["14", 0])
    loaded["35"] = node("T2MeshFromCore", core_mesh=["34", 0])
    loaded["36"] = node(
        "T2BakeTexture", mesh=["35", 0], voxels=["12", 0], original=["11", 0], texture_size=1024, keep_uvs=True
    )
    loaded["37"] = node("T2ExportGLB", mesh=["36", 0], filename_prefix="3d/kept")
    version = server.get("/system_stats")["system"]["comfyui_version"]
    if version.startswith("0.3."):  # its meshes have no UVs
        with pytest.raises(api().GraphError, match="T2BakeTexture.*has no UVs to keep"):
            server.run(loaded)
        return
    meshes = [trimesh.load_mesh(io.BytesIO(glb), "glb", process=False) for glb in server.run(loaded).glbs]
    assert len(meshes) == 2 and np.array_equal(meshes[0].visual.uv, meshes[1].visual.uv)
    maps = [np.asarray(mesh.visual.material.baseColorTexture) for mesh in meshes]
    assert np.array_equal(*maps)


def test_a_repeated_request_reports_its_file_again(server):
    """Without a node that shows the file, too: what an API client asks the history for."""
    loaded = quick()
    del loaded["3"]
    first, second = server.run(loaded), server.run(loaded)
    assert not [data["node"] for kind, data in second.events if kind == "progress"]  # nothing is made again
    runs = list(server.get("/history").values())[-2:]
    files = [[file for shown in run["outputs"].values() for file in shown.get("3d", [])] for run in runs]
    assert files[0] == files[1] and len(files[0]) == 1 and second.glbs == first.glbs


def test_every_object_of_a_list_keeps_its_own_path(server):
    loaded = quick(n2_image=["21", 0], n2_filename_prefix="list/a")
    loaded["20"] = {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["1", 0]}}
    loaded["21"] = {"class_type": "RebatchImages", "inputs": {"images": ["20", 0], "batch_size": 1}}
    outputs = server.client.run(loaded)
    written = [f"list/{file['filename']}" for file in outputs["2"]["3d"]]
    assert written == ["list/a_00001_.glb", "list/a_00002_.glb"]
    assert outputs["3"]["result"][::3] == written


def test_voxels_become_a_mesh_in_comfyui(server):
    loaded = graph("all_stages")
    for key in ("13", "14", "15", *(k for k, each in loaded.items() if each["class_type"] == "Preview3D")):
        loaded.pop(key, None)
    loaded = {key: each for key, each in loaded.items() if not each["class_type"].startswith(("Preview", "T2Export"))}
    loaded["50"] = node("T2VoxelsToCore", voxels=["12", 0])
    loaded["51"] = {"class_type": "VoxelToMesh", "inputs": {"voxel": ["50", 0], "algorithm": "basic", "threshold": 0.6}}
    loaded["52"] = {"class_type": "SaveGLB", "inputs": {"mesh": ["51", 0], "filename_prefix": "3d/voxels"}}
    needs(server, loaded)
    mesh = trimesh.load_mesh(io.BytesIO(server.run(loaded).glbs[0]), "glb", process=False)
    low, high = mesh.bounds
    size = high - low
    assert len(mesh.faces) > 1000 and size[1] > 1.3 * max(size[0], size[2])  # the rocket stands


def old_graphs():
    return json.loads((ROOT / "tests" / "old_graphs.json").read_text(encoding="utf-8"))["api"]


@pytest.mark.parametrize("old", old_graphs(), ids=lambda old: f"{old['name']} {old['commit']}")
def test_graphs_of_earlier_versions_are_accepted(server, old):
    """The host finds nothing wrong with any node; one is run to its end, all would take minutes."""
    loaded = old["graph"]
    needs(server, loaded)
    server.accepts(loaded)
    if (old["name"], old["commit"]) == ("geometry_only", "042788b"):
        loaded["6"]["inputs"]["resolution"] = "512"  # what the checkpoint of that name has today
        assert server.run(loaded).glbs


def test_a_hollow_print_and_quads_come_out_of_one_run(server, tmp_path):
    """One queue with three ends of one raw mesh: what each option asks for is in its file."""
    loaded = graph("geometry_only")
    (process,) = [key for key, each in loaded.items() if each["class_type"] == "T2ProcessMesh"]
    raw = loaded[process]["inputs"]["mesh"]
    loaded["40"] = node("T2ProcessMesh", mesh=raw, shells="solid", hollow="4mm", drain="6mm", size="80mm", faces=30000)
    loaded["41"] = node("T2ExportMesh", mesh=["40", 0], format="stl", size="80mm", filename_prefix="3d/hollow")
    if find_spec("pynanoinstantmeshes"):
        loaded["42"] = node("T2ProcessMesh", mesh=raw, shells="solid", quads=2000)
        loaded["43"] = node("T2ExportMesh", mesh=["42", 0], format="obj", filename_prefix="3d/quads")
    server.run(loaded)
    outputs = server.client.run(loaded)
    (file,) = outputs["41"]["3d"]
    (tmp_path / "hollow.stl").write_bytes(server.client.fetch(file))
    made = trimesh.load(tmp_path / "hollow.stl")
    assert made.is_watertight and made.extents.max() == pytest.approx(80, abs=0.01)
    vertices, faces = torch.tensor(made.vertices).float(), torch.tensor(made.faces)
    assert winding_numbers(vertices, faces, vertices.mean(0)[None]) < 0.5  # the rocket's middle
    if "43" in loaded:
        (file,) = outputs["43"]["3d"]
        assert b"\nf " in server.client.fetch(file)
