"""As much of ComfyUI's `comfy_api.latest` as the nodes use: sockets, schemas, the base of nodes, core's 3D values.

Names, parameters and behaviour as in ComfyUI (test_host.py compares them with a real one). What ComfyUI only hands on
to editors is kept as it was given.
"""

from enum import Enum
from types import SimpleNamespace


class Socket:
    """An input or an output: its id and whatever else it was given."""

    io_type = ""

    def __init__(self, id=None, *, types=(), **options):
        self.id, self.options, self.extra_dict = id, options, {}
        self.default, self.optional = options.get("default"), bool(options.get("optional"))
        if types:
            self.io_type = ",".join(each.Output.io_type for each in types)


class Schema(SimpleNamespace):
    """A node's schema: whatever it was given."""

    def __init__(self, *, node_id, search_aliases=(), hidden=(), is_input_list=False, is_output_node=False, **options):
        super().__init__(
            node_id=node_id,
            search_aliases=search_aliases,
            hidden=list(hidden),
            is_input_list=is_input_list,
            is_output_node=is_output_node,
            **options,
        )


class Hidden(str, Enum):
    """What a node may ask for besides its inputs."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"
    dynprompt = "DYNPROMPT"


class HiddenHolder:
    """The hidden values of a running node; None for what it did not ask for."""

    def __init__(self, values):
        self._values = values

    def __getattr__(self, key):
        return self._values.get(Hidden[key]) if key in Hidden.__members__ else None


class NodeOutput:
    def __init__(self, *args, ui=None, expand=None, block_execution=None):
        self.args, self.ui, self.expand, self.block_execution = args, ui, expand, block_execution


class ComfyNode:
    hidden = None  # HiddenHolder of the class that runs

    @classmethod
    def GET_SCHEMA(cls):
        return cls.define_schema()

    @classmethod
    def PREPARE_CLASS_CLONE(cls, v3_data):
        """The class that runs: nothing that a run sets stays with the node."""
        return type(f"{cls.__name__}Clone", (cls,), {"hidden": HiddenHolder(v3_data["hidden_inputs"])})


class ComfyExtension:
    async def on_load(self):
        pass


class MESH:
    """A batch of meshes: vertices [B, V, 3], faces [B, F, 3]."""

    def __init__(
        self,
        vertices,
        faces,
        uvs=None,
        vertex_colors=None,
        texture=None,
        metallic_roughness=None,
        vertex_counts=None,
        face_counts=None,
        unlit=False,
        normals=None,
        tangents=None,
        normal_map=None,
        occlusion_in_mr=False,
        material=None,
        emissive=None,
    ):
        assert (vertex_counts is None) == (face_counts is None)
        vars(self).update({name: value for name, value in locals().items() if name != "self"})


class VOXEL:
    def __init__(self, data, voxel_colors=None, resolution=None):
        self.data, self.voxel_colors, self.resolution = data, voxel_colors, resolution


class File3D:
    def __init__(self, source, file_format=""):
        self._source, self.format = source, file_format

    def get_source(self):
        return self._source


def custom(io_type):
    """A socket type."""
    return SimpleNamespace(
        Input=type("Input", (Socket,), {"io_type": io_type}), Output=type("Output", (Socket,), {"io_type": io_type})
    )


def io():
    """comfy_api.latest.io."""
    names = {"Int": "INT", "Float": "FLOAT", "String": "STRING", "Boolean": "BOOLEAN", "Combo": "COMBO"}
    names |= {"Image": "IMAGE", "Mask": "MASK", "Mesh": "MESH", "Voxel": "VOXEL", "Latent": "LATENT", "MultiType": ""}
    types = {name: custom(io_type) for name, io_type in names.items()}
    classes = {"Schema": Schema, "ComfyNode": ComfyNode, "Input": Socket, "NodeOutput": NodeOutput, "Hidden": Hidden}
    return SimpleNamespace(Custom=custom, File3DGLB=custom("FILE_3D_GLB"), **types, **classes)


Types = SimpleNamespace(MESH=MESH, VOXEL=VOXEL, File3D=File3D)
