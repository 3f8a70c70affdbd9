"""Stand-ins for compiled packages that need a GPU: the same names, arguments and results, in torch on the CPU.

Each asserts of its arguments what the package asks for, so that a row's calls are checked where it cannot be installed.
"""

from importlib.machinery import ModuleSpec
from types import ModuleType

import torch
import torch.nn.functional as F

from pipeline.mesh.grid.dual_grid import dual_grid_to_mesh, mesh_to_dual_grid
from pipeline.sparse import Voxels


def module(name: str, **members) -> ModuleType:
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)  # for those who ask whether it is here
    vars(made).update(members)
    return made


# --- FlexGEMM


class Neighbours:
    """What the package's convolution returns to be given again."""

    def __init__(self, coords: torch.Tensor) -> None:
        self.coords = coords


def sparse_submanifold_conv3d(feats, coords, shape, weight, bias=None, neighbor_cache=None, dilation=(1, 1, 1)):
    """By a dense convolution of the whole box. feats [N, Ci], coords [N, 4], shape (B, C, x, y, z)."""
    assert feats.is_contiguous() and coords.is_contiguous() and weight.is_contiguous()
    assert coords.dtype == torch.int32 and feats.dtype == weight.dtype and weight.shape[1:4] == (3, 3, 3)
    assert not any(each.requires_grad for each in (feats, weight, bias) if each is not None)
    assert neighbor_cache is None or torch.equal(neighbor_cache.coords, coords)
    samples, _, *sides = shape
    assert bool((coords.amax(0) < torch.tensor([samples, *sides])).all())
    b, x, y, z = coords.long().unbind(1)
    dense = torch.zeros(samples, feats.shape[1], *sides)
    dense[b, :, x, y, z] = feats.float()
    bias = None if bias is None else bias.float()
    out = F.conv3d(dense, weight.permute(0, 4, 1, 2, 3).float(), bias, padding=1)
    return out[b, :, x, y, z].to(feats.dtype), neighbor_cache or Neighbours(coords)


# --- CuMesh


class _Steps:
    def __init__(self) -> None:
        self.vertices = self.faces = None

    def simplify_step(self, length: float, skinny: float, threshold: float, timing: bool) -> tuple[int, int]:
        """Takes nothing as long as the threshold is small, and then a tenth."""
        import fast_simplification  # not everywhere where the packages are

        if threshold > 1e-6:
            found = fast_simplification.simplify(self.vertices.numpy(), self.faces.numpy(), 0.1)
            self.vertices, self.faces = (torch.from_numpy(each) for each in found)
        return len(self.vertices), len(self.faces)


class CuMesh:
    def __init__(self) -> None:
        self.cu_mesh = _Steps()

    def init(self, vertices: torch.Tensor, faces: torch.Tensor) -> None:
        assert vertices.is_contiguous() and faces.is_contiguous()
        assert vertices.dtype == torch.float32 and faces.dtype == torch.int32
        assert float(vertices.min()) >= 0 and float(vertices.max()) <= 1  # its thresholds are for a mesh of one unit
        self.cu_mesh.vertices, self.cu_mesh.faces = vertices, faces

    def read(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.cu_mesh.vertices.float(), self.cu_mesh.faces.int()


# --- nvdiffrast


class RasterizeCudaContext:
    def __init__(self, device=None) -> None:
        assert device is not None  # else it is for the current one, whichever the tensors are on


def rasterize(context, pos, tri, resolution, ranges=None, grad_db=True):
    """pos [1, V, 4] clip space, tri [F, 3] int32; [1, height, width, 4] (u, v, z / w, number of the triangle + 1)."""
    assert isinstance(context, RasterizeCudaContext) and pos.is_contiguous() and tri.is_contiguous()
    assert pos.dtype == torch.float32 and tri.dtype == torch.int32 and pos.ndim == 3 and len(tri) > 0
    height, width = resolution
    exact = ((pos[0, :, :2] + 1) / 2 * torch.tensor([width, height])).double()
    rounded = (exact * 16).round() / 16
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    centres = torch.stack([x, y], 2).reshape(-1, 2).double()
    out, depth = torch.zeros(height * width, 4), torch.full((height * width,), torch.inf)
    for number, corners in enumerate(tri.long()):
        areas = _areas(rounded[corners], centres)
        z = pos[0, corners, 2].mean()
        inside = ((areas >= 0).all(1) | (areas <= 0).all(1)) & (areas.sum(1) != 0) & (z <= depth)
        weights = _areas(exact[corners], centres)
        weights = (weights / weights.sum(1, keepdim=True)).clamp(0, 1).float()
        depth = torch.where(inside, z, depth)
        rest = torch.stack([z, torch.tensor(number + 1.0)]).expand(len(centres), 2)
        out = torch.where(inside[:, None], torch.cat([weights[:, :2], rest], 1), out)
    return out.reshape(1, height, width, 4), torch.empty(1, height, width, 0)


def _areas(corners: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """[N, 3] twice the signed areas of a point and the side opposite to each corner."""
    sides = [(corners[(k + 1) % 3], corners[(k + 2) % 3]) for k in range(3)]
    return torch.stack([_cross(b - a, points - a) for a, b in sides], 1)


def _cross(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


# --- o-voxel


def mesh_to_flexible_dual_grid(
    vertices, faces, voxel_size=None, grid_size=None, aabb=None, face_weight=1.0, boundary_weight=1.0,
    regularization_weight=0.1, timing=False,
):  # fmt: skip
    """Rows in no order; vertices in the units of the box, from its corner."""
    assert aabb == [[-0.5] * 3, [0.5] * 3] and isinstance(grid_size, int)
    assert vertices.dtype == torch.float32 and faces.dtype == torch.int32
    grid = mesh_to_dual_grid(
        vertices.numpy(), faces.numpy(), grid_size, face_weight, boundary_weight, regularization_weight
    )
    shuffled = torch.randperm(len(grid.coords), generator=torch.Generator().manual_seed(0))
    corners = (torch.from_numpy(grid.coords) + torch.from_numpy(grid.offsets)) / grid_size
    return torch.from_numpy(grid.coords)[shuffled], corners[shuffled], torch.from_numpy(grid.crossed)[shuffled]


def flexible_dual_grid_to_mesh(
    coords, dual_vertices, intersected_flag, split_weight, aabb, voxel_size=None, grid_size=None, train=False
):
    """coords [N, 3] int32; the number of a voxel of the box must fit into the type of grid_size."""
    assert aabb == [[-0.5] * 3, [0.5] * 3] and grid_size.tolist() == [int(grid_size[0])] * 3 and not train
    assert int(grid_size.prod()) == int(grid_size[0]) ** 3 and coords.dtype == torch.int32
    resolution = int(grid_size[0])
    return dual_grid_to_mesh(Voxels.single(coords), dual_vertices, intersected_flag, resolution, split_weight)


class TritonError(Exception):
    """What Triton raises; FlexGEMM's kernels are Triton's."""


PACKAGES = {
    "flex_gemm": {
        "flex_gemm.ops.spconv": {"sparse_submanifold_conv3d": sparse_submanifold_conv3d},
        "triton.errors": {"TritonError": TritonError},
    },
    "cumesh": {"cumesh": {"CuMesh": CuMesh}},
    "nvdiffrast": {"nvdiffrast.torch": {"RasterizeCudaContext": RasterizeCudaContext, "rasterize": rasterize}},
    "o_voxel": {
        "o_voxel.convert": {
            "mesh_to_flexible_dual_grid": mesh_to_flexible_dual_grid,
            "flexible_dual_grid_to_mesh": flexible_dual_grid_to_mesh,
        }
    },
}
