"""The example mesh of the graphs: `python tests/example_mesh.py` writes assets/rocket.glb and assets/repaint.png.

The rocket is what the command line makes of assets/rocket.png; repaint.png is its base colour, transparent where the
graph repaint_part is to paint anew: above three quarters of its height.
"""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
MESH, MASK = ROOT / "assets" / "rocket.glb", ROOT / "assets" / "repaint.png"
MADE_WITH = ("--device", "cpu", "--faces", "1500", "--texture-size", "256")
ABOVE = 0.75


def base_color(mesh: Path) -> tuple[Image.Image, np.ndarray]:
    """The base colour texture of a GLB with one, and the height [S, S] of its texels in 0-1, NaN where no face is."""
    from pipeline.mesh.bake.bake import Texels
    from pipeline.mesh.bake.raster import rasterise
    from pipeline.mesh.io import read_scene

    scene = read_scene(mesh)
    (part,) = scene.parts
    document = scene.document
    texture = document.list("materials")[part.material]["pbrMetallicRoughness"]["baseColorTexture"]["index"]
    picture = Image.open(io.BytesIO(document.image(document.list("textures")[texture]["source"]))).convert("RGB")
    height = part.placed()[:, 1]
    height = torch.from_numpy((height - height.min()) / np.ptp(height))[:, None].float()
    faces = torch.from_numpy(part.faces)
    texels = Texels.of(torch.from_numpy(part.uvs), faces, picture.width, rasterise)
    return picture, texels.image(texels.at(height, faces, slice(None)))[:, :, 0].numpy()


def main() -> None:
    command = [sys.executable, "-m", "pipeline", "generate", "assets/rocket.png", "--output", str(MESH), *MADE_WITH]
    subprocess.run(command, cwd=ROOT, check=True)
    picture, height = base_color(MESH)
    picture.putalpha(Image.fromarray(np.uint8(255 * (height <= ABOVE))))
    picture.save(MASK, optimize=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
