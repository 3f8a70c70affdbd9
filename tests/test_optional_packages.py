"""The table of optional packages that install.py shows: whole, and as the code and the requirements files have it."""

import ast
import sys

from installation.machine import Machine
from installation.packages import OPTIONS, REFERENCE, required_name
from installation.probe import Found
from pipeline.stages import default_backends

COMFYUI = (
    "aiohttp",
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "comfy_kitchen",
    "comfyui_version",
    "folder_paths",
    "server",
)


def third_party(root):
    """The modules that the pack imports anywhere and which are neither Python's, torch nor ComfyUI's."""
    found = set()
    for path in [*(root / "pipeline").rglob("*.py"), *(root / "nodes").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.partition(".")[0])
    return found - {*sys.stdlib_module_names, "torch", *COMFYUI}


def test_every_package_that_the_pack_can_use_is_listed(root):
    """Required or in the table, whose requirements are those of the requirements files."""
    listed = {option.imported for option in OPTIONS + REFERENCE}
    required = {name.replace("-", "_") for name in map(required_name, lines_of(root / "requirements.txt"))}
    assert third_party(root) <= listed | required | {"PIL", "warp", "pooch"}  # Pillow's, warp-lang's, rembg's own
    assert listed >= {"trimesh", "pynanoinstantmeshes", "pxr", "av", "OpenEXR", "pillow_heif"}
    none = Machine((3, 12, 0), "Linux", "x86_64", Found("usable"))
    wanted = {package for option in OPTIONS for package in option.packages(none)}
    for name in ("meshes", "quads", "usdz"):
        assert set(lines_of(root / f"requirements-{name}.txt")) <= wanted


def lines_of(path):
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def test_the_options_that_it_names_work():
    """Two rows of the table after one --backend are refused."""
    for option in REFERENCE:
        _, *choices = option.use.split("--backend ")
        assert choices
        for choice in choices:
            operation, name = choice.strip().split("=")
            default_backends({operation: name})  # refuses what the table lacks
