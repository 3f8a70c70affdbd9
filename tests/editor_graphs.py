"""The editor's graphs from the API graphs: `python tests/editor_graphs.py` writes workflows/*.json.

workflows/api/*.json says what a graph does; LAYOUTS says where its nodes stand: rows of groups of columns. A
whole graph can be read in a window of 1600 x 1000 pixels.
"""

import json
from pathlib import Path

from host_stub import WIDGETS

ROOT = Path(__file__).resolve().parent.parent
INTERFACE = json.loads((ROOT / "tests" / "interface.json").read_text(encoding="utf-8"))
# What the graphs use of ComfyUI's own nodes: input types and output types.
CORE = {
    "LoadImage": ({"image": "COMBO"}, ["IMAGE", "MASK"]),
    "Preview3D": ({"model_file": "STRING,FILE_3D_GLB"}, []),
    "PreviewImage": ({"images": "IMAGE"}, []),
    "PreviewAny": ({"source": "*"}, ["STRING"]),
    "MaskPreview": ({"mask": "MASK"}, []),
    "InvertMask": ({"mask": "MASK"}, ["MASK"]),
    "LoadBackgroundRemovalModel": ({"bg_removal_name": "COMBO"}, ["BACKGROUND_REMOVAL"]),
    "RemoveBackground": ({"bg_removal_model": "BACKGROUND_REMOVAL", "image": "IMAGE"}, ["MASK"]),
    "CreateList": ({"inputs.input0": "*", "inputs.input1": "*"}, ["*"]),
    "FillHoles": (
        {
            "mesh": "MESH",
            "max_perimeter": "FLOAT",
            "weld_epsilon_rel": "FLOAT",
            "max_vertices": "INT",
            "fill_chains": "BOOLEAN",
        },
        ["MESH"],
    ),
}
# Files that the editor offers to download when they are missing.
MODELS = {
    "LoadBackgroundRemovalModel": [
        {
            "name": "birefnet.safetensors",
            "url": "https://huggingface.co/Comfy-Org/BiRefNet/resolve/main/background_removal/birefnet.safetensors",
            "directory": "background_removal",
        }
    ]
}
TITLED = ("CreateList", "PreviewImage", "PreviewAny")  # the editor has names of its own for the others
NOTE = "note"  # the place of the note in a layout

