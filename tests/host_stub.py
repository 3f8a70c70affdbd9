"""The pack's nodes with a stub (host_modules.py) in ComfyUI's place, and their interface in the form of interface.json.

`python tests/host_stub.py` prints interface.json: what saved graphs rely on.
"""

import json
import sys
from contextlib import contextmanager
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACK = "trellis2_pack"
VARYING = ("checkpoint", "decoders", "image_encoder")  # inputs whose options depend on the machine
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def pack(name=PACK):
    """The pack as a package called otherwise than its folder, as ComfyUI loads it."""
    if name not in sys.modules:
        spec = spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@contextmanager
def installed():
    """The stub in ComfyUI's place: what is imported meanwhile finds it, and afterwards nobody."""
    from host_modules import by_name  # which imports torch

    stub = by_name()
    before = {name: sys.modules.get(name) for name in stub}
    sys.modules.update(stub)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def stubbed_nodes():
    """The pack's node classes, made with the stub in ComfyUI's place."""
    pack()
    with installed():
        return import_module(f"{PACK}.nodes").node_classes()


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
