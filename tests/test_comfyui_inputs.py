"""Pictures, settings and names in a real ComfyUI: what works, and what is refused with the cure."""

import io
import re

import numpy as np
import pytest
from comfy_server import ROOT, api, facts, graph, needs, needs_comfyui
from comfyui_graphs import node, opaque, quick, save
from PIL import Image, ImageOps

pytestmark = needs_comfyui


def test_a_photograph_is_cut_out_by_comfyuis_own_node(server):
    """Remove Background marks the object, Load Image's mask the background; the object must arrive, not the rest."""
    photo = graph("photo_to_glb", n5_texture=False)
    needs(server, photo)
    picture = Image.open(ROOT / "assets" / "rocket.png")
    background = Image.new("RGBA", picture.size, (90, 140, 60, 255))
    photo["1"]["inputs"]["image"] = save(server, "photo.png", Image.alpha_composite(background, picture).convert("RGB"))
    cut = facts(server.run(photo).glbs[0])["mesh"]
    own = facts(server.run(graph("image_to_glb", n2_texture=False)).glbs[0])["mesh"]
    assert np.allclose(cut["bounds"], own["bounds"], atol=0.05), (cut["bounds"], own["bounds"])


def test_values_of_two_shapes_are_not_mixed(server):
    loaded = graph("all_stages", n12_subdivision=["32", 1])
    loaded["30"] = node("T2SampleStructure", models=["2", 0], condition=["4", 0], seed=7)
    loaded["31"] = node("T2SampleShape", models=["2", 0], condition=["4", 0], structure=["30", 0])
    loaded["32"] = node("T2DecodeShape", models=["2", 0], shape=["31", 0])
    with pytest.raises(api().GraphError, match=r"T2DecodeTexture \(12\).*different shapes .*seed 42, 512.*seed 7, 512"):
        server.run(loaded)


