"""Closed shapes with a known Euler number, damaged as decoders do, and how near `solid` comes to what they were.

    python tests/closed_shapes.py [--resolution N] [--seeds N] [--first-seed N]

prints a line for each shape and damage: 50 holes punched of 1 to 10 % of the diagonal, 5 % of the voxels dropped, both.

At 96 cells (2026-11-30): volume within 1 % on 55 of 60, Euler number right on 59, all 60 watertight; undamaged, all are
within 0.05 %. Where only vertices lay on the surface it was 52 and 0.9 %. What fails is thin and has lost a third of
its surface and more to holes nearly as wide as it is: rod, thin torus (cut through), ladder; so they do at 192 cells.
With `--damage both --seeds 3 --first-seed 101` (2026-12-01) it is 57 and 59 of 60; all that fails is the thin torus.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline import stages
from pipeline.bench.shapes import surface_net
from pipeline.mesh import Mesh
from pipeline.runtime import Runtime

_HOLES, _SMALLEST, _LARGEST = 50, 0.01, 0.1  # and diameters, by the diagonal
_DROPPED = 0.05


def _sphere(p, radius, centre=(0.0, 0.0, 0.0)):
    return (p - p.new_tensor(centre)).norm(dim=1) - radius


def _torus(p, radius, section, centre=(0.0, 0.0, 0.0), axis=2):
    p = p - p.new_tensor(centre)
    flat = [i for i in range(3) if i != axis]
    return torch.stack([p[:, flat].norm(dim=1) - radius, p[:, axis]]).norm(dim=0) - section


def _box(p, half, centre=(0.0, 0.0, 0.0)):
    q = (p - p.new_tensor(centre)).abs() - p.new_tensor(half)
    return q.clamp_min(0).norm(dim=1) + q.amax(1).clamp_max(0)


def _cylinder(p, radius, low, high, centre=(0.0, 0.0)):
    return torch.maximum(
        (p[:, :2] - p.new_tensor(centre)).norm(dim=1) - radius, torch.maximum(p[:, 2] - high, low - p[:, 2])
    )


def _union(*fields):
    return torch.stack(fields).amin(0)


def _minus(field, *others):
    return torch.maximum(field, -_union(*others))


def _cup(p):
    body = _minus(_cylinder(p, 0.27, -0.4, 0.4), _cylinder(p, 0.22, -0.34, 0.6))
    handle = torch.maximum(_torus(p, 0.16, 0.045, (0.27, 0.0, 0.0), axis=1), -_cylinder(p, 0.25, -1.0, 1.0))
    return _union(body, handle)


def _bowl(p):
    shell = _minus(_sphere(p, 0.42, (0.0, 0.0, 0.1)), _sphere(p, 0.38, (0.0, 0.0, 0.1)))
    return torch.maximum(shell, p[:, 2] - 0.1)


def _gyroid(p):
    turns = 16 * p
    walls = sum(turns[:, i].sin() * turns[:, (i + 1) % 3].cos() for i in range(3)) / 16
    return torch.maximum(walls, _box(p, (0.35, 0.35, 0.35)))


def _table(p):
    legs = [_box(p, (0.04, 0.04, 0.25), (x, y, -0.1)) for x in (-0.3, 0.3) for y in (-0.3, 0.3)]
    return _union(_box(p, (0.4, 0.4, 0.04), (0.0, 0.0, 0.15)), *legs)


def _ladder(p):
    rails = [_cylinder(p, 0.04, -0.42, 0.42, (x, 0.0)) for x in (-0.15, 0.15)]
    rungs = [_cylinder(p[:, [2, 1, 0]], 0.03, -0.15, 0.15, (z, 0.0)) for z in (-0.3, -0.1, 0.1, 0.3)]
    return _union(*rails, *rungs)


def _stairs(p):
    return _union(
        *(_box(p, (0.08, 0.3, 0.08 * (i + 1)), (-0.32 + 0.16 * i, 0.0, -0.4 + 0.08 * (i + 1))) for i in range(5))
    )


def _snowman(p):
    return _union(_sphere(p, 0.24, (0, 0, -0.2)), _sphere(p, 0.17, (0, 0, 0.12)), _sphere(p, 0.11, (0, 0, 0.34)))


def _vase(p):
    wide = 0.18 + 0.1 * torch.sin(6 * p[:, 2] + 1)
    radius = p[:, :2].norm(dim=1)
    outer = torch.maximum(radius - wide, p[:, 2].abs() - 0.4)
    inner = torch.maximum(radius - wide + 0.045, -0.35 - p[:, 2])
    return torch.maximum(outer, -inner)


SHAPES: dict[str, tuple[Callable, int]] = {  # field, Euler number
    "ball": (lambda p: _sphere(p, 0.4), 2),
    "cube": (lambda p: _box(p, (0.35, 0.35, 0.35)), 2),
    "slab": (lambda p: _box(p, (0.42, 0.3, 0.04)), 2),
    "rod": (lambda p: _cylinder(p, 0.05, -0.42, 0.42), 2),
    "torus": (lambda p: _torus(p, 0.3, 0.1), 0),
    "thin torus": (lambda p: _torus(p, 0.38, 0.04), 0),
    "two tori": (lambda p: _union(_torus(p, 0.2, 0.06, (-0.18, 0, 0)), _torus(p, 0.2, 0.06, (0.18, 0, 0))), -2),
    "chain": (lambda p: _union(_torus(p, 0.2, 0.05, (-0.12, 0, 0)), _torus(p, 0.2, 0.05, (0.12, 0, 0), axis=1)), 0),
    "cup": (_cup, 0),
    "bowl": (_bowl, 2),
    "vase": (_vase, 2),
    "tube": (lambda p: _minus(_cylinder(p, 0.3, -0.4, 0.4), _cylinder(p, 0.22, -0.6, 0.6)), 0),
    "flask": (lambda p: _minus(_sphere(p, 0.4), _sphere(p, 0.33), _cylinder(p, 0.12, 0.0, 0.6)), 2),
    "drilled cube": (
        lambda p: _minus(
            _box(p, (0.35,) * 3), *(_cylinder(p[:, axes], 0.12, -1, 1) for axes in ([0, 1, 2], [1, 2, 0], [2, 0, 1]))
        ),
        -8,
    ),
    "table": (_table, 2),
    "ladder": (_ladder, -4),
    "stairs": (_stairs, 2),
    "snowman": (_snowman, 2),
    "three balls": (lambda p: _union(*(_sphere(p, 0.12, (x, 0, 0)) for x in (-0.3, 0.0, 0.3))), 6),
    "L": (lambda p: _union(_box(p, (0.4, 0.1, 0.1), (0, 0, -0.3)), _box(p, (0.1, 0.1, 0.4), (-0.3, 0, 0.0))), 2),
}


@dataclass(frozen=True)
class Result:
    """What became of a damaged shape."""

    volume: float  # by the undamaged one's
    euler: int
    watertight: bool
    faces: int
    seconds: float


def punched(vertices: torch.Tensor, faces: torch.Tensor, random: torch.Generator, holes: int = _HOLES) -> torch.Tensor:
    """Faces left of holes of random sizes in random places, each in one wall: what hangs together in a ball."""
    diagonal = (vertices.amax(0) - vertices.amin(0)).norm()
    centre = vertices[faces.long()].mean(1)
    keep = torch.ones(len(faces), dtype=torch.bool)
    for _ in range(holes):
        start = int(torch.randint(len(faces), (1,), generator=random))
        radius = diagonal * (_SMALLEST + (_LARGEST - _SMALLEST) * torch.rand(1, generator=random)) / 2
        near = ((centre - centre[start]).norm(dim=1) <= radius).nonzero().squeeze(1)
        patch = Mesh.known(vertices, faces[near]).sheets.label
        keep[near[patch == patch[(near == start).nonzero()[0, 0]]]] = False
    return faces[keep]


def dropped(vertices: torch.Tensor, faces: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Faces left when voxels of the dual grid, each with its vertex, are missing."""
    gone = torch.rand(len(vertices), generator=random) < _DROPPED
    return faces[~gone[faces.long()].any(1)]


