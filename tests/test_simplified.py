"""The command behind the table of simplified meshes prints what is true of a mesh that is known."""

import runpy
import sys

import numpy as np
import pytest
import trimesh
from meshes import needs_warp

pytestmark = needs_warp


@pytest.mark.parametrize("voxels", [0, 48])
def test_the_table_of_simplified_meshes(root, tmp_path, capsys, monkeypatch, voxels):
    ball = trimesh.creation.icosphere(4)
    np.savez(tmp_path / "ball.npz", v=ball.vertices, f=ball.faces)
    ball.export(tmp_path / "same.ply")
    script = str(root / "benchmarks" / "simplified.py")
    monkeypatch.setattr(sys, "argv", [script, str(tmp_path), "--faces", "800", "100000", "--voxels", str(voxels)])
    monkeypatch.setattr(sys, "path", list(sys.path))
    for other in ("pyvista", "pymeshlab"):
        monkeypatch.setitem(sys.modules, other, None)
    runpy.run_path(script, run_name="__main__")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 2 meshes")]
    assert len(rows) == 1 and rows[0].startswith("| 2 meshes to 800, ours | ")
    mean, _, largest, slivers, crossing, _ = (each.strip() for each in rows[0].strip("|").split("|")[1:])
    assert 1 < float(mean) < 10 and float(mean) < float(largest) < 60 and slivers == "0.0 %" and crossing == "0"
