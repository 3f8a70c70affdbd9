"""Options that several commands share, each declared once, and what their values mean."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from ..console import real_number, whole_number
from ..errors import SettingsError
from ..image import DEFAULT_MODEL, KINDS, background_remover, cut_out, read_mask, read_picture
from ..runtime import DTYPES
from ..spec import MAX_TOKENS, PIPELINE_TYPES
from ..speed import EXACT, SPEEDS
from ..views import NAMED_MIXING as NAMED
from ..views import STRATEGIES, UNNAMED, Mixing, PosedPictures, named_views, posed, unposed
from ..weights import RELEASED_CHECKPOINT, SMALL_CHECKPOINT, SMALL_IS, Checkpoint, open_checkpoint
from ..words import counted


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps; default: auto")


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """The checkpoint, and an image encoder in place of its own."""
    parser.add_argument(
        "--checkpoint",
        metavar="DIR_OR_HF_ID",
        help="folder, ComfyUI bundle or Hugging Face repository; default: the bundled small one",
    )
    add_image_encoder(parser)


def add_pipeline_type(parser: argparse.ArgumentParser, what: str = "resolution and cascade") -> None:
    parser.add_argument(
        "--type",
        "--pipeline-type",
        metavar="{" + ",".join(PIPELINE_TYPES) + "}",
        help=f"{what}; default: the checkpoint's",
    )


def add_max_tokens(
    parser: argparse.ArgumentParser, what: str = "a cascade lowers its resolution until it has fewer"
) -> None:
    """The most tokens of a shape, and whether it stays without a texture."""
    parser.add_argument(
        "--max-tokens", type=int, default=MAX_TOKENS, metavar="N", help=f"{what}; default: {MAX_TOKENS}"
    )
    parser.add_argument("--geometry-only", action="store_true", help="no texture")


def add_dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        choices=("auto", *DTYPES),
        default="auto",
        help="precision inside the networks; default: what suits the device",
    )


def add_memory_limit(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--memory-limit",
        type=_bytes,
        metavar="GB",
        help="largest memory use on the device: decoders then work in tiles, which is slower and gives the same "
        "result; default: what is free. On a CPU the whole process counts, and the limit is a plan, not a bound",
    )


def add_speed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--speed",
        choices=tuple(SPEEDS),
        default=EXACT.name,
        help="exact runs the network at every step; balanced predicts half of the unconditional passes, fast also "
        "conditional ones, half of all passes. Against exact the surface moves by 0.2 %% of the diagonal and base "
        "colours by 0.02 of 1 (medians of 64 objects, bundled small checkpoint); default: exact",
    )


def gigabytes(text: str) -> float:
    """GB of a memory."""
    size = real_number(text)
    if not 0 < size < 1e6:  # NaN too
        raise argparse.ArgumentTypeError("must be a number of GB above 0")
    return size


def _bytes(text: str) -> int:
    return round(gigabytes(text) * 1e9)


def add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        action="append",
        default=[],
        metavar="OP=NAME",
        help="run an operation by this backend, for example simplify=cumesh if CuMesh is installed; may be given "
        "several times (docs/performance.md describes such packages)",
    )


def backend_choices(options: argparse.Namespace) -> dict[str, str]:
    """{operation: row} of --backend."""
    choices = {}
    for pair in options.backend:
        op, equals, name = pair.partition("=")
        if not equals:
            raise SettingsError(f"--backend takes OP=NAME, got {pair!r}.")
        choices[op] = name
    return choices


def add_image_encoder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image-encoder", metavar="PATH_OR_HF_ID", help="DINOv3 encoder in place of the checkpoint's")


def add_report(parser: argparse.ArgumentParser, what: str = "write the numbers as JSON too") -> None:
    parser.add_argument("--report", type=Path, metavar="OUT.json", help=what)


def add_history(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--history", type=Path, metavar="FILE", help="append the numbers as JSON lines")


def add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=_seed, default=42, metavar="N", help="default: 42")


def _seed(text: str) -> int:
    """A seed that torch's generator takes."""
    seed = whole_number(text)
    if not 0 <= seed < 2**64:
        raise argparse.ArgumentTypeError("must lie in 0 .. 2^64 - 1")
    return seed


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """How pictures are cut out and cropped; the pictures themselves are `images`."""
    parser.add_argument(
        "--mask",
        nargs="+",
        default=[],
        metavar="MASK",
        help="one mask for each picture; white: object; it is used instead of the picture's own transparency",
    )
    add_background(parser)


def add_background(parser: argparse.ArgumentParser) -> None:
    """How pictures are cut out of their background, and cropped."""
    parser.add_argument(
        "--background",
        choices=KINDS,
        default="auto",
        help="how a background is removed where neither a mask nor transparency cuts the object out; plain: by its "
        "colour, if it is one colour or a smooth gradient; rembg: by a model; default: auto, plain if possible",
    )
    parser.add_argument(
        "--background-model",
        default=DEFAULT_MODEL,
        metavar="NAME",
        help=f"rembg model that removes backgrounds which are not plain; default: {DEFAULT_MODEL} (MIT)",
    )
    parser.add_argument(
        "--reduce-first",
        action="store_true",
        help="reduce a picture above 1024 pixels before it is cropped, as the reference implementation does; "
        "by default the crop comes first, which keeps more of a small object",
    )