def damaged(name: str, damage: str, resolution: int, seed: int = 0) -> tuple[stages.Mesh, Mesh]:
    """A raw mesh, its faces wound anyhow, and what it was."""
    vertices, faces = surface_net(SHAPES[name][0], resolution)
    random, whole = torch.Generator().manual_seed(seed), Mesh(vertices, faces)
    if damage in ("holes", "both"):
        faces = punched(vertices, faces, random)
    if damage in ("voxels", "both"):
        faces = dropped(vertices, faces, random)
    turned = torch.rand(len(faces), 1, generator=random) < 0.5
    return stages.Mesh(vertices, torch.where(turned, faces.flip(1), faces), resolution=resolution), whole


def closed(name: str, damage: str, resolution: int, seed: int = 0, **options) -> Result:
    """A damaged shape made solid."""
    raw, whole = damaged(name, damage, resolution, seed)
    start = time.perf_counter()
    options = {"shells": "solid", **options}
    made = stages.process_mesh(Runtime(torch.device("cpu"), stages.table()), raw, 10**7, **options).facts["mesh"]
    seconds = time.perf_counter() - start
    volume = (made["volume"] or float("nan")) / _volume(whole)
    return Result(volume, made["euler"], made["watertight"], made["faces"], seconds)


def _volume(mesh: Mesh) -> float:
    a, b, c = mesh.vertices.double()[mesh.faces.long()].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--resolution", type=int, default=96)
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--first-seed", type=int, default=0)
    options.add_argument("--shape", nargs="+", default=list(SHAPES))
    options.add_argument("--damage", nargs="+", default=["holes", "voxels", "both"])
    given = options.parse_args()
    print("| shape | damage | seed | volume by the truth's | Euler number (truth) | watertight | seconds |")
    print("|---|---|--:|--:|--:|---|--:|")
    right = {"volume": 0, "Euler number": 0, "both": 0}
    count = 0
    for name in given.shape:
        for damage in given.damage:
            for seed in range(given.first_seed, given.first_seed + given.seeds):
                found = closed(name, damage, given.resolution, seed)
                euler = SHAPES[name][1]
                cells = f"{found.volume:.4f} | {found.euler} ({euler}) | {found.watertight} | {found.seconds:.1f}"
                print(f"| {name} | {damage} | {seed} | {cells} |", flush=True)
                good = abs(found.volume - 1) < 0.01, found.euler == euler
                right["volume"] += good[0]
                right["Euler number"] += good[1]
                right["both"] += all(good)
                count += 1
    print("\n" + ", ".join(f"{key} right: {number} of {count}" for key, number in right.items()))


if __name__ == "__main__":
    main()
