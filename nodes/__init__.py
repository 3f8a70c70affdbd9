"""The only folder that depends on ComfyUI: thin V3 nodes over pipeline.stages, one file for each stage.

A class with a schema in any of these files is a node; sockets.py has the types of what travels between them.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

OLDEST_COMFYUI = (0, 3, 64)  # the oldest whose V3 nodes have all that ours use; CI runs them on it


def load():
    """The extension that ComfyUI asks for.

    Raises:
        RuntimeError: this ComfyUI is too old.
    """
    check_version()
    from comfy_api.latest import ComfyExtension

    from .host import copies

    package = __name__.rpartition(".")[0]
    classes = [] if copies.in_use(package, Path(__file__).parents[1]) else node_classes()
    if classes:  # none for a second copy of the pack, which registers nothing
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
    """The classes of all nodes: those that a module of this folder defines with a schema of their own."""
    modules = (import_module(f".{name}", __name__) for name in sorted(found.name for found in iter_modules(__path__)))
    return [
        value
        for module in modules
        for value in vars(module).values()
        if getattr(value, "__module__", "") == module.__name__ and "define_schema" in vars(value)
    ]


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