# What the note in a graph says, in Markdown.
NOTES = {
    "image_to_glb": """
## Image to GLB

A picture with a transparent background (or a mask) in, a textured GLB out. For a photograph take **photo_to_glb**,
for many objects **many_pictures**.

**checkpoint**: *small* comes with the pack: 8 M parameters, trained on simple, procedurally generated objects. It makes
real but simple objects (tables, mugs, rockets, ...) within a minute, even on a CPU. Choose
**microsoft/TRELLIS.2-4B** for any object (16 GB download on the first run).
""",
    "photo_to_glb": """
## Photo to GLB

For pictures with a background: ComfyUI's own **Remove Background** cuts the object out. Its model,
birefnet.safetensors, belongs into *models/background_removal*; the editor offers the download when it is missing.

Its mask is 1 where the object is, Load Image's where the background is: **Invert Mask** stands between. Look at the
preview of the mask first: what is black there will be missing in 3D.
""",
    "many_pictures": """
## Many pictures, many objects

A **list** makes an object of each picture, one after the other (a *batch* would be several views of one object).
Connect more Load Image nodes to both lists, pictures and masks in the same order: each list grows by an input when
its last one is used.

Every GLB is written to output/3d; Preview 3D shows one of them.
""",
    "geometry_only": """
## Geometry only

The shape without texture: no texture models are used.
""",
    "all_stages": """
## Every stage

The whole pipeline, one node a stage. Change a setting and only what comes after it runs again.

The samplers take the settings that the checkpoint brings. To change them, connect a **TRELLIS.2 Sampler Settings**
to their input *sampler*.
""",
    "draft_then_cascade": """
## Draft, then cascade

Top: a quick 512 draft of the structure. Bottom: the same structure as the checkpoint says, with texture: the 1024
cascade with microsoft/TRELLIS.2-4B. The small checkpoint has 512 alone and makes the same shape twice.

To look at drafts of several seeds first, select the nodes of the lower part and bypass them (Ctrl+B).
""",
    "draft_then_finish": """
## Draft today, finish tomorrow

Left: what needs the networks; **Save State** keeps the raw mesh and its voxels in the output folder. Right: what needs
none. Tomorrow, put the file's path into **Open State** in place of the link and bypass the left part (Ctrl+B): other
faces, shells and textures of the same object, in seconds.
""",
    "project_texture": """
## The picture on the object

**Project Texture** puts the picture itself onto the baked texture: as sharp as the picture where it sees the object.
What it does not show keeps the generated texture. The camera is found by comparing silhouettes and colours, here near
the front, as a rocket looks alike from four sides; with *views* empty it is looked for all round. A picture that fits
from nowhere is refused.

Connect the picture as it was loaded: the cropped one has 1,024 pixels at most.
""",
    "texture_my_mesh": """
## Texture my mesh

Put the file into the *input* folder and its name into **Load Mesh**. The picture says what it is to look like; the
GLB comes back with its own nodes, transforms and UVs. Meshes without UVs: **uvs** to *fill*.

Needs the encoder *shape_slat_encoder* of **microsoft/TRELLIS.2-4B**; the small checkpoint has none yet.
""",
    "repaint_part": """
## Repaint a part

The mask lies in the mesh's UVs. Open the base colour (an output of **Load Mesh**) in the mask editor and paint over
what is to be new: all else stays to the bit, as long as **texture_size** is the texture's own. White vertex colours, or
names of mesh nodes, can say it too.

Needs *shape_slat_encoder* and *tex_slat_encoder* of **microsoft/TRELLIS.2-4B**; the small checkpoint has none yet.
""",
    "refine_my_mesh": """
## Refine my mesh

The mesh's voxels stay, its shape is sampled anew from a start that is noised by **strength**: 0 changes nothing, 0.3 to
0.7 makes details anew, 1 keeps the voxels alone.

Needs *shape_slat_encoder* of **microsoft/TRELLIS.2-4B**; the small checkpoint has none yet.
""",
    "core_mesh_interop": """
## ComfyUI's own mesh nodes

Our mesh goes through a mesh node of ComfyUI (here Fill Holes) and comes back to be baked. Needs a ComfyUI of 2026.
""",
}
# name -> rows of groups (title, columns of node ids)
LAYOUTS = {
    "image_to_glb": [[("Picture", [[NOTE, "1"]]), ("Object", [["2"]]), ("Result", [["3"]])]],
    "photo_to_glb": [
        [("Picture", [[NOTE, "1"]]), ("Cut out", [["2", "3", "4", "7"]]), ("Object", [["5"]]), ("Result", [["6"]])]
    ],
    "many_pictures": [
        [("Pictures", [[NOTE], ["1", "2"]]), ("Lists", [["3", "4"]]), ("Objects", [["5"]]), ("Result", [["6"]])]
    ],
    "geometry_only": [
        [
            ("1 Picture", [[NOTE, "1"], ["2", "3", "4"]]),
            ("2 Structure", [["5"]]),
            ("3 Shape", [["6", "7"]]),
            ("4 Mesh", [["8", "9"]]),
            ("Result", [["10"]]),
        ]
    ],
    "all_stages": [
        [
            ("1 Picture", [["1", "3"], ["19", NOTE], ["2", "4"]]),
            ("2 Structure", [["5"]]),
            ("3 Shape", [["9", "11"]]),
            ("4 Texture", [["10", "12"]]),
        ],
        [
            ("5 Mesh", [["13"]]),
            ("6 Bake", [["14", "17"], ["18", "22"]]),
            ("7 Pictures", [["20", "21"]]),
            ("8 File", [["15"], ["16"]]),
        ],
    ],
    "draft_then_cascade": [
        [
            ("Picture", [[NOTE, "1"], ["2", "3", "4"]]),
            ("Structure", [["5"]]),
            ("Draft", [["6", "7"], ["8"], ["9"], ["10"]]),
        ],
        [
            ("Final shape", [["11", "13"]]),
            ("Final texture", [["12", "14"]]),
            ("Final mesh", [["15"], ["16"]]),
            ("Final file", [["17"], ["18"]]),
        ],
    ],
    "draft_then_finish": [
        [
            ("Picture", [[NOTE, "1"], ["2", "3", "4"]]),
            ("Sample", [["5"], ["6", "7"]]),
            ("Decode", [["8", "9"]]),
            ("Today", [["10"]]),
        ],
        [
            ("Tomorrow", [["11"], ["12"], ["13"]]),
            ("File", [["14"], ["15"]]),
        ],
    ],
    "project_texture": [
        [
            ("1 Picture", [["1", "3"], [NOTE], ["2", "4"]]),
            ("2 Structure", [["5"]]),
            ("3 Shape", [["9", "11"]]),
            ("4 Texture", [["10", "12"]]),
        ],
        [
            ("5 Mesh", [["13"]]),
            ("6 Bake", [["14", "17"]]),
            ("7 Projection", [["23"], ["18"]]),
            ("8 File", [["15"], ["16"]]),
        ],
    ],
    "texture_my_mesh": [
        [
            ("Picture", [[NOTE, "1"], ["2", "3", "4"]]),
            ("Mesh", [["5", "6"]]),
            ("Result", [["7"]]),
        ]
    ],
    "repaint_part": [
        [
            ("Picture", [[NOTE, "1"], ["2", "3", "4"]]),
            ("Mesh and mask", [["5", "6"]]),
            ("Repainted", [["7"], ["8"]]),
        ]
    ],
    "refine_my_mesh": [
        [
            ("Picture", [[NOTE, "1"], ["2", "3", "4"]]),
            ("Mesh", [["5"], ["6"]]),
            ("Shape", [["7", "9"]]),
        ],
        [
            ("Texture", [["8", "10"]]),
            ("Finish", [["11"], ["12"]]),
            ("File", [["13"], ["14"]]),
        ],
    ],
    "core_mesh_interop": [
        [
            ("1 Picture", [[NOTE, "1"], ["2", "3", "4"]]),
            ("2 Structure", [["5"]]),
            ("3 Shape", [["6", "8"]]),
            ("4 Texture", [["7", "9"]]),
        ],
        [
            ("5 Mesh", [["10"]]),
            ("6 ComfyUI's mesh nodes", [["11", "12", "13"]]),
            ("7 Bake", [["14"]]),
            ("8 File", [["15"], ["16"]]),
        ],
    ],
}

