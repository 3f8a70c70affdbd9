"""Presets: what an object is for, as rows of settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .types import ExportSettings


@dataclass(frozen=True)
class Preset:
    """resolution: name of a pipeline type, "" for the checkpoint's own. export: how the mesh becomes a file."""

    resolution: str
    export: ExportSettings

    def settings(
        self, faces: int | None = None, texture_size: int | None = None, textures: bool = True
    ) -> ExportSettings:
        """With another number of faces or another texture, where they are given; without the levels of detail that are
        no coarser then, and without what is for textures if there are none."""
        wanted = replace(
            self.export, faces=self.export.faces if faces is None else faces, lods=(), normal_map=False, seams="usual"
        )
        lods = tuple(count for count in self.export.lods if count < wanted.faces)
        size = self.export.texture_size if texture_size is None else texture_size
        baked = {"normal_map": self.export.normal_map, "seams": self.export.seams}
        return replace(wanted, lods=lods, texture_size=size, **(baked if textures else {}))


def _plain(faces: int, texture_size: int) -> ExportSettings:
    return ExportSettings(faces=faces, texture_size=texture_size, shells="auto")


_GAME = replace(_plain(10_000, 2048), lods=(4_000, 1_500), normal_map=True, seams="fewer")
PRESETS = {
    "draft": Preset("512", _plain(100_000, 1024)),
    "standard": Preset("", _plain(500_000, 2048)),
    "high": Preset("1536_cascade", _plain(1_000_000, 4096)),
    "game": Preset("", _GAME),
}
