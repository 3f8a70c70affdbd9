"""The networks of a checkpoint, built from their JSON."""

from .build import build
from .memory import coarse_bytes, working_bytes

__all__ = ["build", "coarse_bytes", "working_bytes"]