# Of a window of 1600 x 1000 pixels: what is free of the editor's bars and its map, from LEFT and TOP on.
WINDOW, LEFT, TOP = (1400, 870), 80, 105
WIDTH, WIDE = 270, 400  # of a node; of one with a viewer
GAP, MARGIN, TITLE, HEAD = 40, 15, 30, 45  # between columns, inside a group, a node's title, a group's title
PICTURE = 240  # the height that a picture takes in its node
# What a node is higher than its sockets and widgets: pictures that it shows, texts.
MORE = {
    "LoadImage": PICTURE,
    "PreviewImage": PICTURE,
    "MaskPreview": PICTURE,
    "PreviewAny": 170,
    "T2SampleStructure": PICTURE,
    "T2DecodeShape": PICTURE,
    "T2DecodeTexture": PICTURE,
    "T2ImageToGLB": PICTURE + 130,
    "T2ProcessMesh": 140,
    "T2ProjectTexture": 60,
    "T2ExportGLB": 140,
    "T2TextureMesh": 140,
}
VIEWER_HEIGHT = 500
COLORS = ["#3f789e", "#8a6d3b", "#5b7a3a", "#8a4b4b", "#6b5b95", "#3a7a78", "#7a5a8a", "#666"]


def types_of(kind):
    """(input types by name, output types) of a node."""
    if kind in INTERFACE:
        node = INTERFACE[kind]
        return {key: each["type"] for key, each in node["inputs"].items()}, [out["type"] for out in node["outputs"]]
    return CORE[kind]


def optional(kind, name):
    """Whether the editor draws an input as one that may stay free."""
    return kind in INTERFACE and INTERFACE[kind]["inputs"][name]["optional"]


def slots(kind):
    """The inputs of a node in the editor's order: those that it must have come first."""
    names = list(types_of(kind)[0])
    return sorted(names, key=lambda name: optional(kind, name))


def is_widget(kind, name):
    return types_of(kind)[0][name].split(",")[0] in WIDGETS


def size_of(kind):
    """(width, height) of a node, without its title."""
    if kind == "Preview3D":
        return WIDE, VIEWER_HEIGHT
    inputs, outputs = types_of(kind)
    widgets = sum(is_widget(kind, name) for name in inputs) + ("seed" in inputs) + (kind == "LoadImage")
    sockets = max(len(inputs) - sum(is_widget(kind, name) for name in inputs), len(outputs))
    return WIDTH, 20 * sockets + 24 * widgets + 26 + MORE.get(kind, 0)


