"""The row of the backend table for pictures."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..backends import Backend, Operation
from ..warp import DEVICES, unavailable_reason
from .camera import Camera
from .subject import Subject
from .views import view_frames

RENDER = "render"


def check_render(function: Callable, device: torch.device) -> str:
    """The normals of a square that faces the camera."""
    corners = torch.tensor([[-1.0, 0.0, -1.0], [1, 0, -1], [1, 0, 1], [-1, 0, 1]], device=device)
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32, device=device)
    (frame,) = function(Subject(corners, faces), [Camera(0.0, 0.0)], 32, "normals", passes=True)
    depth = frame.depth[16, 16] if frame.depth is not None else 0.0
    if abs(depth - frame.camera.distance) > 1e-4:
        return f"a square at {frame.camera.distance:.4f} from the camera is {depth:.4f} deep."
    picture = frame.picture
    middle, corner = picture[16, 16].tolist(), picture[0, 0].tolist()
    right = all(abs(a - b) <= 1 for a, b in zip(middle, (128, 128, 255, 255))) and corner[3] == 0
    return "" if right else f"a square that faces the camera shows {middle}, beside it {corner}."


OPERATIONS = (Operation(RENDER, (Backend("warp", view_frames, unavailable_reason, DEVICES),), check=check_render),)
