"""How kernels of NVIDIA Warp are launched, which compiles them at their first run, for CPUs and for CUDA, without nvcc.

A kernel's first parameter is the first row of a launch (`start`, then row = start + wp.tid()), so that a CPU's threads
can share the rows; launch_single_thread's kernels have none. The others are given as they are; tensors become arrays of
the type that the kernel asks for and share their memory. Warp takes half a second to import: import this module, and
modules with kernels, where they are first needed.
"""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import cache
from queue import Empty, SimpleQueue
from threading import Lock
from typing import TypeAlias

import torch
import warp as wp

from . import cuda_driver, kernel_cache
from .availability import cores

CHUNK = 1 << 16  # most rows of one launch on a CPU, where a launch runs on one core
FEWEST = 1 << 13  # rows that are worth a thread
MOST = 1 << 30  # rows of any launch

_STARTING = Lock()

# What wp.kernel makes of a function is a Kernel; for a type checker it is still the function.
Kernel: TypeAlias = wp.Kernel | Callable[..., None]


def configure(name: str, **options) -> None:
    """Set the options of a file's kernels, before them. name: the file's __name__.

    Warp's cache has a folder by the name, and ComfyUI names a pack's modules by their path: hence a name of our own.
    """
    module = wp.get_module(name)
    wp.set_module_options({"enable_backward": False, "fast_math": False, **options}, module)
    module.name = "trellis2_" + name.rpartition(".")[2]
    kernel_cache.guard(module)


def launch_parallel(kernel: Kernel, count: int, *arguments, chunk: int = 0, first: int = 0) -> None:
    """Launch a kernel over `count` rows that do not disturb each other: whole on a GPU, in chunks from a pool of
    threads on a CPU.

    chunk: rows of one launch on a CPU; 0: some for each core, FEWEST to CHUNK. first: the number of the first row.
    """
    given, device = _given(kernel, arguments, 1), _device(arguments)
    workers = cores() if device.is_cpu else 1
    _share(kernel, range(first, first + count), [given] * workers, device, chunk or _even(count, workers))


def launch_atomic(kernel: Kernel, count: int, *arguments) -> None:
    """Launch a kernel over `count` rows that write to each other's places: through atomics on a GPU; on a CPU, where
    Warp's are none, one after the other."""
    _share(kernel, range(count), [_given(kernel, arguments, 1)], _device(arguments), MOST)


def launch_per_worker(
    kernel: Kernel, count: int, arguments: Callable[[int], Sequence], workers: int, chunk: int = CHUNK
) -> None:
    """Launch a kernel over `count` rows, shared by workers that each have arguments of their own, such as a buffer.

    Args:
        arguments: worker's number -> its arguments. workers: see workers_on; `chunk` rows at a time on a CPU.
    """
    each = [arguments(number) for number in range(workers)]
    _share(kernel, range(count), [_given(kernel, given, 1) for given in each], _device(each[0]), chunk)


def launch_single_thread(kernel: Kernel, *arguments) -> None:
    """Launch a kernel on a CPU once, in the thread that calls."""
    load(_kernel(kernel).module, "cpu")
    wp.launch(kernel, 1, _given(kernel, arguments, 0), device="cpu")


def workers_on(device: torch.device, most: int) -> int:
    """How many workers with buffers of their own add to a result: one on a GPU, which has atomics."""
    return min(cores(), most) if device.type == "cpu" else 1


def array(tensor: torch.Tensor, dtype=None) -> wp.array:
    """A tensor as a Warp array that shares its memory, for structs and trees; [N, 3] float32 as vec3 by default."""
    _start()
    if dtype is None and tensor.dtype == torch.float32 and tensor.ndim == 2 and tensor.shape[1] == 3:
        dtype = wp.vec3
    return wp.from_torch(tensor.detach().contiguous(), dtype=dtype)


def face_tree(vertices: torch.Tensor, faces: torch.Tensor) -> wp.Mesh:
    """A mesh and the bounding volume tree of its faces. vertices: [V, 3] float32. faces: [F, 3] int32."""
    points, corners = array(vertices), array(faces.reshape(-1))
    with wp.ScopedStream(_stream(_device([points]))):
        return wp.Mesh(points, corners)  # which keeps the arrays alive, as these the tensors


def refit(tree: wp.Mesh) -> None:
    """Make a face_tree right again after its vertices, or which of them its faces have, were changed in place."""
    with wp.ScopedStream(_stream(_device([tree.points]))):
        tree.refit()


@contextmanager
def box_tree(low: torch.Tensor, high: torch.Tensor) -> Iterator[wp.uint64]:
    """The number, for kernels, of a bounding volume tree of boxes [N, 3], which lives as long as the block."""
    corners = array(low), array(high)
    stream = _stream(_device(corners))
    with wp.ScopedStream(stream):
        tree = wp.Bvh(*corners)
    yield tree.id
    if stream is not None:
        wp.synchronize_stream(stream)  # before it goes


