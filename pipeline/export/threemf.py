"""3MF: triangles with colours and a unit, for printing; Z up. 3MF core specification 1.3, materials extension 1.2.

Its faces are connected by their vertices alone, so vertices at one place become one, and faces without area, which the
specification forbids, are left out.
"""

from __future__ import annotations

import io
import re
import zipfile
from xml.sax.saxutils import escape

import numpy as np

from ..errors import OutputError
from .formats import GENERATOR, Contents, Files, Format
from .scene import Scene

_CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
_COLOURS = "http://schemas.microsoft.com/3dmanufacturing/material/2015/02"
_MODEL = "3D/3dmodel.model"
_PARTS = {
    "[Content_Types].xml": '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/></Types>',
    "_rels/.rels": '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    f'<Relationship Target="/{_MODEL}" Id="rel0" Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/>'
    "</Relationships>",
}
_VERTEX = re.compile(rb'<vertex x="([^"]+)" y="([^"]+)" z="([^"]+)"')
_TRIANGLE = re.compile(rb'<triangle v1="(\d+)" v2="(\d+)" v3="(\d+)"')


def render(scene: Scene, stem: str) -> Files:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as package:
        for name, text in {**_PARTS, _MODEL: _model(scene)}.items():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # no clock: the same scene gives the same bytes
            entry.compress_type = zipfile.ZIP_DEFLATED
            package.writestr(entry, text)
    return {f"{stem}.3mf": buffer.getvalue()}


def _model(scene: Scene) -> str:
    (level,), colors = scene.levels, scene.vertex_colors(scene.levels[0])
    places, place = level.welded()
    faces = place[level.faces]
    solid = (faces != np.roll(faces, 1, axis=1)).all(1)
    faces, corners = faces[solid], level.faces[solid]
    if len(faces) == 0:
        raise OutputError("All faces of the mesh have their corners in one place; there is nothing to print.")
    group, pattern = "", '<triangle v1="%d" v2="%d" v3="%d"/>'
    if colors is not None:
        palette, own = np.unique(colors, axis=0, return_inverse=True)
        listed = "".join(f'<m:color color="#{bytes(each).hex().upper()}"/>' for each in palette.tolist())
        group = f'<m:colorgroup id="2">{listed}</m:colorgroup>'
        faces = np.concatenate([faces, own.reshape(-1)[corners]], 1)
        pattern = '<triangle v1="%d" v2="%d" v3="%d" pid="2" p1="%d" p2="%d" p3="%d"/>'
    unit = "meter" if scene.metres is None else "millimeter"
    default = ' pid="2" pindex="0"' if group else ""
    name = escape(scene.name, {'"': "&quot;"})
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<model unit="{unit}" xml:lang="en-US" xmlns="{_CORE}" '
        f'xmlns:m="{_COLOURS}"><metadata name="Application">{GENERATOR}</metadata><resources>{group}'
        f'<object id="1" type="model" name="{name}"{default}><mesh><vertices>'
        + _filled('<vertex x="%.9g" y="%.9g" z="%.9g"/>', places)
        + "</vertices><triangles>"
        + _filled(pattern, faces)
        + '</triangles></mesh></object></resources><build><item objectid="1"/></build></model>'
    )


def _filled(pattern: str, rows: np.ndarray) -> str:
    return pattern * len(rows) % tuple(rows.reshape(-1).tolist())


def read(files: Files) -> Contents:
    """Files of this writer alone."""
    (data,) = files.values()
    with zipfile.ZipFile(io.BytesIO(data)) as package:  # compares checksums
        text = package.read(_MODEL)
    vertices = np.array(_VERTEX.findall(text), np.float64).reshape(-1, 3)
    return Contents([(vertices, np.array(_TRIANGLE.findall(text), np.int64).reshape(-1, 3))])


FORMAT = Format("3MF with colours and units", render, read, textures=False, welded=True)
