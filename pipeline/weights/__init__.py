"""Checkpoints: where the files of each model are, in which layout, and how they fill the modules."""

from .checkpoint import (
    SMALL_CHECKPOINT,
    SMALL_IS,
    Checkpoint,
    Models,
    open_bundles,
    open_checkpoint,
)
from .origins import RELEASED_CHECKPOINT
from .survey import Survey, survey

__all__ = [
    "RELEASED_CHECKPOINT",
    "SMALL_CHECKPOINT",
    "SMALL_IS",
    "Checkpoint",
    "Models",
    "Survey",
    "open_bundles",
    "open_checkpoint",
    "survey",
]
