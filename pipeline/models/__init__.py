"""The networks of a checkpoint, built from their JSON."""

from .build import build

__all__ = ["build"]