WRONG = {
    "missing checkpoint": (
        {"n2_checkpoint": "trellis2/nowhere"},
        r"There is no checkpoint 'trellis2/nowhere'. Looked in .*models.trellis2",
    ),
    "damaged file": ({"n2_checkpoint": "trellis2/damaged"}, r"T2LoadModels.*damaged or truncated"),
    "a resolution that the checkpoint lacks": (
        {"n6_resolution": "1024_cascade"},
        r"T2SampleShape.*Resolution 1024_cascade needs .*1024, which small lacks.*Choose resolution 512",
    ),
    "unknown resolution": ({"n6_resolution": "2048_cascade"}, "2048_cascade"),
    "a socket of another type": ({"n4_models": ["3", 0]}, "received_type"),
    "steps out of range": ({"n6_max_tokens": 1}, "max_tokens"),
    "faces that no mesh has": ({"n8_faces": 3}, "at least 4 faces, got 3"),
    "levels that grow": ({"n8_lods": "1000, 2000"}, "Levels of detail must have fewer faces"),
    "a path outside": ({"n9_filename_prefix": "../../x"}, "T2ExportGLB"),
    "no file behind the decoders": ({"n2_decoders": "absent.safetensors"}, "absent.safetensors"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_explained(server, case):
    changes, message = WRONG[case]
    with pytest.raises(api().GraphError, match=message):
        server.run(graph("geometry_only", **changes))
    assert server.run(graph("geometry_only")).glbs


PICTURES = {
    "transparent": (lambda: Image.new("RGBA", (64, 64)), "The picture is empty"),
    "opaque": (opaque, "has no transparent background"),
    "one pixel": (lambda: Image.new("RGBA", (1, 1), (9, 9, 9, 128)), "The picture is empty"),
}


@pytest.mark.parametrize("case", PICTURES)
def test_pictures_that_cannot_work(server, case):
    make, message = PICTURES[case]
    name = save(server, f"{case}.png", make())
    with pytest.raises(api().GraphError, match=rf"T2PrepareImage \(3\).*{message}"):
        server.run(graph("geometry_only", n1_image=name))


def test_masks(server):
    white = Image.new("L", (64, 64))
    white.paste(255, (16, 16, 48, 48))
    load = {"class_type": "LoadImageMask", "inputs": {"image": save(server, "mask.png", white), "channel": "red"}}
    prepare = {"mask": ["2", 0], "image": ["1", 0], "mask_marks": "object", "background_model": "none"}
    marked = {
        "1": {"class_type": "LoadImage", "inputs": {"image": save(server, "opaque.png", opaque())}},
        "2": load,
        "3": {"class_type": "T2PrepareImage", "inputs": prepare},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
        "5": {"class_type": "MaskPreview", "inputs": {"mask": ["3", 1]}},
    }
    outputs = server.client.run(marked)
    picture, mask = (
        np.asarray(Image.open(io.BytesIO(server.client.fetch(outputs[node]["images"][0]))).convert("RGB"))
        for node in ("4", "5")
    )
    assert picture.shape == mask.shape == (30, 30, 3)  # half the box's 31 pixels, twice
    assert mask.min() >= 254 and np.abs(picture - np.array([200.0, 30, 30])).max() <= 1  # Preview Image truncates
    prepare["mask_marks"] = "background"
    assert server.client.run(marked)
    prepare["mask_marks"] = "automatic"
    for number, other in enumerate((white, ImageOps.invert(white), white.resize((32, 32)))):
        load["inputs"]["image"] = save(server, f"other{number}.png", other)
        seen = server.client.run(marked)["5"]["images"][0]
        found = np.asarray(Image.open(io.BytesIO(server.client.fetch(seen))))
        assert abs(found.shape[0] - 30) <= 2 and np.median(found) >= 254, number
    empty = save(server, "empty.png", Image.new("L", (64, 64)))
    first = graph("image_to_glb", n2_mask=["9", 0], n2_mask_marks="object")
    first["9"] = {"class_type": "LoadImageMask", "inputs": {"image": empty, "channel": "red"}}
    with pytest.raises(api().GraphError, match="The mask is empty: it marks no object"):
        server.client.run(first)


def test_a_photograph_before_a_plain_wall(server):
    """Neither mask nor rembg: the background goes by its colour."""
    photo = Image.new("RGB", (160, 120), (226, 221, 214))
    photo.paste((40, 90, 170), (50, 30, 110, 90))
    prepare = {"image": ["1", 0], "mask": ["1", 1], "mask_marks": "automatic"}
    outputs = server.client.run(
        {
            "1": {"class_type": "LoadImage", "inputs": {"image": save(server, "wall.png", photo)}},
            "2": {"class_type": "T2PrepareImage", "inputs": {**prepare, "background_model": "none"}},
            "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
        }
    )
    found = np.asarray(Image.open(io.BytesIO(server.client.fetch(outputs["3"]["images"][0]))).convert("RGB"))
    assert abs(found.shape[0] - 60) <= 2 and np.abs(np.median(found, (0, 1)) - (40, 90, 170)).max() <= 1


def test_views(server):
    """A batch is several views; masks must be one or as many."""
    views = graph("geometry_only", n3_image=["20", 0])
    views["20"] = {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["1", 0]}}
    server.forget()
    run = server.run(views)
    assert run.glbs and run.outputs["4"]["text"] == [
        "2 views of one object\npicture 1 and picture 2 are the same picture"
    ]


def test_names_are_filled_in(server):
    loaded = quick(n2_filename_prefix="named/%date:yyyy-MM%_%T2ImageToGLB.seed%_%Load Image.image%_%no.such%")
    name = server.client.run(loaded)["2"]["3d"][0]["filename"]
    assert re.fullmatch(r"20\d\d-[01]\d_42_trellis2_rocket.png_%no.such%_00001_.glb", name)


def test_an_empty_name_is_no_hidden_file(server):
    for prefix, expected in (
        ("", "3d/trellis2_"),
        ("  ", "3d/trellis2_"),
        ("models/", "models/trellis2_"),
        ("a/.", "a/t"),
    ):
        (file,) = server.client.run(quick(n2_filename_prefix=prefix))["2"]["3d"]
        assert f"{file['subfolder']}/{file['filename']}".startswith(expected), prefix


NAMES = {
    "too long": ("a" * 250, "is too long: aaaaaaaaaaaaaaaaaaaa... has 250 bytes"),
    "NUL": ("a\0b", "control character"),
    "outside": ("../../x", "leads out of the output folder"),
    "absolute": ("/tmp/x", "leads out of the output folder"),
}


@pytest.mark.parametrize("case", NAMES)
def test_names_that_cannot_work(server, case):
    prefix, message = NAMES[case]
    with pytest.raises(api().GraphError, match=message):
        server.client.run(quick(n2_filename_prefix=prefix))
    with pytest.raises(api().GraphError, match=f"validation.*filename_prefix.*{message}"):  # before anything runs
        server.client.run(graph("geometry_only", n9_filename_prefix=prefix))


def test_small_settings_are_refused_before_anything_runs(server):
    for setting, value, said in (("faces", 3, "at least 4 faces, got 3"), ("texture_size", 10, "must lie in 64-16384")):
        with pytest.raises(api().GraphError, match=said):
            server.client.run(quick(**{f"n2_{setting}": value}))
