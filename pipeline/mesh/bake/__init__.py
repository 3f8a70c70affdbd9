"""UV raster, and what is baked into its texels."""