_VIEW_STAGES = ("structure", "shape", "texture")  # which mix views, each as an option of its own says


def add_views(parser: argparse.ArgumentParser, stages: Sequence[str] = _VIEW_STAGES) -> None:
    """Directions of the pictures, and what is done with several. stages: those that the command samples."""
    group = parser.add_argument_group("several views", "how pictures of one object work together")
    group.add_argument(
        "--views",
        nargs="+",
        default=[],
        metavar="VIEW",
        help="where each picture was taken from: front, left (the object's own left), back, right, an azimuth such as "
        "45 or azimuth and elevation such as 45,20; the azimuth is 0 in front, 90 on the object's own left. The first "
        "is the primary view. Level views are compared on one scale",
    )
    group.add_argument(
        "--view-weights",
        nargs="+",
        type=float,
        default=[],
        metavar="W",
        help="relative weight of each picture where views are mixed, a number above 0; default: all equal",
    )
    for stage in stages:
        group.add_argument(
            f"--{stage}-views",
            choices=tuple(STRATEGIES),
            help=f"{stage}: how the views are mixed; default: {getattr(NAMED, stage)} with --views, "
            f"{getattr(UNNAMED, stage)} without",
        )
    if "structure" in stages:
        group.add_argument(
            "--carve", action="store_true", help="cut the structure by the pictures' silhouettes; needs --views"
        )
        group.add_argument(
            "--keep-proportions",
            action="store_true",
            help="leave the structure as sampled; by default two or more --views give it the pictures' proportions",
        )


def mixing_of(options: argparse.Namespace) -> Mixing:
    """How the views are mixed, with all that can be refused before `images`, the paths of pictures, are read.

    Raises:
        SettingsError: views, weights or --carve that do not suit so many pictures.
    """
    named = {stage: getattr(options, f"{stage}_views", None) for stage in _VIEW_STAGES}
    named = {stage: strategy for stage, strategy in named.items() if strategy is not None}
    mixing = replace(
        NAMED if options.views else UNNAMED,
        **named,
        carve=getattr(options, "carve", False),
        proportions=bool(options.views) and not getattr(options, "keep_proportions", False),
        weights=tuple(options.view_weights),
    )
    several = [*(["--view-weights"] if mixing.weights else []), *(f"--{stage}-views" for stage in named)]
    if several and len(options.images) == 1:
        raise SettingsError(f"{several[0]} would have no effect on one picture: leave it out, or give more pictures.")
    if mixing.weights and len(mixing.weights) != len(options.images):
        raise SettingsError(
            f"--view-weights: {counted(len(mixing.weights), 'weight')} for {counted(len(options.images), 'picture')}; "
            "give one for each."
        )
    if getattr(options, "keep_proportions", False) and len(options.views) < 2:
        raise SettingsError("--keep-proportions has an effect on two or more pictures with --views only: leave it out.")
    if options.views:
        named_views(options.views, len(options.images))
    elif mixing.carve:
        raise SettingsError("--carve needs the direction of every picture: name them with --views.")
    return mixing


def posed_pictures(options: argparse.Namespace) -> PosedPictures:
    """The prepared pictures of `images` with their directions, and how they are mixed."""
    mixing = mixing_of(options)
    if not options.views:
        return unposed(pictures(options), mixing)
    views = named_views(options.views, len(options.images))
    found = posed(pictures(options), views, mixing)
    if found.residuals:
        print(f"On one scale, {'; '.join(found.residuals)}.")
    return found


def pictures(options: argparse.Namespace) -> list[Image.Image]:
    """The pictures of `images`, cut out."""
    if options.mask and len(options.mask) != len(options.images):
        masks, given = counted(len(options.mask), "mask"), counted(len(options.images), "picture")
        raise SettingsError(f"{masks} for {given}; give one for each or none.")
    remover = background_remover(options.background, options.background_model)
    prepared = []
    for number, path in enumerate(options.images):
        image = read_picture(path)
        mask = read_mask(options.mask[number], image) if options.mask else None
        prepared.append(cut_out(image, mask, remover, reduce_first=options.reduce_first))
    return prepared


def opened_checkpoint(options: argparse.Namespace) -> Checkpoint:
    """The checkpoint that was asked for, or the bundled one; tell_checkpoint says which when it is about to be used."""
    return open_checkpoint(options.checkpoint or SMALL_CHECKPOINT, options.image_encoder)


def tell_checkpoint(options: argparse.Namespace, checkpoint: Checkpoint) -> None:
    """Say what is used where nobody chose, and what was chosen among several files."""
    if options.checkpoint is None:
        print(
            f"Using the bundled small checkpoint: {SMALL_IS}. "
            f"For any object: --checkpoint {RELEASED_CHECKPOINT} (16 GB download)."
        )
    for note in checkpoint.notes:
        print(note)
