"""Procedural objects: batches of signed distance functions made of a few primitives, each part with its material."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

from pipeline.warp import unavailable_reason

from .fields import KIND, OPERATION, WIDTH, bounds, distances
from .recipes import RECIPES, SLOTS
from .recipes.parts import Draw

NAMES = tuple(RECIPES)
_STEP = 5e-4  # world units, of the differences that give a gradient
_CORNERS = ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1))  # of a tetrahedron


@dataclass(frozen=True)
class Objects:
    """B objects of at most P primitives, all tensors on one device but for `kinds`. World frame: cube -0.5 .. 0.5, Z
    up, fronts look towards -Y, bounding box centred, its longest side 0.90-0.95.

    table: [B, P, WIDTH] primitives in the objects' own frames, see fields.py.
    kinds: [B, P] int64 on the CPU, -1 where absent.
    middle, scale: [B, 3], [B]: world = (own - middle) * scale.
    materials: [B, P, 6] base colour RGB (sRGB 0-1, as voxels and GLB textures hold it), metallic, roughness, alpha.
    half: [B, 3] half extents of the bounding box in the world.
    keys: [B] the class's main proportion in 0-1, which separates training from held-out objects. names: [B] classes.
    """

    table: torch.Tensor
    kinds: torch.Tensor
    middle: torch.Tensor
    scale: torch.Tensor
    materials: torch.Tensor
    half: torch.Tensor
    keys: torch.Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def device(self) -> torch.device:
        return self.table.device

    def to(self, device: torch.device | str) -> Objects:
        moved = ("table", "middle", "scale", "materials", "half", "keys")
        return replace(self, **{name: getattr(self, name).to(device) for name in moved})

    def select(self, rows: slice) -> Objects:
        """Some of the objects, as views."""
        return Objects(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})

    def distance(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Signed distance and the part that decides it.

        Args:
            points: [B, N, 3] world.

        Returns:
            [B, N] float32, negative inside, close to exact near the surface; [B, N] int32 index into materials.
        """
        owner = torch.arange(len(self), device=self.device).repeat_interleave(points.shape[1])
        distance, part = self.distance_at(points.flatten(0, 1), owner)
        return distance.reshape(points.shape[:2]), part.reshape(points.shape[:2])

    def distance_at(self, points: torch.Tensor, owner: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same for points [M, 3] and the objects they are asked of, owner [M] int64 ascending; [M] each."""
        scale = self.scale[owner]
        own = points / scale[:, None] + self.middle[owner]
        if len(points) == 0:
            return scale, owner.int()
        if unavailable_reason():
            distance, part = distances(self.table, self.kinds, own, owner)
        else:
            from .fields_kernels import distances as fast

            distance, part = fast(self.table, own, owner)
        return distance * scale, part

    def normal_at(self, points: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
        """Unit gradient of the distance [M, 3] at points [M, 3] near the surface, outward. owner as for distance_at."""
        slope = torch.zeros_like(points)
        for corner in _CORNERS:
            step = torch.tensor(corner, dtype=points.dtype, device=points.device)
            slope += self.distance_at(points + _STEP * step, owner)[0][:, None] * step
        return slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-12)


def sample(count: int, random: torch.Generator, device: torch.device | str = "cpu", held_out: bool = False) -> Objects:
    """Draw objects, no two alike, of all classes alike.

    Drawn on the CPU, in about the same time for 32 as for 512: draw many and use them by select(). Train and held-out
    objects are disjoint by construction: the main proportion of a class comes from alternating bins (see parts.Draw).

    Args:
        random: a CPU generator; the same objects on every device.
    """
    classes = torch.randint(len(NAMES), (count,), generator=random)
    table, materials, keys = torch.zeros(count, SLOTS, WIDTH), torch.zeros(count, SLOTS, 6), torch.zeros(count)
    for number, recipe in enumerate(RECIPES.values()):
        rows = (classes == number).nonzero()[:, 0]
        if len(rows):
            draw = Draw(len(rows), random, held_out)
            parts = recipe(draw)
            table[rows, : len(parts)] = torch.stack([part.rows() for part in parts], 1)
            materials[rows, : len(parts)] = torch.stack([part.material for part in parts], 1)
            keys[rows] = draw.main
    low, high = bounds(table)
    middle, longest = (low + high) / 2, (high - low).amax(1)
    scale = (0.9 + 0.05 * torch.rand(count, generator=random)) / longest
    kinds = torch.where(table[:, :, OPERATION] == 0, -1, table[:, :, KIND].long())
    half = (high - low) / 2 * scale[:, None]
    names = tuple(NAMES[number] for number in classes.tolist())
    return Objects(table, kinds, middle, scale, materials, half, keys, names).to(device)
