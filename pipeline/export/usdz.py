"""USDZ through usd-core (optional, requirements-usdz.txt): a mesh with a UsdPreviewSurface, Y up, in metres."""

from __future__ import annotations

import io
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..errors import OutputError
from ..mesh.used import extent
from ..srgb import srgb_to_linear
from .formats import Contents, Files, Format
from .scene import Geometry, Material, Scene

_CUTOFF = 0.5  # of alpha, for AlphaMode.MASK


def unavailable_reason() -> str:
    """ "" if usd-core can be imported, else the reason to show."""
    return "" if find_spec("pxr") else "usd-core is not installed; pip install -r requirements-usdz.txt"


def render(scene: Scene, stem: str) -> Files:
    from pxr import Usd, UsdGeom, UsdUtils

    images = scene.material.images
    with tempfile.TemporaryDirectory() as folder:
        for name, data in images.items():
            Path(folder, f"{name}.png").write_bytes(data)
        stage = Usd.Stage.CreateNew(str(Path(folder, "scene.usdc")))
        UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
        UsdGeom.SetStageMetersPerUnit(stage, 1.0)
        root = UsdGeom.Xform.Define(stage, "/Object")
        stage.SetDefaultPrim(root.GetPrim())
        root.GetPrim().SetDisplayName(scene.name)
        _mesh(stage, scene.levels[0], scene.material, list(images))
        stage.GetRootLayer().Save()
        package = Path(folder, "scene.usdz")
        UsdUtils.CreateNewUsdzPackage(str(Path(folder, "scene.usdc")), str(package))
        return {f"{stem}.usdz": package.read_bytes()}


def _mesh(stage, level: Geometry, material: Material, images: list[str]) -> None:
    from pxr import Sdf, UsdGeom, UsdShade, Vt

    mesh = UsdGeom.Mesh.Define(stage, "/Object/Mesh")
    vertices = np.ascontiguousarray(level.vertices, np.float32)
    mesh.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(vertices))
    mesh.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(np.stack(extent(vertices))))
    mesh.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(level.faces), 3, np.int32)))
    mesh.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(np.ascontiguousarray(level.faces.reshape(-1), np.int32)))
    mesh.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(level.normals, np.float32)))
    mesh.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    mesh.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    mesh.CreateDoubleSidedAttr(material.double_sided)
    primvars = UsdGeom.PrimvarsAPI(mesh)
    if level.uvs is not None:
        uvs = np.asarray(level.uvs, np.float32)
        up = np.ascontiguousarray(np.stack([uvs[:, 0], 1 - uvs[:, 1]], 1))  # USD's v goes up
        st = primvars.CreatePrimvar("st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.vertex)
        st.Set(Vt.Vec2fArray.FromNumpy(up))
    if level.colors is not None:
        linear = np.ascontiguousarray(srgb_to_linear(level.colors[:, :3] / 255), np.float32)
        shown = primvars.CreatePrimvar("displayColor", Sdf.ValueTypeNames.Color3fArray, UsdGeom.Tokens.vertex)
        shown.Set(Vt.Vec3fArray.FromNumpy(linear))
    UsdShade.MaterialBindingAPI.Apply(mesh.GetPrim()).Bind(_material(stage, material, images, level.colors is not None))


def _material(stage, material: Material, images: list[str], coloured: bool):
    from pxr import Sdf, UsdShade

    made = UsdShade.Material.Define(stage, "/Object/Material")
    surface = UsdShade.Shader.Define(stage, "/Object/Material/Surface")
    surface.CreateIdAttr("UsdPreviewSurface")
    made.CreateSurfaceOutput().ConnectToSource(surface.ConnectableAPI(), "surface")
    kinds = Sdf.ValueTypeNames

    def reader(name: str, kind: str, primvar: str, value):
        shader = UsdShade.Shader.Define(stage, f"/Object/Material/{name}")
        shader.CreateIdAttr(f"UsdPrimvarReader_{kind}")
        shader.CreateInput("varname", kinds.String).Set(primvar)
        shader.CreateOutput("result", value)
        return shader

    def texture(name: str, space: str):
        shader = UsdShade.Shader.Define(stage, f"/Object/Material/{name}")
        shader.CreateIdAttr("UsdUVTexture")
        shader.CreateInput("file", kinds.Asset).Set(f"./{name}.png")
        shader.CreateInput("sourceColorSpace", kinds.Token).Set(space)
        shader.CreateInput("st", kinds.Float2).ConnectToSource(uvs.ConnectableAPI(), "result")
        return shader

    def connect(to: str, kind, shader, output: str) -> None:
        surface.CreateInput(to, kind).ConnectToSource(shader.ConnectableAPI(), output)

    if not images:
        surface.CreateInput("metallic", kinds.Float).Set(float(material.metallic))
        surface.CreateInput("roughness", kinds.Float).Set(float(material.roughness))
        if coloured:
            connect("diffuseColor", kinds.Color3f, reader("Color", "float3", "displayColor", kinds.Float3), "result")
        else:
            surface.CreateInput("diffuseColor", kinds.Color3f).Set((0.8, 0.8, 0.8))
        return made
    uvs = reader("UVs", "float2", "st", kinds.Float2)
    base, packed = texture("base_color", "sRGB"), texture("occlusion_roughness_metallic", "raw")
    for shader, outputs in ((base, ("rgb", "a")), (packed, ("r", "g", "b"))):
        for output in outputs:
            shader.CreateOutput(output, kinds.Float3 if output == "rgb" else kinds.Float)
    connect("diffuseColor", kinds.Color3f, base, "rgb")
    connect("roughness", kinds.Float, packed, "g")
    connect("metallic", kinds.Float, packed, "b")
    connect("occlusion", kinds.Float, packed, "r")
    if material.translucent:
        connect("opacity", kinds.Float, base, "a")
    if material.alpha_mode.value == "MASK":
        surface.CreateInput("opacityThreshold", kinds.Float).Set(_CUTOFF)
    if "normal" in images:
        normal = texture("normal", "raw")
        normal.CreateInput("scale", kinds.Float4).Set((2.0, 2.0, 2.0, 1.0))
        normal.CreateInput("bias", kinds.Float4).Set((-1.0, -1.0, -1.0, 0.0))
        normal.CreateOutput("rgb", kinds.Float3)
        connect("normal", kinds.Normal3f, normal, "rgb")
    return made


def read(files: Files) -> Contents:
    from pxr import Tf, Usd, UsdGeom

    (data,) = files.values()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "scene.usdz")
        path.write_bytes(data)
        try:
            stage = Usd.Stage.Open(str(path))
        except Tf.ErrorException as error:
            raise OutputError("USD cannot open this USDZ") from error
        mesh = UsdGeom.Mesh(stage.GetPrimAtPath("/Object/Mesh"))
        vertices = np.array(mesh.GetPointsAttr().Get(), np.float64)
        faces = np.array(mesh.GetFaceVertexIndicesAttr().Get(), np.int64).reshape(-1, 3)
    with zipfile.ZipFile(io.BytesIO(data)) as package:
        images = {name: package.read(name) for name in package.namelist() if name.endswith(".png")}
    return Contents([(vertices, faces)], images)


FORMAT = Format("USDZ", render, read, y_up=True, unit=1.0, unavailable_reason=unavailable_reason)
