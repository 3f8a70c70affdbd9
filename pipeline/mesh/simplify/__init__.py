"""Fewer faces."""
