"""How a mesh becomes a file: the options of every command that writes one, and the stages that follow them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from .. import stages
from ..errors import SettingsError
from ..export import WRITERS, AlphaMode, TrueSize, level_path, writer, written_paths
from .settings import settings_of

_Kind = TypeVar("_Kind")


def add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset",
        choices=stages.PRESETS,
        default="standard",
        help="defaults of --faces, --texture-size, --lods, --normal-map and --seams: "
        + "; ".join(f"{name}: {_in_words(preset.export)}" for name, preset in stages.PRESETS.items())
        + "; default: standard",
    )
    parser.add_argument("--faces", type=int, metavar="N", help="maximum number of faces; default: 500000")
    parser.add_argument(
        "--quads",
        type=int,
        default=0,
        metavar="N",
        help="about this many quads aligned with the shape instead of --faces triangles; .obj and .ply store quads, "
        "the other formats triangles; needs pynanoinstantmeshes",
    )
    parser.add_argument(
        "--shells",
        choices=stages.SHELLS,
        default="auto",
        help="surface: keep inner shells and open sheets; outer: drop what cannot be reached from outside; "
        "solid: remesh to closed surfaces; auto: solid if a mesh with holes is apparently meant to be closed, else "
        "outer; default: auto",
    )
    parser.add_argument(
        "--wall",
        type=float,
        default=0.0,
        metavar="D",
        help="with solid, the least thickness that open sheets are given, as a fraction of the side of the unit cube "
        "that the object is made in (before --size); default: two cells of the solid's grid",
    )
    parser.add_argument(
        "--cavities",
        choices=stages.CAVITIES,
        default="fill",
        help="with solid, fill or keep closed cavities; default: fill",
    )
    parser.add_argument(
        "--hollow",
        type=_thickness,
        metavar="2mm",
        help="hollow the solid out behind a wall of this thickness: a true length (needs --size), or a fraction of "
        "the unit cube's side",
    )
    parser.add_argument(
        "--drain",
        type=_thickness,
        metavar="5mm",
        help="with --hollow, a hole of this diameter at the lowest point of each cavity, for resin and powder to "
        "leave; cavities without room for it stay solid",
    )
    parser.add_argument(
        "--max-error",
        type=_length,
        metavar="D",
        help="how far simplifying may move the surface, as a fraction of the unit cube's side (0.002) or in voxels "
        "(0.5vox), if that allows fewer faces than --faces; default: until --faces is reached, and for a solid that "
        "auto chose, as long as it looks the same",
    )
    parser.add_argument(
        "--lods",
        type=int,
        nargs="+",
        metavar="N",
        help="face counts of coarser levels of detail, each in a file of its own: OUT_LOD1.glb and so on",
    )
    parser.add_argument(
        "--lods-in-one-file",
        action="store_true",
        help="all levels in one GLB by MSFT_lod, for viewers that support it; others may show all levels at once",
    )
    parser.add_argument("--vertex-colors", action="store_true", help="vertex colours instead of textures")
    parser.add_argument("--normal-map", action="store_true", help="bake the raw mesh's relief into a normal map")
    parser.add_argument(
        "--seams",
        choices=stages.SEAMS,
        help="fewer: about an eighth as many charts, larger ones, with up to 15 %% stretch; default: usual",
    )
    parser.add_argument("--occlusion", action="store_true", help="bake ambient occlusion")
    least, most = stages.TEXTURE_SIZES
    parser.add_argument(
        "--texture-size", type=int, metavar="N", help=f"pixels a side, {least} to {most}; default: 2048"
    )
    parser.add_argument(
        "--texture-format", choices=("png", "webp"), default="png", help="default: png, which every viewer reads"
    )
    parser.add_argument(
        "--alpha-mode",
        choices=[mode.name.lower() for mode in AlphaMode],
        default="opaque",
        help="how viewers treat the alpha channel; default: opaque",
    )
    parser.add_argument(
        "--size",
        type=_size,
        metavar="80mm|height=80mm",
        help="true size by the longest side, or by the height, in mm, cm, m or in; GLB, glTF and USDZ are written in "
        "metres, the others in millimetres, as slicers expect",
    )
    parser.add_argument(
        "--flat-base",
        type=float,
        nargs="?",
        const=0.02,
        default=0.0,
        metavar="SHARE",
        help="flatten the lowest part, this fraction of the height, to a plane to stand on; without a number 0.02",
    )
    parser.add_argument("--single-sided", action="store_true", help="let viewers hide back faces")


def _size(text: str) -> TrueSize:
    return _parsed(TrueSize.parse, text)


def _thickness(text: str) -> stages.Thickness:
    return _parsed(stages.Thickness.parse, text)


def _length(text: str) -> stages.Length:
    return _parsed(stages.Length.parse, text)


def _parsed(parse: Callable[[str], _Kind], text: str) -> _Kind:
    """For argparse, which names the option beside what is wrong with it."""
    try:
        return parse(text)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_output(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        metavar="OUT.glb",
        help=f"its suffix chooses the format: {', '.join(WRITERS)}; default: {default}",
    )


def output_paths(options: argparse.Namespace, output: Path) -> list[tuple[str, Path]]:
    """Every file that writing to `output` may touch, and what it is.

    Raises:
        SettingsError: the format does not exist, cannot be written here, or cannot hold what was asked for.
    """
    found = writer(output)
    lods = _chosen(options).lods
    if options.lods_in_one_file and not found.lods:
        raise SettingsError(f"--lods-in-one-file: {found.title} holds one level a file; leave the option out.")
    if options.texture_format not in found.image_formats and found.textures:
        raise SettingsError(f"--texture-format {options.texture_format}: {found.title} cannot hold it; leave it out.")
    own = 1 if options.lods_in_one_file else 1 + len(lods)
    paths = written_paths(output, options.texture_format, own)
    names = {output: "--output", **{level_path(output, number): "a level of --lods" for number in range(1, own)}}
    return [(names.get(path, "a file beside --output"), path) for path in paths]


def export_settings(options: argparse.Namespace, output: Path | None = None) -> stages.ExportSettings:
    """What the options of `add_export` say. A format without textures gets vertex colours: baking would be in vain."""
    vertex_colors = options.vertex_colors or (
        output is not None and not options.geometry_only and not writer(output).textures
    )
    chosen = _chosen(options, textures=not vertex_colors and not options.geometry_only)
    return settings_of(
        stages.ExportSettings,
        options,
        faces=chosen.faces,
        texture_size=chosen.texture_size,
        normal_map=chosen.normal_map,
        seams=chosen.seams,
        lods=chosen.lods,
        vertex_colors=vertex_colors,
    )


def _chosen(options: argparse.Namespace, textures: bool = True) -> stages.ExportSettings:
    """What the preset says, and what is given beside it."""
    found = stages.PRESETS[options.preset].settings(options.faces, options.texture_size, textures)
    lods = found.lods if options.lods is None else tuple(options.lods)
    return replace(
        found, lods=lods, normal_map=found.normal_map or options.normal_map, seams=options.seams or found.seams
    )


def _in_words(export: stages.ExportSettings) -> str:
    """The numbers of a preset, for people."""
    parts = [f"{export.faces:,} faces", f"{export.texture_size} pixels"]
    parts += [f"levels of {', '.join(f'{count:,}' for count in export.lods)}"] if export.lods else []
    parts += ["a normal map"] if export.normal_map else []
    return ", ".join([*parts, *(["fewer seams"] if export.seams == "fewer" else [])])
