"""Kernels on NVIDIA Warp, which compiles them when they first run, for CPUs and for CUDA, without nvcc.

Only Warp code and how it is launched; callers import this module when they first need it, for Warp takes half a
second to import.
"""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
import warp as wp

from .availability import cores

wp.config.log_level = wp.LOG_ERROR  # no banner
wp.init()


def configure(name: str, **options) -> None:
    """Set the options of a file's kernels, before them. name: the file's __name__.

    Warp's cache has a folder by the name, and ComfyUI names a pack's modules by their path: hence a name of our own.
    """
    module = wp.get_module(name)
    wp.set_module_options({"enable_backward": False, "fast_math": False, **options}, module)
    module.name = "trellis2_" + name.rpartition(".")[2]


configure(__name__)

CHUNK = 1 << 16  # threads of one launch on a CPU, where a launch runs on one core


@wp.kernel
def closest_point(
    mesh: wp.uint64,
    points: wp.array[wp.vec3],
    limit: wp.float32,
    face: wp.array[wp.int32],
    weights: wp.array[wp.vec3],
    distance: wp.array[wp.float32],
):
    i = wp.tid()
    found = wp.mesh_query_point_no_sign(mesh, points[i], limit)
    if found.result:
        at = wp.mesh_eval_position(mesh, found.face, found.u, found.v)
        face[i] = found.face
        weights[i] = wp.vec3(found.u, found.v, 1.0 - found.u - found.v)
        distance[i] = wp.length(at - points[i])
    else:
        face[i] = -1
        weights[i] = wp.vec3(0.0, 0.0, 0.0)
        distance[i] = wp.inf


@wp.kernel
def cast_ray(
    mesh: wp.uint64,
    origins: wp.array[wp.vec3],
    directions: wp.array[wp.vec3],
    limit: wp.float32,
    face: wp.array[wp.int32],
    weights: wp.array[wp.vec3],
    distance: wp.array[wp.float32],
):
    i = wp.tid()
    found = wp.mesh_query_ray(mesh, origins[i], directions[i], limit)
    if found.result:
        face[i] = found.face
        weights[i] = wp.vec3(found.u, found.v, 1.0 - found.u - found.v)
        distance[i] = found.t
    else:
        face[i] = -1
        weights[i] = wp.vec3(0.0, 0.0, 0.0)
        distance[i] = wp.inf


@wp.kernel
def winding_number(mesh: wp.uint64, points: wp.array[wp.vec3], inside: wp.array[wp.bool]):
    i = wp.tid()
    found = wp.mesh_query_point_sign_winding_number(mesh, points[i], 1.0e6, 2.0, 0.5)
    inside[i] = found.sign < 0.0


def device_of(tensor: torch.Tensor) -> str:
    """Warp's name for a tensor's device."""
    return "cpu" if tensor.device.type == "cpu" else f"cuda:{tensor.device.index or 0}"


def array(tensor: torch.Tensor) -> wp.array:
    """A tensor as a Warp array that shares its memory; [N, 3] float32 as vec3."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.float32 and tensor.ndim == 2 and tensor.shape[1] == 3:
        return wp.from_torch(tensor, dtype=wp.vec3)
    return wp.from_torch(tensor)


def stream_of(where: str) -> wp.Stream | None:
    """Torch's stream, so that kernels run in turn with its own; None on a CPU. where: Warp's name of the device."""
    return None if where == "cpu" else wp.stream_from_torch(torch.cuda.current_stream(torch.device(where)))


def run_whole(kernel: wp.Kernel, count: int, arguments: list, where: str) -> None:
    """Launch a kernel whose threads write to each other's places: with atomics on a GPU; on a CPU, where Warp's are
    none, one after the other."""
    if count:
        wp.launch(kernel, count, arguments, device=where, stream=stream_of(where))


def run(kernel: wp.Kernel, count: int, arguments: Callable[[int, int], list], where: str, chunk: int = CHUNK) -> None:
    """Launch a kernel over `count` rows: whole on a GPU, in chunks from a thread pool on a CPU.

    Args:
        arguments: (first row, row behind the last) -> the kernel's arguments for these rows.
        where: Warp's name of the device.
        chunk: rows of one launch on a CPU.
    """
    step = chunk if where == "cpu" else max(count, 1)
    starts = range(0, count, step)
    run_each(kernel, ((min(step, count - i), arguments(i, min(i + step, count))) for i in starts), where)


def run_each(kernel: wp.Kernel, launches: Iterable[tuple[int, list]], where: str) -> None:
    """Launch a kernel once for each (threads, arguments): in turn on a GPU, from a thread pool on a CPU, where the
    launches must not write to the same places."""
    if where != "cpu":
        stream = stream_of(where)
        for threads, arguments in launches:
            wp.launch(kernel, threads, arguments, device=where, stream=stream)
        return
    wp.load_module(kernel.module, device=where)  # before the threads: modules must not be compiled by two at once
    with ThreadPoolExecutor(cores()) as pool:
        work = [pool.submit(wp.launch, kernel, threads, arguments, device=where) for threads, arguments in launches]
        for each in work:
            each.result()
