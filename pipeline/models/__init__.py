"""The networks of a checkpoint, built from their JSON."""

from .build import build
from .memory import working_bytes

__all__ = ["build", "working_bytes"]