class _Quietly:
    """Without Warp's banner and its lines about modules, whichever threads are inside; other users of Warp in this
    process keep theirs."""

    def __init__(self) -> None:
        self._lock, self._inside, self._before = Lock(), 0, 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before, wp.config.log_level = wp.config.log_level, wp.LOG_ERROR
            self._inside += 1

    def __exit__(self, *exception) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                wp.config.log_level = self._before


_quietly = _Quietly()


@cache
def _start() -> None:
    """Start Warp when it is first used, not when it is imported."""
    with _STARTING, _quietly, cuda_driver.warning_silenced():
        kernel_cache.initialise()


@cache
def load(module: "wp.Module", device: str) -> None:
    """Compile a module of kernels for a device, once, before threads launch them: two at once must not compile the same
    one, which kernel_cache.guard sees to.

    device: Warp's name of it.
    """
    _start()
    with _quietly:
        wp.load_module(module, device=device)


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    """Threads that wait for work: some steps launch thousands of kernels."""
    return ThreadPoolExecutor(workers, thread_name_prefix="trellis2")


def _share(kernel: Kernel, rows: range, given: list[list], device: "wp.Device", chunk: int) -> None:
    """given: each worker's arguments, of which a GPU takes the first."""
    if len(rows) == 0:
        return
    load(_kernel(kernel).module, str(device))
    if not device.is_cpu:
        stream = _stream(device)
        for start in rows[::MOST]:
            wp.launch(kernel, min(MOST, rows.stop - start), [start, *given[0]], device=device, stream=stream)
        return
    starts = rows[::chunk]
    if len(starts) == 1 or len(given) == 1:
        for start in starts:
            wp.launch(kernel, min(chunk, rows.stop - start), [start, *given[0]], device=device)
        return
    waiting = SimpleQueue()
    for start in starts:
        waiting.put(start)

    def work(arguments: list) -> None:
        while True:
            try:
                start = waiting.get_nowait()
            except Empty:
                return
            wp.launch(kernel, min(chunk, rows.stop - start), [start, *arguments], device=device)

    running = [_pool(len(given)).submit(work, each) for each in given[: len(starts)]]
    try:
        wait(running, return_when=FIRST_EXCEPTION)
    finally:  # whatever stopped the wait, nothing writes to the caller's tensors afterwards
        with suppress(Empty):  # workers go on taking meanwhile
            while True:
                waiting.get_nowait()
        wait(running)
    for each in running:
        each.result()


def _kernel(given: Kernel) -> wp.Kernel:
    if not isinstance(given, wp.Kernel):
        raise TypeError(f"{given} is no kernel; expected a function that wp.kernel decorates.")
    return given


def _even(count: int, workers: int) -> int:
    """Rows of a launch on a CPU: a few for each worker, multiples of FEWEST."""
    return min(max(-(-count // (4 * workers * FEWEST)), 1) * FEWEST, CHUNK)


def _given(given: Kernel, arguments: Sequence, first: int) -> list:
    """The arguments of a kernel from its parameter number `first` on, tensors as bare descriptors of arrays: made ten
    times as fast as Warp's own arrays."""
    _start()
    kernel = _kernel(given)
    parameters = kernel.adj.args[first:]
    if len(parameters) != len(arguments):
        raise TypeError(
            f"The kernel {kernel.key} takes {len(parameters)} arguments behind its rows, not {len(arguments)}."
        )
    return [_descriptor(each, parameter) for each, parameter in zip(arguments, parameters)]


def _descriptor(value, parameter):
    if not isinstance(value, torch.Tensor):
        return value
    wanted, value = parameter.type, value.detach() if value.requires_grad else value
    found = wp.from_torch(value.contiguous(), dtype=wanted.dtype, return_ctype=True)
    if found.ndim != wanted.ndim:
        raise TypeError(
            f"{parameter.label} is a tensor {list(value.shape)}, but the kernel takes {wanted.ndim} dimensions."
        )
    return found


def _device(arguments: Sequence) -> "wp.Device":
    """Where the first tensor or array is."""
    for each in arguments:
        if isinstance(each, torch.Tensor):
            return wp.device_from_torch(each.device)
        if isinstance(each, wp.array) and each.device is not None:
            return each.device
    raise TypeError("None of the kernel's arguments is a tensor.")


def _stream(device: "wp.Device") -> wp.Stream | None:
    """Torch's stream, so that kernels run in turn with its own; None on a CPU."""
    return None if device.is_cpu else _same_stream(torch.cuda.current_stream(device.ordinal))


@cache
def _same_stream(stream: torch.cuda.Stream) -> wp.Stream:
    """Warp's name of a stream of torch, which keeps its streams for ever: registered once, not for each launch."""
    return wp.stream_from_torch(stream)
