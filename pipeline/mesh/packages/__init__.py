"""Steps on meshes by packages that a user may have installed; none is needed."""
