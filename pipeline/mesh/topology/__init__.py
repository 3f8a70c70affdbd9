"""Half-edges, components, orientation, non-manifold edges and vertices."""
