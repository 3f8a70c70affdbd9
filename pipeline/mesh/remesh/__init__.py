"""Surfaces made anew: dual grid, outer shell, closed surface."""
