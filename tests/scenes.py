"""glTF documents of several nodes for tests: transforms, negative scale, instances, tiles, materials, no UVs."""

import json
import struct
from pathlib import Path

import numpy as np

CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32) - 0.5
_SIDES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))


def cube(tile=(0, 0)):
    """Vertices [24, 3], UVs [24, 2] that lie in cells of a 3 x 2 atlas without overlap, faces [12, 3]."""
    vertices = np.concatenate([CUBE[list(side)] for side in _SIDES])
    square = np.array([[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]])
    uvs = np.concatenate([(square + np.array([k % 3, k // 3])) / [3, 2] for k in range(6)]) + np.array(tile)
    faces = np.concatenate([[[4 * k, 4 * k + 1, 4 * k + 2], [4 * k, 4 * k + 2, 4 * k + 3]] for k in range(6)])
    return vertices, uvs.astype(np.float32), faces


class Builder:
    """Puts a GLB together by hand, so that what reads it is not what wrote it."""

    def __init__(self):
        self.binary, self.json = bytearray(), {"asset": {"version": "2.0"}, "scene": 0, "nodes": [], "meshes": []}
        self.json |= {"scenes": [{"nodes": []}], "accessors": [], "bufferViews": [], "materials": []}

    def accessor(self, values, kind, component):
        self.binary += b"\0" * (-len(self.binary) % 4)
        view = {"buffer": 0, "byteOffset": len(self.binary), "byteLength": values.nbytes}
        self.binary += values.tobytes()
        self.json["bufferViews"].append(view)
        entry = {"bufferView": len(self.json["bufferViews"]) - 1, "componentType": component}
        entry |= {"count": len(values), "type": kind}
        if kind == "VEC3":
            entry |= {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
        self.json["accessors"].append(entry)
        return len(self.json["accessors"]) - 1

    def mesh(self, name, *primitives):
        """primitives: (vertices, uvs or None, faces, material or None)."""
        made = []
        for vertices, uvs, faces, material in primitives:
            attributes = {"POSITION": self.accessor(np.float32(vertices), "VEC3", 5126)}
            if uvs is not None:
                attributes["TEXCOORD_0"] = self.accessor(np.float32(uvs), "VEC2", 5126)
            one = {"attributes": attributes, "indices": self.accessor(np.uint16(faces).reshape(-1), "SCALAR", 5123)}
            made.append(one if material is None else {**one, "material": material})
        self.json["meshes"].append({"name": name, "primitives": made})
        return len(self.json["meshes"]) - 1

    def node(self, name, parent=None, **more):
        self.json["nodes"].append({"name": name, **more})
        number = len(self.json["nodes"]) - 1
        above = (
            self.json["scenes"][0]["nodes"] if parent is None else self.json["nodes"][parent].setdefault("children", [])
        )
        above.append(number)
        return number

    def material(self, name, **more):
        self.json["materials"].append({"name": name, **more})
        return len(self.json["materials"]) - 1

    def glb(self):
        document = {key: value for key, value in self.json.items() if value != []}
        if self.binary:
            document["buffers"] = [{"byteLength": len(self.binary)}]
        text = json.dumps(document).encode()
        text += b" " * (-len(text) % 4)
        body = struct.pack("<I4s", len(text), b"JSON") + text
        binary = bytes(self.binary) + b"\0" * (-len(self.binary) % 4)
        body += struct.pack("<I4s", len(binary), b"BIN\0") + binary if binary else b""
        return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body

    def save(self, path) -> Path:
        path.write_bytes(self.glb())
        return path


def furniture() -> Builder:
    """A seat and two mirrored legs (one mesh, two nodes) below a turned and moved root, a cushion in two UV tiles with
    two materials, a ball... of a cube without UVs, a camera."""
    scene = Builder()
    wood = scene.material("wood", pbrMetallicRoughness={"baseColorFactor": [1, 0, 0, 1]}, doubleSided=True)
    cloth = scene.material("cloth", alphaMode="BLEND")
    scene.json["cameras"] = [{"type": "perspective", "perspective": {"yfov": 1.0, "znear": 0.1}}]
    root = scene.node("furniture", translation=[100.0, -20.0, 7.0], rotation=[0.0, 0.3826834, 0.0, 0.9238795])
    vertices, uvs, faces = cube()
    seat = scene.mesh("seat", (vertices, uvs, faces, wood))
    scene.node("seat", root, mesh=seat, scale=[2.0, 0.2, 2.0])
    leg = scene.mesh("leg", (vertices, uvs, faces, wood))
    for name, x in (("left leg", -0.8), ("right leg", 0.8)):
        scene.node(name, root, mesh=leg, translation=[x, -0.8, 0.0], scale=[0.2 if x > 0 else -0.2, 1.4, 0.2])
    both = np.concatenate([uvs, uvs + np.float32([1, 0])]), np.concatenate([faces, faces + 24])
    stacked = np.concatenate([vertices * [1, 0.3, 1], vertices * [1, 0.3, 1] + [0, 0.35, 0]])
    cushion = scene.mesh(
        "cushion", (stacked, both[0], both[1], cloth), (vertices * 0.3 + [0, 0.8, 0], uvs, faces, wood)
    )
    scene.node("cushion", root, mesh=cushion, translation=[0.0, 0.5, 0.0])
    scene.node("bare", root, mesh=scene.mesh("bare", (vertices * 0.2 + [0.7, 0.3, 0.7], None, faces, None)))
    scene.node("camera", root, camera=0)
    return scene