def note_size(name):
    """(width, height) of a graph's note: so many letters fit into a line."""
    lines = [len(part) // 40 + 1 for part in NOTES[name].strip().split("\n\n")]
    return WIDTH, 30 + 18 * sum(lines) + 12 * len(lines)


def editor_graph(name, api):
    """The editor's graph of an API graph."""
    sizes = {NOTE: note_size(name), **{key: size_of(node["class_type"]) for key, node in api.items()}}
    nodes, groups, top = [], [], 0
    note_id = max(map(int, api)) + 1
    for row in LAYOUTS[name]:
        left, heights = 0, []
        for title, columns in row:
            x, deepest = left + MARGIN, 0
            for column in columns:
                y = top + HEAD
                for key in column:
                    width, height = sizes[key]
                    box = {"pos": [x, y + TITLE], "size": [width, height]}
                    nodes.append(
                        _note(note_id, name, box) if key == NOTE else _node(key, api[key], box, order=len(nodes))
                    )
                    y += TITLE + height + MARGIN
                deepest = max(deepest, y - top)
                x += max(sizes[key][0] for key in column) + GAP
            groups.append({"title": title, "bounding": [left, top, x - GAP + MARGIN - left, deepest]})
            heights.append(deepest)
            left = x - GAP + 2 * MARGIN + 10
        for group in groups[-len(row) :]:
            group["bounding"][3] = max(heights)
        top += max(heights) + MARGIN + 10
    for number, group in enumerate(groups):
        group |= {"id": number + 1, "color": COLORS[number % len(COLORS)], "font_size": 24, "flags": {}}
    links = _link(nodes, api)
    width, height = (max(each["bounding"][axis] + each["bounding"][axis + 2] for each in groups) for axis in (0, 1))
    scale = round(min(1, WINDOW[0] / width, WINDOW[1] / height), 2)
    return {
        "last_node_id": note_id,
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": groups,
        "config": {},
        "extra": {"ds": {"scale": scale, "offset": [round(LEFT / scale), round(TOP / scale)]}},
        "version": 0.4,
    }


def _note(key, name, box):
    text = "\n\n".join(" ".join(part.split("\n")) for part in NOTES[name].strip().split("\n\n"))
    empty = {"flags": {}, "order": 0, "mode": 0, "inputs": [], "outputs": []}
    look = {"title": "About this graph", "properties": {}, "widgets_values": [text], "color": "#222", "bgcolor": "#000"}
    return {"id": key, "type": "MarkdownNote", **box, **empty, **look}


def _node(key, node, box, order):
    kind, values = node["class_type"], []
    inputs, outputs = types_of(kind)
    names = slots(kind)
    sockets = [name for name in names if not is_widget(kind, name)]
    shown = []
    for name in [*sockets, *(name for name in names if is_widget(kind, name))]:
        socket = {"name": name, "type": inputs[name], "link": None}
        if "." in name:
            socket["label"] = name.split(".")[1]
        if is_widget(kind, name):
            socket |= {"type": inputs[name].split(",")[0], "widget": {"name": name}}
            value = node["inputs"].get(name, "")
            values.append("" if isinstance(value, list) else value)
            values += ["fixed"] if name == "seed" else ["image"] if kind == "LoadImage" else []
        elif optional(kind, name):
            socket["shape"] = 7
        shown.append(socket)
    pack = "comfyui-trellis2-stages" if kind in INTERFACE else "comfy-core"
    properties = {"Node name for S&R": kind, "cnr_id": pack}
    if kind in MODELS:
        properties["models"] = MODELS[kind]
    title = node.get("_meta", {}).get("title")
    usual = INTERFACE[kind]["display_name"] if kind in INTERFACE else None
    named = (
        {"title": title} if title and title != usual and kind in ("CreateList", "PreviewImage", "PreviewAny") else {}
    )
    made = [{"name": each, "type": each, "links": []} for each in outputs]
    if kind in INTERFACE:
        made = [{"name": each["name"], "type": each["type"], "links": []} for each in INTERFACE[kind]["outputs"]]
    return {
        "id": int(key),
        "type": kind,
        **named,
        **box,
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": shown,
        "outputs": made,
        "properties": properties,
        "widgets_values": values,
    }


def _link(nodes, api):
    """Connect the sockets as the API graph says; returns the links."""
    by_id = {str(node["id"]): node for node in nodes}
    links = []
    for key, entry in api.items():
        for place, socket in enumerate(by_id[key]["inputs"]):
            value = entry["inputs"].get(socket["name"])
            if not isinstance(value, list):
                continue
            source = by_id[value[0]]["outputs"][value[1]]
            links.append([len(links) + 1, int(value[0]), value[1], int(key), place, source["type"]])
            source["links"].append(len(links))
            socket["link"] = len(links)
    return links


if __name__ == "__main__":
    for each in LAYOUTS:
        graph = json.loads((ROOT / "workflows" / "api" / f"{each}.json").read_text(encoding="utf-8"))
        made = json.dumps(editor_graph(each, graph), indent=1, ensure_ascii=False)
        (ROOT / "workflows" / f"{each}.json").write_text(made + "\n", encoding="utf-8")
