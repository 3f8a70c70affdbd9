"""A mesh's counts, repairs and warnings as the lines of text that a node shows."""

from __future__ import annotations

from ...pipeline import stages
from ...pipeline.words import counted

# name in facts["cleaned"] -> the text for one, and for several
_REPAIRS = {
    "welded_vertices": ("vertex welded", "vertices welded"),
    "degenerate_faces": ("face without area removed", "faces without area removed"),
    "repeated_faces": ("repeated face removed", "repeated faces removed"),
    "non_manifold_edges": ("non-manifold edge parted", "non-manifold edges parted"),
    "small_components": ("speck removed", "specks removed"),
    "filled_holes": ("hole filled", "holes filled"),
    "turned_faces": ("face turned outward", "faces turned outward"),
}


def report_lines(mesh: stages.Mesh | stages.TexturedMesh) -> str:
    """Counts, repairs, textures and warnings, a line each."""
    plain, *coarser = [level.mesh for level in mesh.levels] if isinstance(mesh, stages.TexturedMesh) else mesh.levels
    facts = mesh.facts
    lines = [f"{len(plain.faces):,} faces, {len(plain.vertices):,} vertices"]
    if measured := facts.get("mesh"):
        lines[0] += (
            f", {counted(measured['components'], 'component')}, {'' if measured['watertight'] else 'not '}watertight"
        )
    if coarser:
        counts = [len(level.faces) for level in coarser]
        lines.append("Levels of detail: " + ", ".join(f"{count:,}" for count in counts) + " faces")
    repairs = facts.get("cleaned", {})
    if done := [counted(repairs[name], *words) for name, words in _REPAIRS.items() if repairs.get(name)]:
        lines.append("Repairs: " + ", ".join(done))
    lines += stages.hollow_lines(facts.get("shells", {}).get("hollow"))
    if isinstance(mesh, stages.TexturedMesh):
        charts = f", {counted(facts['charts'], 'chart')}" if "charts" in facts else ""
        lines.append(f"Textures of {len(mesh.maps)} pixels{charts}")
    return "\n".join([*lines, *(f"! {warning}" for warning in facts.get("warnings", ()))])


def latent_line(latent: stages.Latent) -> str:
    """Size and notes of a shape latent, a line each."""
    size = f"{counted(len(latent.sparse.voxels), 'latent voxel')}, {latent.resolution} voxels a side"
    return "\n".join([size, *(f"! {note}" for note in latent.origin.notes.splitlines())])
