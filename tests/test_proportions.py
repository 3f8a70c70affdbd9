"""A structure takes on the proportions that its pictures have, and stays whole."""

import logging

import pytest
import torch

from pipeline.errors import SettingsError
from pipeline.sparse import Voxels
from pipeline.stages.networks.structure import _in_proportion
from pipeline.stages.types import Condition
from pipeline.views import NAMED_MIXING, UNNAMED, View, stretched, stretches
from pipeline.views.visibility import _filled

SIDE = 32
FRONT, LEFT, BACK = View(0), View(90), View(180)


def box(*size: int) -> torch.Tensor:
    """[R, R, R] bool: the surface voxels of a box in the middle of the grid."""
    occupied = torch.zeros((SIDE,) * 3, dtype=torch.bool)
    inner = occupied.clone()
    for grid, less in ((occupied, 0), (inner, 1)):
        grid[tuple(slice((SIDE - n) // 2 + less, (SIDE + n) // 2 - less) for n in size)] = True
    return occupied & ~inner


def ball(*radii: float) -> torch.Tensor:
    grid = torch.stack(torch.meshgrid(*(torch.arange(SIDE) + 0.5 - SIDE / 2,) * 3, indexing="ij"), -1)
    distance = (grid / torch.tensor(radii)).norm(dim=-1)
    return (distance < 1) & _edge(distance < 1)


def _edge(solid: torch.Tensor) -> torch.Tensor:
    """What has a free neighbour along an axis."""
    free = ~torch.nn.functional.pad(solid, (1,) * 6)
    near = [free.roll(way, axis)[1:-1, 1:-1, 1:-1] for axis in range(3) for way in (-1, 1)]
    return torch.stack(near).any(0)


def rectangle(width: int, height: int, side: int = 128) -> torch.Tensor:
    mask = torch.zeros(side, side)
    mask[(side - height) // 2 : (side + height) // 2, (side - width) // 2 : (side + width) // 2] = 1
    return mask


def ellipse(width: int, height: int, side: int = 128) -> torch.Tensor:
    down, right = torch.meshgrid(*(torch.arange(side) + 0.5 - side / 2,) * 2, indexing="ij")
    return ((right / width * 2) ** 2 + (down / height * 2) ** 2 < 1).float()


def found(occupied, views, masks):
    return stretches(Voxels.single(occupied.nonzero()), SIDE, views, masks).tolist()


def test_front_and_side_measure_width_depth_and_height():
    """A box guessed as deep as it is wide, of which the pictures say 24 x 16 x 20."""
    factors = found(box(24, 24, 20), [FRONT, LEFT], [rectangle(96, 80), rectangle(64, 80)])
    assert factors == pytest.approx([1, 16 / 24, 1], abs=0.05)
    made = stretched(box(24, 24, 20), torch.tensor(factors)).nonzero()
    assert (made.amax(0) - made.amin(0) + 1).tolist() == pytest.approx([24, 16, 20], abs=1)


def test_front_and_back_say_nothing_of_the_depth():
    """Though perspective makes what is deep look otherwise. The longest side keeps its length: here the depth."""
    factors = found(ball(9, 15, 9), [FRONT, BACK], [ellipse(60, 80), ellipse(60, 80)])
    assert factors[1] == 1 and factors[0] / factors[2] == pytest.approx(60 / 80, abs=0.06)


def test_what_agrees_stays_as_it_is():
    assert found(box(24, 16, 20), [FRONT, LEFT], [rectangle(96, 80), rectangle(64, 80)]) == [1, 1, 1]
    assert found(box(24, 16, 20), [FRONT, LEFT], [torch.zeros(8, 8), torch.zeros(8, 8)]) == [1, 1, 1]


def test_pictures_of_something_else_change_nothing(caplog):
    caplog.set_level(logging.WARNING)
    assert found(box(24, 16, 20), [FRONT, LEFT], [rectangle(10, 100), rectangle(100, 30)]) == [1, 1, 1]
    assert "The structure was left as it is" in caplog.text


@pytest.mark.parametrize("factors", [(1.0, 0.55, 1.0), (1.25, 1.0, 0.7), (0.6, 0.6, 1.3)])
def test_a_closed_surface_stays_closed(factors):
    made = stretched(ball(11, 11, 11), torch.tensor(factors))
    assert _filled(made)[16, 16, 16] and not made[16, 16, 16]
    size = made.nonzero().amax(0) - made.nonzero().amin(0) + 1
    assert size.tolist() == pytest.approx([22 * factor for factor in factors], abs=2)


def test_what_would_leave_the_grid_is_moved():
    occupied = torch.zeros((SIDE,) * 3, dtype=torch.bool)
    occupied[:20, 4:8, 4:8] = True
    made = stretched(occupied, torch.tensor([1.5, 1, 1])).nonzero()
    assert (made[:, 0].amin(), made[:, 0].amax()) == (0, 29) and made.shape[1] == 3


def test_named_views_do_it_and_others_do_not(caplog):
    caplog.set_level(logging.INFO)
    assert NAMED_MIXING.proportions and not UNNAMED.proportions
    masks = (rectangle(96, 80), rectangle(64, 80))
    made = _in_proportion(box(24, 24, 20), Condition({}, views=(FRONT, LEFT), masks=masks, mixing=NAMED_MIXING))
    assert made.sum() < box(24, 24, 20).sum() and "1.00, 0.6" in caplog.text


def test_the_option_that_leaves_it_needs_views():
    from pipeline.cli.main import parser
    from pipeline.cli.options import mixing_of

    def mixing(*words):
        return mixing_of(parser().parse_args(["generate", "a.png", "b.png", *words]))

    named = ("--views", "front", "left")
    assert mixing(*named).proportions and not mixing(*named, "--keep-proportions").proportions
    assert not mixing().proportions
    with pytest.raises(SettingsError, match="--keep-proportions has an effect on two or more"):
        mixing("--keep-proportions")
