"""T2Views: pictures of one object and where each was taken from."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from PIL import Image

from ..pipeline.errors import SettingsError
from ..pipeline.image import background_remover, cut_out
from ..pipeline.views import NAMED_MIXING, STRATEGIES, Mixing, named_views, posed
from ..pipeline.words import counted
from .host import pictures
from .host.run import explained
from .picture import CURES, mask_marks_input
from .sockets import CATEGORY, Views, advanced, aliases, node_schema

_SIDES = {
    "front": "seen from the front (azimuth 0)",
    "left": "seen from the object's own left (azimuth 90), which is on the right hand side of the front view",
    "back": "seen from behind (azimuth 180)",
    "right": "seen from the object's own right (azimuth 270)",
}
_STRATEGY = (
    "How the {} takes the views together. primary: the first one alone; visibility: at each place the views that see "
    "it; the others as in ReconViaGen: sequential takes turns, average_right is the mean of the velocities."
)


def _strategy_input(stage: str) -> io.Input:
    return advanced(
        io.Combo.Input(
            f"{stage}_views",
            options=list(STRATEGIES),
            default=getattr(NAMED_MIXING, stage),
            tooltip=_STRATEGY.format(stage),
        )
    )


class ViewsNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        sides = [
            each
            for side, where in _SIDES.items()
            for each in (
                io.Image.Input(side, optional=True, tooltip=f"The object {where}."),
                io.Mask.Input(f"{side}_mask", optional=True, tooltip=f"Cuts the object out of the {side} view."),
            )
        ]
        return node_schema(
            node_id="T2Views",
            display_name="TRELLIS.2 Views",
            category=CATEGORY,
            **aliases("multi view, multiview, front back left right, turnaround, character sheet"),
            description="Several pictures of one object with their directions: cuts the object out of each, compares "
            "level views on one scale and says what does not fit together. The first one connected is the primary.",
            inputs=[
                *sides,
                io.Image.Input("other", optional=True, tooltip="A batch of pictures from other directions."),
                io.String.Input(
                    "other_views",
                    default="",
                    tooltip="A direction for each picture of `other`, between semicolons: azimuth (0 front, 90 the "
                    "object's own left) and, after a comma, elevation: 45,20; 135,20.",
                ),
                mask_marks_input(),
                *map(_strategy_input, ("structure", "shape", "texture")),
                advanced(
                    io.Boolean.Input(
                        "carve",
                        default=False,
                        tooltip="Cut the structure by the pictures' silhouettes. Only where the object stands as in "
                        "the front view; where much would go, nothing is cut.",
                    )
                ),
                advanced(
                    io.String.Input(
                        "view_weights",
                        default="",
                        tooltip="Relative weight of each picture where views are mixed: a number above 0 for each "
                        "connected one, separated by semicolons, in the order of the inputs: 2; 1; 1. Empty: all "
                        "equal.",
                    )
                ),
                advanced(
                    io.Boolean.Input(
                        "proportions",
                        default=NAMED_MIXING.proportions,
                        tooltip="Give the structure the pictures' proportions: two or more views tell how wide, deep "
                        "and tall the object is, which the networks only guess.",
                    )
                ),
            ],
            outputs=[
                Views.Output(display_name="views", tooltip="For TRELLIS.2 Encode Image."),
                io.Image.Output(display_name="image", tooltip="The pictures as the encoder sees them."),
            ],
        )

    @classmethod
    def validate_inputs(cls, other_views: str | None = None, view_weights: str | None = None) -> bool | str:
        return explained(_check, other_views or "", view_weights or "")  # what comes through a link is None here

    @classmethod
    def execute(
        cls,
        front: torch.Tensor | None = None,
        front_mask: torch.Tensor | None = None,
        left: torch.Tensor | None = None,
        left_mask: torch.Tensor | None = None,
        back: torch.Tensor | None = None,
        back_mask: torch.Tensor | None = None,
        right: torch.Tensor | None = None,
        right_mask: torch.Tensor | None = None,
        other: torch.Tensor | None = None,
        other_views: str = "",
        mask_marks: str = "automatic",
        structure_views: str = NAMED_MIXING.structure,
        shape_views: str = NAMED_MIXING.shape,
        texture_views: str = NAMED_MIXING.texture,
        carve: bool = False,
        view_weights: str = "",
        proportions: bool = NAMED_MIXING.proportions,
    ) -> io.NodeOutput:
        sides = {"front": (front, front_mask), "left": (left, left_mask)}
        sides |= {"back": (back, back_mask), "right": (right, right_mask)}
        cuts, names = [], []
        for side, (image, mask) in sides.items():
            if image is not None:
                cuts.append(_cut(image[:1], mask, mask_marks))
                names.append(side)
        others = [] if other is None else other.split(1)
        named = _names(other_views)
        if len(named) != len(others):
            raise SettingsError(f"`other` holds {counted(len(others), 'picture')}, `other_views` names {len(named)}.")
        cuts += [_cut(image, None, mask_marks) for image in others]
        if not cuts:
            raise SettingsError("No view is connected. Connect at least the front view.")
        views = named_views([*names, *named], len(cuts))
        weights = _numbers(view_weights)
        if weights and len(weights) != len(cuts):
            raise SettingsError(
                f"`view_weights` holds {counted(len(weights), 'number')} for {counted(len(cuts), 'connected picture')}."
            )
        mixing = Mixing(structure_views, shape_views, texture_views, carve, weights, proportions)
        found = posed(cuts, views, mixing)
        lines = [", ".join(view.name for view in views), *found.remarks, *found.residuals]
        shown = pictures.to_image(pictures.same_size(list(found.pictures)))
        return io.NodeOutput(found, shown, ui={"text": ["\n".join(lines)]})


def _check(other_views: str, view_weights: str) -> None:
    """What the texts alone can be refused for. Raises SettingsError."""
    names = _names(other_views)
    named_views(names, len(names))
    Mixing(weights=_numbers(view_weights))


def _names(other_views: str) -> list[str]:
    return [name for name in other_views.split(";") if name.strip()]


def _numbers(text: str) -> tuple[float, ...]:
    """The weights in a text; none in an empty one."""
    try:
        return tuple(float(word) for word in text.split(";") if word.strip())
    except ValueError as error:
        raise SettingsError(f"`view_weights` takes numbers between semicolons, as 2; 1; 1, got {text!r}.") from error


def _cut(image: torch.Tensor, mask: torch.Tensor | None, mask_marks: str) -> Image.Image:
    """One picture [1, H, W, C], cut out by its mask [B, H, W], by its alpha or before a plain background."""
    [picture] = pictures.to_pil(image)
    [one] = [None] if mask is None else pictures.masks_to_pil(mask[:1], [picture], mask_marks)
    return cut_out(picture, one, background_remover("auto", cures=CURES))
