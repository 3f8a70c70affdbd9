"""Memory that work may take: what is free on a device, and how work that can be cut into parts makes use of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch

log = logging.getLogger(__name__)


def unbounded() -> int:
    """More bytes than there are."""
    return 1 << 62


@dataclass(frozen=True)
class Budget:
    """What a part of a run may take, asked for just before it is taken.

    free: bytes that can be taken now, beside all that is held. note: called with a decision that is worth recording.
    wanted: bytes that should not be exceeded although more are free, which is no matter worth recording.
    """

    free: Callable[[], int]
    note: Callable[[str], None] = log.info
    wanted: Callable[[], int] = unbounded


UNBOUNDED = Budget(unbounded)


def device_bytes(device: torch.device, limit: int | None = None) -> int:
    """Bytes that can be taken on a device now. limit: bytes that this process may hold there in all; None: no limit.

    torch's cached blocks count as free; so does, on a CPU, what the system can drop without swapping.
    """
    if device.type == "cuda":
        return _cuda_bytes(device, limit)
    free, held = psutil.virtual_memory().available, held_bytes(device)
    if device.type == "mps":  # shares the main memory
        free = min(free, torch.mps.recommended_max_memory() - held)
    return max(0, free if limit is None else min(free, limit - held))


def held_bytes(device: torch.device) -> int:
    """Bytes of a device that this process holds now, as a limit counts them: on a CPU all of the process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.current_allocated_memory()
    return psutil.Process().memory_info().rss


def _cuda_bytes(device: torch.device, limit: int | None) -> int:
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    free, total = torch.cuda.mem_get_info(device)
    free += reserved - allocated
    if hasattr(torch.cuda, "get_per_process_memory_fraction"):  # torch 2.8 and newer
        free = min(free, int(total * torch.cuda.get_per_process_memory_fraction(_index(device))) - allocated)
    return max(0, free if limit is None else min(free, limit - allocated))


def _index(device: torch.device) -> int:
    """The number of a CUDA device; "cuda" alone is the current one, which torch's memory fractions do not know."""
    return torch.cuda.current_device() if device.index is None else device.index


def bound(device: torch.device, limit: int) -> None:
    """Let this process take at most `limit` bytes of a CUDA device from torch; other devices have no such bound."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), _index(device))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or the machine has no memory left: MPS and torch's allocator on a CPU
    raise a plain RuntimeError."""
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or any(
        phrase in str(error) for phrase in ("out of memory", "not enough memory", "can't allocate memory")
    )
