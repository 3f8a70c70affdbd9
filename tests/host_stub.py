"""As much of ComfyUI as the nodes need to declare themselves, for tests on machines without one.

`python tests/host_stub.py` prints interface.json: what saved graphs rely on.
"""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
PACK = "trellis2_pack"
VARYING = ("checkpoint", "decoders", "image_encoder")  # inputs whose options depend on the machine
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


class Socket:
    """An input or an output: its id and whatever else it was given."""

    io_type = ""

    def __init__(self, id=None, *, types=(), **options):
        self.id, self.options, self.extra_dict = id, options, {}
        self.default, self.optional = options.get("default"), bool(options.get("optional"))
        if types:
            self.io_type = ",".join(each.Output.io_type for each in types)


class Schema(SimpleNamespace):
    """A node's schema: whatever it was given."""

    def __init__(self, *, search_aliases=(), **options):
        super().__init__(search_aliases=search_aliases, **options)


def custom(io_type):
    """A socket type."""
    return SimpleNamespace(
        Input=type("Input", (Socket,), {"io_type": io_type}), Output=type("Output", (Socket,), {"io_type": io_type})
    )


def _io():
    names = {"Int": "INT", "Float": "FLOAT", "String": "STRING", "Boolean": "BOOLEAN", "Combo": "COMBO"}
    names |= {"Image": "IMAGE", "Mask": "MASK", "Mesh": "MESH", "Voxel": "VOXEL", "MultiType": ""}
    types = {name: custom(io_type) for name, io_type in names.items()}
    hidden = SimpleNamespace(prompt="PROMPT", extra_pnginfo="EXTRA_PNGINFO", dynprompt="DYNPROMPT")
    classes = {"Schema": Schema, "ComfyNode": object, "Input": Socket, "NodeOutput": SimpleNamespace}
    return SimpleNamespace(Custom=custom, Hidden=hidden, File3DGLB=custom("FILE_3D_GLB"), **types, **classes)


def _modules():
    def nothing(*_):
        raise AssertionError("only ComfyUI can do this")

    yield "comfy_api.latest", {"io": _io(), "ComfyExtension": object}
    yield "comfy.cli_args", {"args": SimpleNamespace(disable_metadata=False), "parser": None}
    yield "comfy.ldm.modules.attention", {"optimized_attention": nothing}
    yield "comfy.model_management", {"throw_exception_if_processing_interrupted": nothing}
    yield "comfy.model_patcher", {"ModelPatcher": object}
    yield "comfy.ops", {"CastWeightBiasOp": object}
    yield "comfy.utils", {}
    yield "comfy_execution.graph_utils", {"GraphBuilder": object}
    yield "comfy_execution.progress", {"NodeState": object, "get_progress_state": nothing}
    yield "comfy_execution.utils", {"get_executing_context": nothing}
    yield (
        "folder_paths",
        {
            "models_dir": "models",
            "get_filename_list": lambda kind: [],
            "get_folder_paths": lambda kind: [],
            "add_model_folder_path": nothing,
        },
    )


def pack(name=PACK):
    """The pack as a package called otherwise than its folder, as ComfyUI loads it."""
    if name not in sys.modules:
        spec = spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def stubbed_nodes():
    """The pack's node classes, made with the stub in ComfyUI's place."""
    fakes = {}
    for name, contents in _modules():
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            full = ".".join(parts[:depth])
            module = fakes.setdefault(full, ModuleType(full))
            module.__path__ = []
            if depth > 1:
                setattr(fakes[".".join(parts[: depth - 1])], parts[depth - 1], module)
        vars(fakes[name]).update(contents)
    before = {name: sys.modules.get(name) for name in fakes}
    sys.modules.update(fakes)
    try:
        from importlib import import_module

        pack()
        return import_module(f"{PACK}.nodes").node_classes()
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def declared(node):
    """A stubbed node's interface, in the form of interface.json."""
    schema = node.define_schema()
    inputs = {}
    for each in schema.inputs:
        options = {**each.options, **each.extra_dict}
        inputs[each.id] = _input(each.io_type, options, each.optional)
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "category": schema.category,
        "output_node": bool(getattr(schema, "is_output_node", False)),
        "inputs": _varying_removed(inputs),
        "outputs": [
            {"name": each.options["display_name"], "type": each.io_type, "tooltip": each.options.get("tooltip")}
            for each in schema.outputs
        ],
    }


def served(info):
    """A node's interface from ComfyUI's /object_info, in the form of interface.json."""
    inputs = {}
    for kind in ("required", "optional"):
        for name, (io_type, options) in info["input"].get(kind, {}).items():
            inputs[name] = _input(io_type, options, kind == "optional")
    outputs = zip(info["output_name"], info["output"], info["output_tooltips"])
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "category": info["category"],
        "output_node": info["output_node"],
        "inputs": _varying_removed(inputs),
        "outputs": [{"name": name, "type": io_type, "tooltip": tooltip} for name, io_type, tooltip in outputs],
    }


def _input(io_type, options, optional):
    if isinstance(io_type, list):  # hosts of 2025 put a combo's options in the type's place
        io_type, options = "COMBO", {**options, "options": io_type}
    kept = ("default", "min", "max", "step", "options", "tooltip", "rawLink")
    facts = {key: options[key] for key in kept if options.get(key) is not None}
    return {"type": io_type, "optional": optional, "advanced": bool(options.get("advanced")), **facts}


def _varying_removed(inputs):
    for name in VARYING:
        if name in inputs:
            inputs[name].pop("options")
    if "checkpoint" in inputs:
        inputs["checkpoint"].pop("tooltip")  # lists what is there
    return inputs


if __name__ == "__main__":
    nodes = {node.define_schema().node_id: declared(node) for node in stubbed_nodes()}
    print(json.dumps(nodes, indent=1))
