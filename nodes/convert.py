"""Our meshes and voxels to ComfyUI's own types and back, so that its mesh nodes work on them.

Our world has Z up; ComfyUI's meshes, as glTF, have Y up: (x, y, z) becomes (x, z, -y).
"""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..pipeline import stages
from ..pipeline.errors import EmptyResultError, SettingsError
from ..pipeline.srgb import srgb_to_linear
from .bake import maps
from .sockets import CATEGORY, Mesh, TexturedMesh, Voxels, aliases, node_schema

_FINEST = 128  # cells along a side of a dense grid


class MeshToCore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2MeshToCore",
            display_name="TRELLIS.2 Mesh to ComfyUI",
            category=CATEGORY,
            **aliases("mesh converter, to core mesh, convert mesh"),
            description="A mesh for ComfyUI's own mesh nodes; with UVs and textures if it has them and this ComfyUI "
            "knows them (opaque: ComfyUI's meshes hold no alpha).",
            inputs=[
                io.MultiType.Input(
                    "mesh", types=[Mesh, TexturedMesh], tooltip="From TRELLIS.2 Process Mesh or Bake Texture."
                )
            ],
            outputs=[io.Mesh.Output(display_name="mesh", tooltip="ComfyUI's MESH, Y up.")],
        )

    @classmethod
    def execute(cls, mesh: stages.Mesh | stages.TexturedMesh) -> io.NodeOutput:
        more = {}
        if isinstance(mesh, stages.TexturedMesh):
            first = mesh.levels[0]
            plain = first.mesh
            base_color, packed, _, normal_map = maps(mesh)
            more = {"uvs": first.uvs[None], "normals": _y_up(first.normals)[None], "texture": base_color}
            more |= {"metallic_roughness": packed, "occlusion_in_mr": mesh.occlusion is not None}
            if first.tangents is not None:
                tangents = torch.cat([_y_up(first.tangents[:, :3]), first.tangents[:, 3:]], 1)
                more |= {"normal_map": normal_map, "tangents": tangents[None]}
        else:
            plain = mesh
            if mesh.attrs is not None:
                srgb = mesh.attrs[None, :, stages.BASE_COLOR].cpu().numpy()
                more = {"vertex_colors": torch.from_numpy(srgb_to_linear(srgb)).float()}
        arrays = _y_up(plain.vertices)[None], plain.faces.long()[None]
        try:
            return io.NodeOutput(_core_type("MESH")(*arrays, **more))
        except TypeError:  # hosts before 2026 know vertices and faces only
            return io.NodeOutput(_core_type("MESH")(*arrays))


class MeshFromCore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2MeshFromCore",
            display_name="TRELLIS.2 Mesh from ComfyUI",
            category=CATEGORY,
            **aliases("mesh converter, from core mesh, convert mesh"),
            description="A mesh of ComfyUI's own nodes for ours, with its UVs, which Bake Texture can keep. Its "
            "textures stay behind, as Bake Texture makes new ones from the voxels.",
            inputs=[io.Mesh.Input("core_mesh", tooltip="ComfyUI's MESH with one mesh, Y up.")],
            outputs=[Mesh.Output(display_name="mesh", tooltip="For Process Mesh, Bake Texture or Export GLB.")],
        )

    @classmethod
    def execute(cls, core_mesh) -> io.NodeOutput:
        if len(core_mesh.vertices) != 1:
            raise SettingsError(f"The mesh batch holds {len(core_mesh.vertices)} meshes; give one at a time.")
        vertices, faces = core_mesh.vertices[0], core_mesh.faces[0]
        if getattr(core_mesh, "vertex_counts", None) is not None:  # padded
            vertices = vertices[: int(core_mesh.vertex_counts[0])]
            faces = faces[: int(core_mesh.face_counts[0])]
        if len(faces) == 0:
            raise EmptyResultError("The mesh has no faces.")
        if int(faces.min()) < 0 or int(faces.max()) >= len(vertices):
            raise SettingsError(
                f"The mesh's faces name vertices {int(faces.min())} to {int(faces.max())}; it has {len(vertices)}."
            )
        x, y, z = vertices.float().unbind(1)
        uvs = getattr(core_mesh, "uvs", None)
        uvs = None if uvs is None else uvs[0, : len(vertices)].float()
        return io.NodeOutput(stages.Mesh(torch.stack([x, -z, y], 1), faces.int(), uvs=uvs))


class VoxelsToCore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2VoxelsToCore",
            display_name="TRELLIS.2 Voxels to ComfyUI",
            category=CATEGORY,
            **aliases("voxel converter, to core voxel, convert voxels"),
            description="Material voxels for ComfyUI's own voxel nodes: with all six channels where this ComfyUI "
            f"knows coloured voxels, as an occupancy grid of at most {_FINEST} for Voxel to Mesh.",
            inputs=[Voxels.Input("voxels", tooltip="From TRELLIS.2 Decode Texture.")],
            outputs=[io.Voxel.Output(display_name="voxel", tooltip="ComfyUI's VOXEL, Y up.")],
        )

    @classmethod
    def execute(cls, voxels: stages.PBRVoxels) -> io.NodeOutput:
        x, y, z = voxels.sparse.voxels.xyz.unbind(1)
        coords = torch.stack([torch.zeros_like(x), x, z, voxels.resolution - 1 - y], 1)
        voxel = _core_type("VOXEL")
        try:
            data = coords.as_subclass(_Coordinates)
            data.resolution = voxels.resolution
            return io.NodeOutput(voxel(data, voxels.sparse.feats.clamp(0, 1), voxels.resolution))
        except TypeError:  # hosts before 2026 know dense grids only
            return io.NodeOutput(voxel(_dense(coords, voxels.resolution)))


class _Coordinates(torch.Tensor):
    """Coordinates of coloured voxels that core's Voxel to Mesh, which goes through grids one by one, takes as a grid.

    ComfyUI has one VOXEL for both: its nodes for coloured voxels index and slice `data` [T, 4], while Voxel to Mesh
    iterates over `data` [B, D, H, W].
    """

    # results are plain tensors; torch declares another signature than its own function has
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    resolution: int

    def __iter__(self):
        return iter(_dense(self, self.resolution))


def _dense(coords: torch.Tensor, resolution: int) -> torch.Tensor:
    """Voxels [T, 4] of one batch, Y up -> occupancy [1, Z, Y, X], of at most _FINEST along a side: Voxel to Mesh
    reverses the axes, and its memory and time grow with the whole grid."""
    factor = -(-resolution // _FINEST)
    side = -(-resolution // factor)
    x, y, z = (coords[:, 1:].long() // factor).unbind(1)
    grid = torch.zeros(1, side, side, side)
    grid[0, z, y, x] = 1
    return grid


def _y_up(vectors: torch.Tensor) -> torch.Tensor:
    """[N, 3] from Z up to Y up."""
    x, y, z = vectors.unbind(1)
    return torch.stack([x, z, -y], 1)


def _core_type(name: str) -> type:
    """ComfyUI's class MESH or VOXEL; before 2026 they lived beside the Hunyuan3D nodes."""
    try:
        from comfy_api.latest import Types

        return getattr(Types, name)
    except (ImportError, AttributeError):
        from comfy_extras import nodes_hunyuan3d

        return getattr(nodes_hunyuan3d, name)
