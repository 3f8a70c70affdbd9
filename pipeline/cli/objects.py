"""What options say about one object: shared by `generate`, `refine`, `texture` and the service."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from ..make import ObjectSettings
from ..spec import PipelineType
from ..weights import Checkpoint
from .export import export_settings
from .project import projection
from .samplers import samplers
from .settings import settings_of


def type_of(options: argparse.Namespace) -> PipelineType | None:
    """What --type names; None: the checkpoint's own. Raises SettingsError for an unknown name."""
    return PipelineType.named(options.type) if options.type else None


def object_settings(
    options: argparse.Namespace, output: Path | None, opened: Callable[[], Checkpoint]
) -> tuple[ObjectSettings, Checkpoint]:
    """What the options of `generate` say, and the checkpoint for it.

    output: the mesh's file; None: none is written. opened: opens the checkpoint, which may be a download: it is called
    when all is checked that can be checked without it.

    Raises:
        SettingsError, BackendError: options that cannot work, contradict each other or have no effect.
    """
    export = export_settings(options, output)
    projected = projection(options, output is not None and not (options.geometry_only or export.vertex_colors))
    asked, checkpoint = type_of(options), opened()
    settings = settings_of(
        ObjectSettings,
        options,
        pipeline_type=asked or checkpoint.default_pipeline_type,
        samplers=samplers(options, checkpoint.spec),
        export=None if output is None else export,
        projection=projected,
    )
    return settings, checkpoint
