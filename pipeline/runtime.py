"""What a run works with, handed down and never looked up: device, precision, backends, progress, measurement."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import psutil
import torch

from .backends import Backends
from .budget import Budget, device_bytes, held_bytes, is_out_of_memory, unbounded
from .errors import NotFiniteError, OutOfMemoryError, PipelineError, SettingsError
from .speed import EXACT, Speed
from .streaming import streamed

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}  # that a user can choose


@dataclass(frozen=True)
class Step:
    """Progress: `step` of `total` steps of a stage are done, 0 when it begins. `preview`: what exists so far, or None.

    Samplers give their current x_0: [1, C, R, R, R] for the structure, a SparseTensor for latents.
    """

    stage: str
    step: int
    total: int
    preview: Any = None


@dataclass(frozen=True)
class StageRecord:
    """What a stage cost. Peak memory is the device's own on CUDA, the process's on a CPU, in bytes."""

    stage: str
    seconds: float
    loading_seconds: float  # of these, spent on loading models
    peak_bytes: int
    notes: tuple[str, ...] = ()  # how it was made to fit into the memory
    counts: dict[str, int] = field(default_factory=dict)  # of what it worked on: tokens, voxels, faces and the like
    error: str = ""  # why it did not finish
    error_type: str = ""  # the name of that error's class


def choose_device(name: str = "auto") -> torch.device:
    """auto: CUDA (also AMD's), else MPS, else CPU. Raises SettingsError for a device that torch cannot use here."""
    usable = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if usable[kind]))
    kind = name.partition(":")[0]
    if not usable.get(kind, False):
        found = ", ".join(kind for kind, works in usable.items() if works)
        raise SettingsError(f"torch {torch.__version__} cannot use the device {name!r} here; it finds {found}.")
    return torch.device(name)


def choose_dtype(device: torch.device) -> torch.dtype | None:
    """The torso dtype that suits a device: None keeps what the checkpoint says (bf16 flows, fp16 decoders).

    fp32 on a CPU, where fp16 products run hundreds of times slower (2-core AMD EPYC, torch 2.13), and on CUDA
    cards that only emulate bf16.
    """
    if device.type == "cpu":
        return torch.float32
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float32
    return None


def named_dtype(name: str, device: torch.device) -> torch.dtype | None:
    """The torso dtype of a name in DTYPES; "auto": what suits the device."""
    return choose_dtype(device) if name == "auto" else DTYPES[name]


_LEAST_ROOM = 500_000_000  # bytes for tiles, with fewer of which they get many
_INEXACT = 32  # tiles took up to 1 / 40 more than what they were cut for (decoders of released sizes, one H200)
_REPLAYED_TOKENS = 8192  # an H200 is busy with 1.3 G parameters for 25 ms then, and launching takes that long


