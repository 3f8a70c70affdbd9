"""Questions to a mesh: closest points, rays, winding numbers, crossing faces, thickness of walls."""
