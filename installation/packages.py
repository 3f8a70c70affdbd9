"""Optional packages: what each is for, what it needs of the machine, and what pip has to bring for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .machine import Machine


@dataclass(frozen=True)
class Need:
    """Something a package asks of the machine, and what to say where it is not so."""

    met: Callable[[Machine], bool]
    why: str


@dataclass(frozen=True)
class Option:
    """An optional package that this version really uses."""

    name: str  # on our command line, and of the module unless that is said
    use: str = ""
    code: str = ""  # the probe's; without it a plain import
    needs: tuple[Need, ...] = ()  # for running it
    wheels: tuple[Need, ...] = ()  # for installing it
    packages: Callable[[Machine], tuple[str, ...]] = lambda machine: ()  # what pip has to bring
    module: str = ""

    @property
    def imported(self) -> str:
        """The name of its module."""
        return self.module or self.name


def rembg_packages(machine: Machine) -> tuple[str, ...]:
    # The two builds of onnxruntime share a folder, so the one that is there stays. Those on PyPI for GPUs are made
    # for CUDA 13; they borrow the libraries that torch has loaded.
    build = next((name for name in ("onnxruntime", "onnxruntime-gpu") if name in machine.installed), "")
    if build and "rembg" in machine.installed:
        return ()
    fits = machine.is_x86 and machine.cuda.startswith("13.") and machine.python >= (3, 11)
    return ("rembg[gpu]",) if build == "onnxruntime-gpu" or (not build and fits) else ("rembg[cpu]",)


def missing(machine: Machine, *packages: str) -> tuple[str, ...]:
    """Those that are not installed: one that is there but broken would only be "already satisfied"."""
    return tuple(package for package in packages if required_name(package) not in machine.installed)


def plain(name: str, use: str, requirement: str = "", module: str = "", wheels: tuple[Need, ...] = ()) -> Option:
    """One of which a wheel is all that it needs."""
    wanted = requirement or name
    return Option(name, use, wheels=wheels, packages=lambda machine: missing(machine, wanted), module=module)


def required_name(requirement: str) -> str:
    """The package that a line of requirements asks for."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


_GPU = Need(lambda machine: bool(machine.gpus), "needs a GPU that torch can use")
_NVIDIA = Need(lambda machine: bool(machine.cuda), "needs an NVIDIA GPU and a CUDA build of torch")
_AMPERE = Need(lambda machine: machine.capability >= (8, 0), "needs an NVIDIA GPU of the RTX 30 generation or newer")
_LAUNCHER = Need(
    lambda machine: machine.has_compiler,
    "needs gcc or clang and Python's headers (python3-dev) for Triton's first run",
)
_TRITON_KNOWN = Need(lambda machine: bool(machine.triton), "no Triton on PyPI is known to match this torch")
_X86 = Need(lambda machine: machine.is_x86, "no wheel on PyPI for this platform")
_DESKTOP = Need(
    lambda machine: machine.is_x86 or (machine.system == "Darwin" and machine.processor.lower() == "arm64"),
    "no wheel on PyPI for this platform",
)
_CUDA_12 = Need(lambda machine: machine.cuda.startswith("12."), "its wheels on PyPI are made for CUDA 12 only")
SOURCE_ONLY = Need(lambda machine: False, "no wheel on PyPI, only its source, which would have to be compiled")

_ATTENTION = "attention kernel for the loader's attention = comfyui"
OPTIONS = (
    Option(
        "rembg",
        "removes the background of a picture that has neither transparency nor a mask",
        "import onnxruntime, rembg",  # without onnxruntime rembg ends the process
        packages=rembg_packages,
    ),
    plain("pillow_heif", "reads HEIF pictures, as phones take them", "pillow-heif"),
    plain("trimesh", "reads meshes as OBJ, PLY and STL; GLB and glTF need no package", "trimesh>=4"),
    plain("pynanoinstantmeshes", "makes quads: --quads", "pynanoinstantmeshes>=0.0.3", wheels=(_DESKTOP,)),
    plain("usd-core", "writes and reads USDZ", "usd-core>=24.11", module="pxr", wheels=(_DESKTOP,)),
    plain("av", "writes turntables as MP4"),
    plain("OpenEXR", "reads environments as EXR; HDR needs no package"),
    Option(
        "sageattention",
        f"{_ATTENTION}, when ComfyUI is started with --use-sage-attention",
        "from sageattention import sageattn",
        needs=(_GPU, _LAUNCHER),
        wheels=(_NVIDIA, _AMPERE, _TRITON_KNOWN),
        packages=lambda machine: missing(machine, "sageattention", *machine.triton),
    ),
    Option(
        "triton",
        "runs the pack's own kernels on NVIDIA GPUs, and sageattention's",
        "import triton, triton.language",
        needs=(_GPU, _LAUNCHER),
        wheels=(_NVIDIA, _TRITON_KNOWN),
        packages=lambda machine: missing(machine, *machine.triton),
    ),
    Option(
        "xformers",
        f"{_ATTENTION}; ComfyUI prefers it when it is installed",
        "import xformers, xformers.ops\n"
        "if not xformers._has_cpp_library:\n"  # what ComfyUI asks too
        "    raise SystemExit('its compiled part does not load with this torch')",
        needs=(_GPU,),
        wheels=(_NVIDIA, _X86, _CUDA_12),
        packages=lambda machine: missing(machine, "xformers"),
    ),
    Option(
        "flash_attn",
        f"{_ATTENTION}, when ComfyUI is started with --use-flash-attention",
        "from flash_attn import flash_attn_func",
        wheels=(SOURCE_ONLY,),
    ),
)
# Microsoft's compiled packages: people have them. None is needed, each runs where it is chosen (docs/performance.md).
REFERENCE = (
    Option(
        "cumesh",
        "another simplifier: --backend simplify=cumesh",
        "import cumesh\nif not hasattr(cumesh, 'CuMesh'):\n    raise SystemExit('placeholder, not CuMesh')",
    ),
    Option(
        "nvdiffrast",
        "another UV raster, not for commercial use: --backend raster=nvdiffrast",
        "import nvdiffrast.torch",
    ),
    Option(
        "o_voxel",
        "another way from meshes to voxels and back: --backend mesh_to_dual_grid=o_voxel "
        "--backend dual_grid_to_mesh=o_voxel",
    ),
    Option(
        "flex_gemm",
        "sparse convolutions where the pack's own kernels cannot run: --backend submanifold_conv=flex_gemm",
    ),
)
