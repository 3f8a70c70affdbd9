"""The editor's graphs from the API graphs: `python tests/editor_graphs.py` writes workflows/*.json.

workflows/api/*.json says what a graph does, editor_layouts.py where its nodes stand.
"""

import json
from pathlib import Path

from editor_layouts import LAYOUTS, NOTE, NOTES
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
    "CreateVideo": ({"images": "IMAGE", "audio": "AUDIO", "fps": "FLOAT", "bit_depth": "INT"}, ["VIDEO"]),
    "SaveVideo": (
        {"video": "VIDEO", "filename_prefix": "STRING", "format": "COMBO", "codec": "COMBO"},
        ["VIDEO"],
    ),
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

# Of a window of 1600 x 1000 pixels: what is free of the editor's bars and its map, from LEFT and TOP on.
WINDOW, LEFT, TOP = (1400, 870), 80, 105
WIDTH, WIDE = 270, 400  # of a node; of one with a viewer
GAP, MARGIN, TITLE, HEAD = 40, 15, 30, 45  # between columns, inside a group, a node's title, a group's title
PICTURE = 240  # the height that a picture takes in its node
TEXT = 60  # and some lines of text: less runs under the badge at the node's foot
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
    "T2ProjectTexture": TEXT,
    "T2EncodeImage": TEXT,
    "T2SampleShape": TEXT,
    "T2SaveState": TEXT,
    "T2Views": TEXT,
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
