"""Closest points and rays."""