class Runtime:
    """One run's surroundings.

    Args:
        device: where models and tensors live.
        dtype: torso dtype in place of the checkpoint's; None keeps it.
        backends: the table of operations.
        on_step: called when a stage begins and after every step; an exception it raises stops the run.
        keep_models: keep each model in memory after its stage (faster runs afterwards) instead of
            releasing it (the largest model decides the memory, not their sum).
        memory_limit: bytes of the device that the run plans to use at most, weights included; None: what is free.
        speed: which velocities of samplers are predicted in place of a pass of the network.
        stream: keep weights in main memory and bring them to the device layer by layer.
        on_record: called with the record of every stage when it ends, of those that fail too.
    """

    def __init__(
        self,
        device: torch.device | str,
        backends: Backends,
        dtype: torch.dtype | None = None,
        on_step: Callable[[Step], None] = lambda step: None,
        keep_models: bool = False,
        memory_limit: int | None = None,
        speed: Speed = EXACT,
        stream: bool = False,
        on_record: Callable[[StageRecord], None] = lambda record: None,
    ) -> None:
        self.device, self.dtype, self.backends = torch.device(device), dtype, backends
        self.on_step, self.keep_models, self.memory_limit = on_step, keep_models, memory_limit
        self.speed, self.stream, self.on_record = speed, stream, on_record
        self.records: list[StageRecord] = []
        self._loading = 0.0
        self._notes: list[str] = []
        self._counts: dict[str, int] = {}

    def on(self, device: torch.device | str) -> Runtime:
        """The same run on another device, with all of its memory: one list of records, the same backends."""
        other = copy(self)
        other.device, other.memory_limit = torch.device(device), None
        return other if other.device != self.device else self

    def step(self, stage: str, step: int, total: int, preview: Any = None) -> None:
        """Report progress."""
        self.on_step(Step(stage, step, total, preview))

    @contextmanager
    def use(self, models, role: str, tokens: int, condition: int = 0, voxels: int | None = None) -> Iterator[Any]:
        """A model of weights.Models on the device, of whichever class the role has, for the length of the block.

        tokens, condition and voxels say how much it will work on (see models.working_bytes); a host that shares the
        device with other models overrides this method and needs them.
        """
        start = time.perf_counter()
        model = models.get(role, torch.device("cpu") if self.stream else self.device, self.dtype)
        if self.stream:
            streamed(model, self.device)
        self._loading += time.perf_counter() - start
        models.read_ahead(role)
        try:
            yield model
        finally:
            del model
            if not self.keep_models:
                models.release(role)

    def free_bytes(self) -> int:
        """Bytes of the device that the run may still take. A host that shares the device overrides this method."""
        return device_bytes(self.device, self.memory_limit)

    def budget(self) -> Budget:
        """What work that can be cut into tiles plans with; what it decides for want of free memory is noted in the
        stage's record."""
        return Budget(self.free_bytes, self.note, self.below_the_peak)

    def below_the_peak(self) -> int:
        """Bytes that can be taken without more than the run's peak so far, but a little at least; where networks stay
        on the device, and on a CPU, there is no such bound."""
        if self.device.type != "cuda" or self.keep_models or not self.records:
            return unbounded()
        peak = max(one.peak_bytes for one in self.records)
        return max(_LEAST_ROOM, peak - peak // _INEXACT - held_bytes(self.device))

    def spend(self, part: torch.nn.Module) -> None:
        """Say that a part of the network in use has done its work. Where the network is forgotten after its stage, the
        weights are let go now; a host that has other uses for them overrides this method."""
        if not self.keep_models and not self.stream:
            part.to("meta")

    def note(self, text: str) -> None:
        """Record a decision with the stage that made it, and log it."""
        self._notes.append(text)
        log.info(text)

    def warn(self, text: str) -> None:
        """Say something that a user must see: in the log and in the record of the present stage."""
        self._notes.append(text)
        log.warning(text)

    def replays(self, model: torch.nn.Module, tokens: int) -> bool:
        """Whether a model's forward passes on so many tokens are worth recording as a CUDA graph: launches would take
        longer than the work. A host that moves weights during a pass must say no.

        With torch's allocator cudaMallocAsync, which ComfyUI chooses, a recording gets memory that is there only when
        it is replayed, and Triton refuses to launch a kernel on it.
        """
        if self.device.type != "cuda" or torch.version.hip is not None or self.stream:
            return False
        return tokens <= _REPLAYED_TOKENS and torch.cuda.get_allocator_backend() == "native"

    def count(self, **counts: int) -> None:
        """Put numbers of what the present stage works on into its record."""
        self._counts |= counts

    @contextmanager
    def stage(self, name: str, total: int, cure: str) -> Iterator[None]:
        """Run a block as one stage: announce it (step 0), measure it, without gradients.

        Args:
            total: the steps it will report.
            cure: what a user can do when it runs out of memory.

        Raises:
            OutOfMemoryError: the device or the machine ran out of memory.
        """
        self.backends.raise_found()  # of what was tried while the stage before was at work
        self.step(name, 0, total)
        self._loading, self._notes, self._counts = 0.0, [], {}
        start, memory = time.perf_counter(), PeakMemory(self.device)
        try:
            with torch.no_grad(), memory:
                yield
                synchronise(self.device)
        except (torch.cuda.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                self._failed(name, start, memory, error)
                raise
            traceback.clear_frames(error.__traceback__)  # the error must not keep the stage's tensors alive
            found = OutOfMemoryError(f"Out of memory on {self.device} in stage {name!r}. {cure}", name)
            self._failed(name, start, memory, found)
            raise found from error
        except PipelineError as error:
            self._failed(name, start, memory, error)
            raise
        finally:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        record = self._record(name, start, memory)
        self.records.append(record)
        self.on_record(record)

    def _record(self, name: str, start: float, memory: PeakMemory) -> StageRecord:
        notes, seconds = tuple(dict.fromkeys(self._notes)), time.perf_counter() - start
        return StageRecord(name, seconds, self._loading, memory.peak, notes, self._counts)

    def _failed(self, name: str, start: float, memory: PeakMemory, error: Exception) -> None:
        """Tell that a stage did not finish; the list of records has those that did."""
        record = self._record(name, start, memory)
        self.on_record(replace(record, error=str(error), error_type=type(error).__name__))

    def check_finite(self, what: str, *tensors: torch.Tensor) -> None:
        """Raises NotFiniteError if a tensor holds NaN or infinity."""
        for tensor in tensors:
            if not torch.isfinite(tensor).all():
                raise NotFiniteError(
                    f"The {what} holds NaN or infinity. The weights are damaged or overflow in 16 bits: "
                    "try the dtype float32; if that fails too, download the checkpoint again."
                )


def free_memory() -> int:
    """Bytes of main memory that can be taken without swapping."""
    return psutil.virtual_memory().available


def synchronise(device: torch.device) -> None:
    """Wait for the device's work to finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class PeakMemory:
    """Peak bytes while a block runs: torch's own count on CUDA, sampled 50 times a second elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.peak = device, 0

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._stop = threading.Event()
            self._process = psutil.Process()
            self._sampler = threading.Thread(target=self._sample, daemon=True)
            self._sampler.start()
        return self

    def __exit__(self, *exception) -> None:
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.device)
        else:
            self._stop.set()
            self._sampler.join()
            self.peak = max(self.peak, self._now())

    def _now(self) -> int:
        return torch.mps.driver_allocated_memory() if self.device.type == "mps" else self._process.memory_info().rss

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            self.peak = max(self.peak, self._now())
