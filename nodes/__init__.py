"""The only room that knows ComfyUI: thin V3 nodes over pipeline.stages, one file a group of stages."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

OLDEST_COMFYUI = (0, 3, 64)

# Every node, in the order of a graph: module -> classes.
_NODES = {
    "loading": ("LoadModels",),
    "picture": ("PrepareImage", "EncodeImage"),
    "sample": ("SamplerSettingsNode", "SampleStructure", "SampleShape", "SampleTexture"),
    "decode": ("DecodeShape", "DecodeTexture"),
    "finish": ("ProcessMesh", "BakeTexture", "ColorVertices", "RenderMesh", "ExportGLB"),
    "export_mesh": ("ExportMesh",),
    "simple": ("ImageToGLB", "GatherFiles"),
    "convert": ("MeshToCore", "MeshFromCore", "VoxelsToCore"),
}


def load():
    """The extension that ComfyUI asks for.

    Raises:
        RuntimeError: this ComfyUI is too old.
    """
    check_version()
    from comfy_api.latest import ComfyExtension

    from .host import copies

    package = __package__.rpartition(".")[0]
    classes = [] if copies.in_use(package, Path(__file__).parents[1]) else node_classes()
    if classes:  # nothing of a second copy is imported, and it registers nothing
        from .host import folders, health, pictures

        folders.register()
        pictures.offer_examples()
        health.add_route()
        classes = copies.free_ids(classes, package)

    class Extension(ComfyExtension):  # its on_load is not called by every ComfyUI that we support
        async def get_node_list(self) -> list[type]:
            return classes

    return Extension()


def node_classes() -> list[type]:
    """The classes of all nodes."""
    return [getattr(import_module(f".{module}", __name__), name) for module, names in _NODES.items() for name in names]


def check_version() -> None:
    """Raises RuntimeError if ComfyUI is older than the pack supports."""
    try:
        from comfyui_version import __version__ as found
    except ImportError:  # not started by ComfyUI's main.py, or a fork without the file
        return
    if tuple(int(part) for part in found.split(".")[:3] if part.isdigit()) < OLDEST_COMFYUI:
        wanted = ".".join(map(str, OLDEST_COMFYUI))
        raise RuntimeError(
            f"ComfyUI {found} is too old for ComfyUI-TRELLIS2-Stages: its nodes use the V3 node interface as it is "
            f"since ComfyUI {wanted}. Update ComfyUI."
        )
